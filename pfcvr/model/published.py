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
    """Rows of a printed table: ``metrics`` in percent (METRICS) by row name; ``title`` names table and data set."""

    title: str
    rows: dict[str, dict[str, float]]


def published_methods(data_set: str) -> PublishedTable:
    """All methods published on ``data_set`` (t2i-veri or t2i-verw); raises UsageError for another name."""
    tables = {name: table for name, table in _tables().items() if name != "ablations"}
    if data_set not in tables:
        raise UsageError(f"nothing is published here on '{data_set}'; choose one of: {', '.join(tables)}")
    return _table(f"{tables[data_set]['source']}, {tables[data_set]['name']}", tables[data_set]["methods"])


def published_ablation(table: str) -> PublishedTable | None:
    """The rows of ablation ``table`` (5 to 8) by row key, all measured on T2I-VeRI; None for any other table."""
    found = _tables()["ablations"].get(table)
    return None if found is None else _table(f"{found['source']}, {_tables()['t2i-veri']['name']}", found["rows"])


def _table(title: str, rows: dict[str, list[float]]) -> PublishedTable:
    return PublishedTable(title, {name: dict(zip(METRICS, values, strict=True)) for name, values in rows.items()})


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(files("pfcvr.model").joinpath("published.toml").read_text(encoding="utf-8"))
