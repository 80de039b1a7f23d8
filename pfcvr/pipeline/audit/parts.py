"""Audits of parts: train images without any, parts that are hardly ever found, origin not recorded."""

from collections import Counter
from collections.abc import Iterator

from pfcvr.pipeline.audit import Finding, Tally
from pfcvr.pipeline.joined import JoinedImage
from pfcvr.records import PARTS, PEOPLE, Part

LOWEST_COVERAGE = 0.1
WITHOUT_MODEL = frozenset({"import", PEOPLE})


class PartsAudit:
    """Looks at one image after the other; ``findings`` sums up."""

    def __init__(self, require_parts: bool) -> None:
        self._require_parts = require_parts
        self._images = 0
        self._images_with: Counter[Part] = Counter()
        self._train_without, self._without, self._no_origin = Tally(), Tally(), Tally()

    def look_at(self, joined: JoinedImage) -> None:
        """Take one image into account."""
        self._images += 1
        found = {instance.part for instance in joined.parts.instances} if joined.parts is not None else set()
        self._images_with.update(found)
        if not found:
            self._without.add_image(joined.image.image_id)
            if joined.split == "train":
                self._train_without.add_image(joined.image.image_id)
        if joined.parts is not None:
            origin = joined.parts.origin
            if (
                origin.detector not in WITHOUT_MODEL
                and origin.detector_model is None
                and origin.segmenter_model is None
            ):
                self._no_origin.add_image(joined.image.image_id)

    def findings(self) -> Iterator[Finding]:
        """Everything found, once all images were looked at."""
        if self._require_parts:
            yield from self._train_without.finding(
                "train_without_parts", "failure", "train images have no part; run pfcvr-data parts on them"
            )
        yield from self._no_origin.finding(
            "missing_provenance", "failure", "images have parts of a detector without the name of its model"
        )
        if self._images_with.total() == 0:
            sentence = "images and not one with a part, which part-level retrieval needs; run pfcvr-data parts"
            yield Finding("no_parts", "warning", self._images, sentence)
            return
        shares = {part: self._images_with[part] / self._images for part in PARTS}
        rare = [part for part in PARTS if shares[part] < LOWEST_COVERAGE]
        if rare:
            listed = ", ".join(f"{part} {shares[part]:.1%}" for part in rare)
            sentence = f"parts are seen on less than {LOWEST_COVERAGE:.0%} of the images: {listed}"
            yield Finding("low_coverage", "warning", len(rare), sentence)
        if self._without.count > LOWEST_COVERAGE * self._images:
            yield from self._without.finding("images_without_parts", "warning", "images have no part at all")
