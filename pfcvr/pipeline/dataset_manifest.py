"""``pfcvr.json`` of a data set: how it begins, whichever command writes it, and what it says there should be."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pfcvr import __version__
from pfcvr.records import Source

DATASET_VERSION = 2
SHARD = re.compile(r"data/[^/]+\.parquet|[^/]+\.tar")


def manifest_head(
    form: str, kept: int, reasons: Counter[str], sources: Iterable[Source], grid: dict[str, Any] | None
) -> dict[str, Any]:
    """The form, the books (``rows_in == kept + rejected``), the sources, and the recipe of the patch grids.

    Where the sources lay on this machine stays out.
    """
    rejected = reasons.total()
    return {
        "dataset_version": DATASET_VERSION,
        "pfcvr_version": __version__,
        "format": form,
        "books": {
            "rows_in": kept + rejected,
            "kept": kept,
            "rejected": rejected,
            "reasons": dict(sorted(reasons.items())),
        },
        "sources": [source.model_dump(exclude={"root"}) for source in sources],
        "grid": grid,
    }


def absent_shards(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The Parquet or tar files that the ``manifest`` of ``folder`` names and that are not there."""
    there = {path.relative_to(folder).as_posix() for form in ("data/*.parquet", "*.tar") for path in folder.glob(form)}
    named = manifest.get("files")
    shards = filter(SHARD.fullmatch, named if isinstance(named, dict) else ())
    return sorted(set(shards) - there)


def stated_splits(manifest: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Images and vehicles of each split as ``manifest`` counts them; a split that it does not count is absent."""
    splits = manifest.get("splits")
    stated = {}
    for split, counted in splits.items() if isinstance(splits, dict) else ():
        match counted:
            case {"images": int(images), "vehicles": int(vehicles)}:
                stated[str(split)] = (images, vehicles)
    return stated
