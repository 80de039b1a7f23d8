"""Sentences from what a source says of an image: colour, type, make, camera and time of day. Nothing is invented."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pfcvr.config import CaptionConfig
from pfcvr.files import sha256_json
from pfcvr.pipeline.captioners import ReadyCaptions, plain_text
from pfcvr.pipeline.captioners.forecast import tell_on_stderr
from pfcvr.records import Caption, CaptionOrigin, ImageRecord, Rejected
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

Choice = TypeVar("Choice")
NAME = "template-1"
TYPE_WORDS = {
    "suv": "SUV",
    "business purpose vehicle/mpv": "MPV",
    "light passenger vehicle": "light passenger vehicle",
    "large-sized bus": "large bus",
    "small-sized truck": "small truck",
    "hgv/large truck": "large truck",
    "bulk lorry/fence truck": "bulk lorry",
    "tank car/tanker": "tanker",
    "others": "vehicle",
}
SENTENCES = ("{vehicle}{seen}.", "This is {vehicle}{seen}.", "The picture shows {vehicle}{seen}.")
CAMERAS = ("seen by camera {camera}", "caught by camera {camera}", "in the view of camera {camera}")
DAY_PARTS = (
    (5, "at night"),
    (12, "in the morning"),
    (18, "in the afternoon"),
    (22, "in the evening"),
    (24, "at night"),
)
CLOCK = re.compile(r"(?<!\d)(\d{1,2}):\d{2}")


class TemplateCaptioner(ReadyCaptions):
    """One sentence an image; which wording is drawn from the seed and the image_id alone."""

    inputs: dict[str, str] = {}
    rejected_count = 0
    normal_reasons: frozenset[str] = frozenset()
    workers = 1

    def __init__(self, workspace: Workspace, config: CaptionConfig, options: RunOptions) -> None:
        wording = sha256_json([TYPE_WORDS, SENTENCES, CAMERAS, DAY_PARTS])
        self.settings: dict[str, Any] = {"seed": config.seed, "prompt_sha256": wording}
        self._seed = config.seed
        self._origin = CaptionOrigin(captioner="template", prompt=NAME, prompt_sha256=wording, seed=config.seed)
        if not options.quiet:
            tell_on_stderr("template captions do not tell vehicles apart; they are not to train on")

    def caption(self, image: ImageRecord) -> Caption:
        """A sentence with every fact that is known of ``image``, at the least that it shows a vehicle."""
        camera = self._draw(CAMERAS, image, "camera").format(camera=image.camera_id) if image.camera_id else None
        details = list(filter(None, [camera, day_part(image.timestamp)]))
        if self._draw((False, True), image, "order"):
            details.reverse()
        seen = "".join(f" {detail}" for detail in details)
        sentence = self._draw(SENTENCES, image, "sentence").format(vehicle=_a_vehicle(image), seen=seen)
        text = plain_text(sentence)
        return Caption(image_id=image.image_id, texts=(text[0].upper() + text[1:],), origin=self._origin)

    def rejected(self) -> Iterator[Rejected]:
        return iter(())

    def close(self) -> None:
        """Nothing was opened."""

    def _draw(self, choices: Sequence[Choice], image: ImageRecord, what: str) -> Choice:
        digest = hashlib.sha256(f"{self._seed}/{what}/{image.image_id}".encode()).digest()
        return choices[int.from_bytes(digest[:8], "big") % len(choices)]


def day_part(timestamp: str | None) -> str | None:
    """``in the morning`` and the like from the first clock time in a raw time stamp, or None."""
    found = CLOCK.search(timestamp or "")
    hour = int(found.group(1)) if found else 24
    return next((words for end, words in DAY_PARTS if hour < end), None)


def _a_vehicle(image: ImageRecord) -> str:
    kind = TYPE_WORDS.get((image.type or "others").lower(), (image.type or "").lower())
    words = " ".join(filter(None, [image.color, image.model, kind]))
    return f"{'an' if words[0].lower() in 'aeiou' or words.startswith(('SUV', 'MPV')) else 'a'} {words}"
