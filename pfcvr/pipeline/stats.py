"""``pfcvr-data stats``: what a workspace holds, laid out as the paper's tables and beside the published sets.

Table II: images, identities, split, part categories, words a caption. Table I: how many identities have 1, 2, 3, ...
image-text pairs. Then what decides how hard retrieval by text is: length, vocabulary, truncation and distinctiveness of
captions, images by identity and camera, colors, types, parts, and how much of it people have looked at.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfcvr.config.base import read_toml
from pfcvr.pipeline.caption_tally import CaptionTally, without_gaps
from pfcvr.pipeline.joined import JoinedImage, has_parts, joined_images
from pfcvr.pipeline.part_report import PartTally, camera_view
from pfcvr.records import ATTRIBUTES, SPLITS, Part
from pfcvr.store import Workspace

if TYPE_CHECKING:
    import pandas as pd

TITLES = {"all": "All", "train": "Training", "val": "Validation", "test": "Test"}
OURS = "here"
VALUES_LISTED = 200
OTHER_VALUES = "(other)"
OF_SOURCE = ("color", "type")


@dataclass(frozen=True)
class Statistics:
    """Counts over a workspace; None where the stage they come from was not run.

    ``images`` and ``vehicles`` are counted by split and, under ``all``, together; so are ``pairs_by_split``, which map
    a number of image-caption pairs to how many vehicles have it. ``words`` and ``tokens`` histograms go by bins.
    ``attributes``: images by what ``source`` and ``captions`` say of color, type and viewpoint. ``people``: images with
    captions, parts, or either by people. ``parts`` is what ``PartTally`` counts, views being what captions say of the
    viewpoint, else cameras.
    """

    workspace: Path
    images: dict[str, int]
    vehicles: dict[str, int]
    captions: int | None
    words_per_caption: float | None
    words: dict[str, int]
    vocabulary: dict[str, Any] | None
    tokens: dict[str, Any] | None
    distinctiveness: dict[str, Any] | None
    pairs_by_split: dict[str, dict[int, int]]
    images_per_vehicle: dict[int, int]
    images_per_camera: dict[str, int]
    attributes: dict[str, dict[str, dict[str, int]]]
    parts: dict[str, Any] | None
    people: dict[str, int] | None

    @property
    def coverage(self) -> dict[Part, float] | None:
        """The share of images on which each part is seen, in [0, 1]."""
        return None if self.parts is None else self.parts["coverage"]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "workspace": str(self.workspace),
            "images": self.images,
            "vehicles": self.vehicles,
            "captions": self.captions,
            "words_per_caption": self.words_per_caption,
            "words_histogram": self.words,
            "vocabulary": self.vocabulary,
            "tokens": self.tokens,
            "distinctiveness": self.distinctiveness,
            "images_per_vehicle": _text_keys(self.images_per_vehicle),
            "images_per_camera": self.images_per_camera,
            "attributes": self.attributes,
            "coverage": self.coverage,
            "parts": self.parts,
            "people": self.people,
            "table_i": _text_keys(self.pairs_by_split["all"]),
            "table_i_by_split": {group: _text_keys(pairs) for group, pairs in self.pairs_by_split.items()},
            "table_ii": self._table_ii(),
            "published": published_sets(),
        }

    def text(self) -> str:
        """The tables for people."""
        from pfcvr.pipeline.stats_text import statistics_text

        return statistics_text(self)

    def overview(self) -> "pd.DataFrame":
        """Table II of the paper: one row a statistic, one column for this data set and each published one."""
        import pandas as pd

        ours = self._table_ii()
        columns = {OURS: ours, **published_sets()["table_ii"]}
        return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}, index=[*ours])

    def pairs(self) -> "pd.DataFrame":
        """Table I of the paper: vehicles by number of pairs, one row a partition of this and the published set."""
        import pandas as pd

        rows: dict[str, Mapping[int, int]] = {}
        for group, pairs in self.pairs_by_split.items():
            rows[f"{OURS}: {TITLES[group]}"] = pairs
        for name, partitions in published_sets()["table_i"].items():
            for title, published in partitions.items():
                rows[f"{name}: {title}"] = {int(number): count for number, count in published.items()}
        numbers = sorted({number for pairs in rows.values() for number in pairs})
        frame = pd.DataFrame({number: [pairs.get(number, 0) for pairs in rows.values()] for number in numbers}, [*rows])
        frame.columns.name = "pairs"
        return frame

    def _table_ii(self) -> dict[str, Any]:
        """Our column of Table II; None for what was not run."""
        rows: dict[str, Any] = {"Total Images": self.images["all"], "Total IDs": self.vehicles["all"]}
        for split in SPLITS:
            if split in self.images or split != "val":
                rows[f"{TITLES[split]} Images"] = self.images.get(split)
                rows[f"{TITLES[split]} IDs"] = self.vehicles.get(split)
        coverage = self.coverage
        rows["Part Categories"] = None if coverage is None else sum(share > 0 for share in coverage.values())
        rows["Avg. Words per Caption"] = self.words_per_caption
        return rows


def published_sets() -> dict[str, Any]:
    """Tables I and II as published, by name of the data set."""
    with resources.as_file(resources.files("pfcvr.pipeline") / "published_sets.toml") as path:
        return read_toml(path)


def run(workspace: Workspace) -> Statistics:
    """Count what ``workspace`` holds, in one pass over its sealed stages; raises WorkspaceError without an import."""
    counts = _Counts()
    tally = PartTally()
    with closing(CaptionTally()) as captions:
        for joined in joined_images(workspace):
            counts.look_at(joined)
            captions.look_at(joined)
            tally.look_at(joined.image.image_id, joined.parts, _view(joined))
        captioned = workspace.manifest("caption") is not None or captions.captions > 0
        return Statistics(
            workspace=workspace.root,
            images=_by_split(counts.images),
            vehicles=_by_split({group: len(pairs) for group, pairs in counts.pairs.items()}),
            captions=captions.captions if captioned else None,
            words_per_caption=captions.words_per_caption(),
            words=without_gaps(captions.words),
            vocabulary=captions.vocabulary() if captioned else None,
            tokens=captions.tokens(),
            distinctiveness=captions.distinctiveness() if captioned else None,
            pairs_by_split={group: _histogram(counts.pairs[group]) for group in _by_split(counts.images)},
            images_per_vehicle=_histogram(counts.images_of),
            images_per_camera=_commonest(counts.cameras, in_order=_by_number),
            attributes={
                who: {name: _commonest(values) for name, values in by_name.items()}
                for who, by_name in counts.attributes.items()
            },
            parts=tally.as_dict() if has_parts(workspace) else None,
            people=dict(counts.people) if workspace.manifest("merge") else None,
        )


class _Counts:
    """Counts over images; memory grows with vehicles, cameras and the values of attributes."""

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()
        self.images_of: Counter[str] = Counter()
        self.pairs: dict[str, Counter[str]] = {"all": Counter()}
        self.cameras: Counter[str] = Counter()
        self.people: Counter[str] = Counter(images=0, captions=0, parts=0)
        self.attributes: dict[str, dict[str, Counter[str]]] = {
            "source": {name: Counter() for name in OF_SOURCE},
            "captions": {name: Counter() for name in ATTRIBUTES},
        }

    def look_at(self, joined: JoinedImage) -> None:
        image, caption = joined.image, joined.caption
        for group in ("all", joined.split) if joined.split is not None else ("all",):
            self.images[group] += 1
            self.pairs.setdefault(group, Counter())[image.vehicle_id] += len(caption.texts) if caption else 0
        self.images_of[image.vehicle_id] += 1
        if image.camera_id is not None:
            self.cameras[image.camera_id] += 1
        for name in OF_SOURCE:
            self.attributes["source"][name].update(filter(None, [getattr(image, name)]))
        for name in ATTRIBUTES if caption is not None else ():
            self.attributes["captions"][name].update(filter(None, [caption.attributes.get(name)] if caption else []))
        if joined.human is not None:
            self.people["images"] += 1
            self.people["captions"] += joined.human.caption is not None
            self.people["parts"] += joined.human.parts is not None


def _view(joined: JoinedImage) -> str | None:
    """From where the vehicle is seen: by its caption, else by the camera."""
    viewpoint = joined.caption.attributes.get("viewpoint") if joined.caption is not None else None
    return viewpoint or camera_view(joined.image)


def _by_split(counts: Mapping[str, int]) -> dict[str, int]:
    return {group: counts[group] for group in ("all", *SPLITS) if group in counts}


def _histogram(counts: Mapping[str, int]) -> dict[int, int]:
    """How many have each count, by count."""
    return dict(sorted(Counter(counts.values()).items()))


def _by_count(item: tuple[str, int]) -> Any:
    return -item[1], item[0]


def _by_number(item: tuple[str, int]) -> Any:
    """Numbers inside names count as numbers: 2 before 10, c2 before c10."""
    pieces = re.split(r"(\d+)", item[0])
    return [int(piece) if number % 2 else piece for number, piece in enumerate(pieces)], item[0]


def _commonest(counts: Counter[str], in_order: Callable[[tuple[str, int]], Any] = _by_count) -> dict[str, int]:
    """The VALUES_LISTED values that most images have, ``in_order``; the images of all others are summed up."""
    ordered = sorted(counts.items(), key=_by_count)
    rest = sum(count for _, count in ordered[VALUES_LISTED:])
    return dict(sorted(ordered[:VALUES_LISTED], key=in_order)) | ({OTHER_VALUES: rest} if rest else {})


def _text_keys(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(number): count for number, count in counts.items()}
