"""Detector, segmenter, tidying and patch grid in one: images in, ImageParts or the reason why not out."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

from pfcvr import geometry
from pfcvr.backends import build_backend, load_backend
from pfcvr.config import PartsConfig
from pfcvr.errors import UsageError
from pfcvr.pipeline.detectors import DETECTORS, Detector
from pfcvr.pipeline.images import UnreadableImage
from pfcvr.pipeline.joined import PixelFiles, PixelsUnavailable
from pfcvr.pipeline.phrases import load_phrases
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.segmenters import NATURAL_SEGMENTER, SEGMENTERS, Segmenter
from pfcvr.pipeline.tidy_parts import flagged, tidy
from pfcvr.records import ImageParts, ImageRecord, PartInstance, PartsOrigin, Rejected
from pfcvr.store import Workspace


class PartFinder:
    """The backends that ``config`` names, ready to work.

    ``settings`` and ``inputs`` are what its answers depend on. Raises UsageError for backends or options that do not go
    together, and what the backends raise when they are made.
    """

    def __init__(self, workspace: Workspace, config: PartsConfig) -> None:
        self._config = config
        self._files = PixelFiles(workspace)
        self._one_at_a_time = threading.Lock()
        segmenter_name = _segmenter_name(config)
        _refuse_misfits(config, segmenter_name)
        with ExitStack() as opening:
            self.detector: Detector = build_backend("detector", DETECTORS, config.detector, workspace, config)
            opening.enter_context(closing(self.detector))
            self._segmenter: Segmenter | None = None
            if segmenter_name != "none":
                self._segmenter = build_backend("segmenter", SEGMENTERS, segmenter_name, config)
                opening.enter_context(closing(self._segmenter))
            self._open = opening.pop_all()
        self.reads_pixels = self.detector.reads_pixels or self._segmenter is not None
        self._describe(segmenter_name)

    def give_up(self) -> None:
        """The run ends early: nobody waits for a detector in another process any more."""
        if self.detector.reads_pixels:
            self.detector.close()

    def close(self) -> None:
        """Free what the backends hold."""
        self._open.close()

    def work_many(self, rows: Sequence[ImageRecord | Rejected]) -> list[ImageParts | Rejected]:
        """The parts of each image; what is rejected already, or cannot be read, comes out as Rejected."""
        prepared = [row if isinstance(row, Rejected) else self._picture(row) for row in rows]
        found = self._found([row for row in prepared if isinstance(row, Picture)])
        return [row if isinstance(row, Rejected) else self._result(row, next(found)) for row in prepared]

    def _describe(self, segmenter_name: str) -> None:
        config = self._config
        used: list[Detector | Segmenter] = [self.detector, *([self._segmenter] if self._segmenter else [])]
        self.inputs = {name: value for backend in used for name, value in backend.inputs.items()}
        self.settings: dict[str, Any] = {name: value for backend in used for name, value in backend.settings.items()}
        self.settings |= {"detector": config.detector, "grid": config.grid.model_dump()}
        origin = {"detector": config.detector, "detector_model": self.detector.model}
        if self._segmenter is not None:
            origin |= {"segmenter": segmenter_name, "segmenter_model": self._segmenter.model}
        self._overlap = 1.0
        if "phrases" in self.inputs:
            phrases = load_phrases(config)
            origin |= {"phrases": phrases.label, "phrases_sha256": phrases.sha256}
            self._overlap = phrases.thresholds.overlap
        self._origin = PartsOrigin.model_validate(origin)
        self.settings |= {name: value for name, value in origin.items() if value is not None}

    def _picture(self, image: ImageRecord) -> Picture | Rejected:
        """``image`` with its pixels decoded where a backend looks at them."""
        if not self.reads_pixels:
            return Picture(image, self._files.path(image))
        try:
            picture = Picture(image, self._files.path(image), self._files.read(image))
            picture.rgb.load()
        except (PixelsUnavailable, UnreadableImage) as problem:
            return _rejected(image, problem)
        return picture

    def _found(self, pictures: list[Picture]) -> Iterator[Found | Rejected]:
        """What is found on each picture; when some cannot be used they are looked at one by one."""
        try:
            with self._one_at_a_time:
                found: list[Found | Rejected] = [*self._look_at(pictures)] if pictures else []
        except UnreadableImage as problem:
            if len(pictures) > 1:
                found = [own for picture in pictures for own in self._found([picture])]
            else:
                found = [_rejected(pictures[0].record, problem)]
        return iter(found)

    def _look_at(self, pictures: list[Picture]) -> list[Found]:
        found = self.detector.detect(pictures)
        if self.detector.reads_pixels:
            found = self._tidied(pictures, found)
        if self._segmenter is None:
            return found
        if not self._segmenter.needs_boxes:
            return self._tidied(pictures, self._segmenter.segment(pictures, found))
        boxes = [Found(tuple(own for own in one.instances if own.mask is None), one.vehicle) for one in found]
        segmented = self._segmenter.segment(pictures, boxes)
        return [_masks_filled(one, masked.instances) for one, masked in zip(found, segmented, strict=True)]

    def _tidied(self, pictures: list[Picture], found: list[Found]) -> list[Found]:
        return [tidy(own, picture.size, self._overlap) for picture, own in zip(pictures, found, strict=True)]

    def _result(self, picture: Picture, found: Found | Rejected) -> ImageParts | Rejected:
        if isinstance(found, Rejected):
            return found
        grid = self._config.grid
        instances = flagged(found, picture.size)
        cells = found.grid or geometry.patch_grid(instances, picture.size, grid.rows, grid.cols, grid.coverage)
        return ImageParts(image_id=picture.record.image_id, instances=instances, grid=cells, origin=self._origin)


def _masks_filled(found: Found, masked: tuple[PartInstance, ...]) -> Found:
    """``found`` with ``masked`` in place of its instances without a mask."""
    fresh = iter(masked)
    return Found(tuple(next(fresh) if own.mask is None else own for own in found.instances), found.vehicle)


def _rejected(image: ImageRecord, problem: PixelsUnavailable | UnreadableImage) -> Rejected:
    return Rejected(stage="parts", subject=image.image_id, reason=problem.reason, detail=problem.detail)


def _segmenter_name(config: PartsConfig) -> str:
    return NATURAL_SEGMENTER[config.detector] if config.segmenter == "auto" else config.segmenter


def _refuse_misfits(config: PartsConfig, segmenter_name: str) -> None:
    """Raise UsageError for backends that do not go together and for options that none of them would read."""
    by_text = segmenter_name != "none" and not load_backend("segmenter", SEGMENTERS, segmenter_name).needs_boxes
    if by_text and config.detector != "none":
        raise UsageError(
            f"the segmenter '{segmenter_name}' finds the parts by itself; use it with --detector none, or choose "
            "--segmenter sam for the boxes of a detector"
        )
    if config.detector == "none" and not by_text:
        raise UsageError("without a detector nobody finds the parts; choose --segmenter sam3, or a --detector")
    unread = {
        "--annotations": config.annotations is not None and config.detector != "import",
        "--detector-model": config.detector_model is not None and config.detector in ("import", "none"),
        "--segmenter-model": config.segmenter_model is not None and segmenter_name == "none",
        "--phrases": config.phrases is not None and config.detector == "import",
        "--threshold": config.threshold is not None and config.detector == "import",
        "--device": config.device != "auto" and config.detector == "import" and segmenter_name == "none",
        "--precision": config.precision != "auto"
        and config.detector in ("import", "groundingdino")
        and segmenter_name == "none",
    }
    for option, is_unread in unread.items():
        if is_unread:
            raise UsageError(
                f"{option} is not read by detector '{config.detector}' with segmenter '{segmenter_name}'; "
                "leave it out, or choose the backend that it is meant for"
            )
