"""Part phrases: which words stand for which part, read from a TOML file whose hash goes into every record."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from pfcvr import geometry
from pfcvr.config import PartsConfig, Settings, parse, read_toml
from pfcvr.pipeline.pictures import Found
from pfcvr.records import PARTS, BoxXyxy, Part, PartInstance, Rle

VEHICLE: Literal["vehicle"] = "vehicle"
Target = Part | Literal["vehicle"]


def _without_stops(phrase: str) -> str:
    if "." in phrase or "?" in phrase:
        raise ValueError("a phrase has no stop or question mark, which end a phrase for the models")
    return " ".join(phrase.split())


Phrase = Annotated[
    str, StringConstraints(min_length=1, strip_whitespace=True, to_lower=True), AfterValidator(_without_stops)
]


class Thresholds(Settings):
    """Least scores: of a ``box``, of an ``instance`` found by text, of a pixel of its ``mask``; all in (0, 1).

    Of two boxes of one part with an intersection over union above ``overlap`` only the better is kept.
    """

    box: float = Field(0.3, gt=0, lt=1)
    instance: float = Field(0.5, gt=0, lt=1)
    mask: float = Field(0.5, gt=0, lt=1)
    overlap: float = Field(0.6, gt=0, le=1)


class _PhraseFile(Settings):
    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    vehicle: tuple[Phrase, ...] = ()
    phrases: dict[Part, Annotated[tuple[Phrase, ...], Field(min_length=1)]] = Field(min_length=1)
    thresholds: Thresholds = Thresholds()

    @model_validator(mode="after")
    def _each_phrase_means_one_thing(self) -> "_PhraseFile":
        every = [phrase for own in (*self.phrases.values(), self.vehicle) for phrase in own]
        twice = sorted({phrase for phrase in every if every.count(phrase) > 1})
        if twice:
            raise ValueError(f"the phrase '{twice[0]}' stands there twice; a phrase means one part")
        return self


@dataclass(frozen=True)
class Answer:
    """What a model found for phrase number ``phrase``: a box in pixels, a score in [0, 1], perhaps a mask."""

    phrase: int
    box_xyxy: BoxXyxy
    score: float
    mask: Rle | None = None


@dataclass(frozen=True)
class PartPhrases:
    """``texts[i]`` is asked for and stands for ``targets[i]``: a part, or the vehicle itself.

    Parts come in the order of PARTS, the vehicle last. ``sha256`` is of the file's bytes.
    """

    label: str
    sha256: str
    texts: tuple[str, ...]
    targets: tuple[Target, ...]
    thresholds: Thresholds

    def found(self, answers: Iterable[Answer]) -> Found:
        """The parts among ``answers`` to these phrases. Of several vehicles the largest is the one of the picture."""
        instances, vehicles = [], []
        for answer in answers:
            target = self.targets[answer.phrase]
            if target == VEHICLE:
                vehicles.append(answer.box_xyxy)
            else:
                instances.append(
                    PartInstance(part=target, box_xyxy=answer.box_xyxy, score=answer.score, mask=answer.mask)
                )
        return Found(tuple(instances), max(vehicles, key=geometry.box_area, default=None))


def load_phrases(config: PartsConfig) -> PartPhrases:
    """The phrases of ``config.phrases``, or the shipped ones; its thresholds as ``config.threshold`` changes them.

    Raises UsageError for a file that is missing or no TOML, an unknown field, a part without phrases, a phrase of two
    parts.
    """
    path = config.phrases or Path(str(files("pfcvr").joinpath("prompts", "parts.toml")))
    file = parse(_PhraseFile, read_toml(path), str(path))
    asked: list[tuple[str, Target]] = [(text, part) for part in PARTS for text in file.phrases.get(part, ())]
    asked += [(text, VEHICLE) for text in file.vehicle]
    thresholds = file.thresholds
    if config.threshold is not None:
        thresholds = thresholds.model_copy(update={"box": config.threshold, "instance": config.threshold})
    return PartPhrases(
        label=f"{file.name}-{file.version}",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        texts=tuple(text for text, _ in asked),
        targets=tuple(target for _, target in asked),
        thresholds=thresholds,
    )
