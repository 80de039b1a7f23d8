"""How ``pfcvr.json`` of a data set begins, whichever command writes it."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pfcvr import __version__
from pfcvr.records import Source

DATASET_VERSION = 2


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
