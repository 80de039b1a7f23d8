"""``pfcvr-data stats``: what a workspace holds, laid out as the paper's tables.

Table II: images, identities, split, part categories, words a caption. Table I: how many identities have 1, 2, 3, ...
image-text pairs. Beside them the words of captions as a histogram, and the share of images on which each part is seen.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfcvr.pipeline.joined import JoinedImage, joined_images
from pfcvr.pipeline.part_report import PartTally, camera_view, report_text, views_text
from pfcvr.records import SPLITS, Part
from pfcvr.store import Workspace

if TYPE_CHECKING:
    import pandas as pd

WORDS_PER_BIN = 10
BAR_WIDTH = 40


@dataclass(frozen=True)
class Statistics:
    """Counts over a workspace; None where the stage they come from was not run.

    ``images`` and ``vehicles`` are counted by split and, under ``all``, together. ``pairs_per_vehicle`` maps a number
    of image-caption pairs to how many vehicles have it; ``words`` a bin's first number of words to captions.
    ``parts`` is what ``PartTally`` counts, views being what captions say of the viewpoint, else cameras.
    """

    workspace: Path
    images: dict[str, int]
    vehicles: dict[str, int]
    captions: int | None
    words_per_caption: float | None
    words: dict[int, int]
    pairs_per_vehicle: dict[int, int]
    parts: dict[str, Any] | None

    @property
    def coverage(self) -> dict[Part, float] | None:
        """The share of images on which each part is seen, in [0, 1]."""
        return None if self.parts is None else self.parts["coverage"]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        tables = (("table_ii", self.overview()), ("table_i", self.pairs()))
        frames = {name: {str(key): value for key, value in frame.iloc[:, 0].items()} for name, frame in tables}
        return {
            "workspace": str(self.workspace),
            "images": self.images,
            "vehicles": self.vehicles,
            "captions": self.captions,
            "words_per_caption": self.words_per_caption,
            "words_histogram": {f"{start}-{start + WORDS_PER_BIN - 1}": count for start, count in self.words.items()},
            "coverage": self.coverage,
            "parts": self.parts,
            **frames,
        }

    def text(self) -> str:
        """The tables for people."""
        parts = [f"Table II: {self.workspace}", self.overview().to_string(header=False)]
        parts += ["", "Table I: identities by number of image-caption pairs", self.pairs().to_string()]
        if self.words:
            bars = {f"{start}-{start + WORDS_PER_BIN - 1}": count for start, count in self.words.items()}
            parts += ["", "Words per caption", _bars(bars, max(bars.values()))]
        if self.parts is not None:
            parts += ["", "Images on which a part is seen, in percent", views_text(self.parts), report_text(self.parts)]
        return "\n".join(parts)

    def overview(self) -> "pd.DataFrame":
        """Table II of the paper for this data set, one row a statistic."""
        import pandas as pd

        rows: dict[str, Any] = {"Total Images": self.images["all"], "Total IDs": self.vehicles["all"]}
        titles = {"train": "Training", "val": "Validation", "test": "Test"}
        for split in SPLITS:
            if split in self.images:
                rows |= {f"{titles[split]} Images": self.images[split], f"{titles[split]} IDs": self.vehicles[split]}
        rows["Part Categories"] = sum(share > 0 for share in (self.coverage or {}).values())
        rows["Avg. Words per Caption"] = self.words_per_caption
        return pd.DataFrame({"value": pd.Series(rows, dtype=object)})

    def pairs(self) -> "pd.DataFrame":
        """Table I of the paper for this data set, one row a number of pairs."""
        import pandas as pd

        frame = pd.DataFrame({"identities": pd.Series(self.pairs_per_vehicle, dtype="int64")})
        frame.index.name = "pairs"
        return frame


def run(workspace: Workspace) -> Statistics:
    """Count what ``workspace`` holds, in one pass over its sealed stages; raises WorkspaceError without an import."""
    images: Counter[str] = Counter()
    vehicles: dict[str, set[str]] = {}
    pairs: Counter[str] = Counter()
    words: Counter[int] = Counter()
    tally = PartTally()
    captions = all_words = 0
    for joined in joined_images(workspace):
        vehicle_id = joined.image.vehicle_id
        for group in ("all", joined.split) if joined.split is not None else ("all",):
            images[group] += 1
            vehicles.setdefault(group, set()).add(vehicle_id)
        texts = joined.caption.texts if joined.caption is not None else ()
        pairs[vehicle_id] += len(texts)
        for text in texts:
            count = len(text.split())
            captions += 1
            all_words += count
            words[count // WORDS_PER_BIN * WORDS_PER_BIN] += 1
        tally.look_at(joined.image.image_id, joined.parts, _view(joined))
    return Statistics(
        workspace=workspace.root,
        images=_by_split(images),
        vehicles=_by_split({group: len(members) for group, members in vehicles.items()}),
        captions=captions if workspace.manifest("caption") else None,
        words_per_caption=round(all_words / captions, 2) if captions else None,
        words=_without_gaps(words),
        pairs_per_vehicle=dict(sorted(Counter(pairs.values()).items())),
        parts=tally.as_dict() if workspace.manifest("parts") else None,
    )


def _view(joined: JoinedImage) -> str | None:
    """From where the vehicle is seen: by its caption, else by the camera."""
    viewpoint = joined.caption.attributes.get("viewpoint") if joined.caption is not None else None
    return viewpoint or camera_view(joined.image)


def _by_split(counts: Mapping[str, int]) -> dict[str, int]:
    return {group: counts[group] for group in ("all", *SPLITS) if group in counts}


def _without_gaps(bins: Counter[int]) -> dict[int, int]:
    """``bins`` in order, with the empty ones between the first and the last."""
    if not bins:
        return {}
    return {start: bins[start] for start in range(min(bins), max(bins) + 1, WORDS_PER_BIN)}


def _bars(values: Mapping[str, float], full: float) -> str:
    """A line for each value with a bar as long as its share of ``full``."""
    name_width = max(map(len, values))
    value_width = max(len(f"{value:,}") for value in values.values())
    lines: Iterable[str] = (
        f"{name:>{name_width}}  {value:>{value_width},}  {'#' * round(BAR_WIDTH * value / full)}".rstrip()
        for name, value in values.items()
    )
    return "\n".join(lines)
