"""The published figures of the two text-to-vehicle benchmarks, as data, with what a reader must know beside them."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pfcvr.errors import UsageError

METRICS = ("rank1", "rank5", "rank10", "mAP")
CAVEAT = (
    "Published figures are single runs, in the released code the best epoch on the test images (protocol published). "
    "Average precision is not defined alike in the compared code bases: TIPCB, SSAN and LGUR average the precision "
    "before and at each hit, which lies 2 to 5 points below the precision at each hit that we, IRRA and PFCVR use. "
    "Unmodified ALBEF and HAT count the described image alone as a hit. It is not stated whether all rows were "
    "evaluated by one script, so compare across rows with care."
)


@dataclass(frozen=True)
class PublishedTable:
    """Rows of the printed table ``source``: METRICS in percent by row name.

    ``data_set`` is what they were measured on; its test split has so many ``images`` of so many ``vehicles``.
    """

    source: str
    data_set: str
    images: int
    vehicles: int
    rows: dict[str, dict[str, float]]

    @property
    def title(self) -> str:
        """Table and data set."""
        return f"{self.source}, {self.data_set}"

    @property
    def on(self) -> str:
        """What stands beside every figure."""
        return f"published on {self.data_set}"

    def is_measured_on(self, images: int, vehicles: int) -> bool:
        """Whether a split of so many images and vehicles can be the one that the figures are of."""
        return (images, vehicles) == (self.images, self.vehicles)

    def caveats(self, images: int, vehicles: int) -> list[str]:
        """What to know before these figures are set beside some of a split of so many images and vehicles."""
        printed = f"Figures {self.on}: {self.source}, arXiv 2605.06012. {CAVEAT}"
        if self.is_measured_on(images, vehicles):
            return [printed]
        return [
            f"What was measured here ({images:,} images of {vehicles:,} vehicles) is not the test split of "
            f"{self.data_set} ({self.images:,} images of {self.vehicles:,} vehicles): the published figures are for "
            "orientation, and chance here is not chance there.",
            printed,
        ]


def published_methods(data_set: str) -> PublishedTable:
    """All methods published on ``data_set`` (t2i-veri or t2i-verw); raises UsageError for another name."""
    tables = {name: table for name, table in _tables().items() if name != "ablations"}
    if data_set not in tables:
        raise UsageError(f"nothing is published here on '{data_set}'; choose one of: {', '.join(tables)}")
    return _table(tables[data_set], tables[data_set]["source"], tables[data_set]["methods"])


def published_ablation(table: str) -> PublishedTable | None:
    """The rows of ablation ``table`` (5 to 8) by row key, all measured on T2I-VeRI; None for any other table."""
    found = _tables()["ablations"].get(table)
    return None if found is None else _table(_tables()["t2i-veri"], found["source"], found["rows"])


def _table(data_set: dict[str, Any], source: str, rows: dict[str, list[float]]) -> PublishedTable:
    figures = {name: dict(zip(METRICS, values, strict=True)) for name, values in rows.items()}
    return PublishedTable(source, data_set["name"], data_set["test"]["images"], data_set["test"]["vehicles"], figures)


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(files("pfcvr.model").joinpath("published.toml").read_text(encoding="utf-8"))
