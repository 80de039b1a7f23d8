"""What every query of an evaluation reached, one line of JSON each, for those who compare runs query by query.

Fields: ``query`` (position), ``image_id`` and ``vehicle_id`` of the described image, ``caption``, ``relevant`` (how
many images of its vehicle the gallery holds), ``first_hit_rank`` (1-based), ``average_precision`` and
``inverse_negative_penalty`` as fractions; the last three are null where nothing is relevant. A published file names
neither image nor caption but a hash of what was asked, ``asked_sha256``: enough to compare, and no copy of the data.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr.errors import CheckpointError
from pfcvr.files import atomic_write, canonical_json, sha256_json
from pfcvr.model.data import Rows
from pfcvr.model.metrics import RANKS, QueryMetrics

ASKED = ("image_id", "vehicle_id", "caption", "relevant")
REACHED = ("rank1", "rank5", "rank10", "mAP", "mINP")


@dataclass(frozen=True)
class QueryResults:
    """The queries that have something relevant to find: their vehicles, and ``values`` [Q, 5] of REACHED in percent.

    ``fingerprint`` is the hash of the whole list of queries, each by the hash of its ASKED fields.
    """

    vehicle_ids: tuple[str, ...]
    values: NDArray[np.float64]
    fingerprint: str


def query_results_path(run: Path, split: str) -> Path:
    """Where the results of ``split`` lie in the folder of a run."""
    return run / f"queries-{split}.jsonl"


def read_query_results(path: Path) -> QueryResults:
    """Read what ``write_query_results`` wrote; raises CheckpointError when it is damaged."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        asked = [_asked_sha256(record) for record in records]
        found = [record for record in records if record["relevant"]]
        values = [
            [
                *(float(record["first_hit_rank"] <= rank) for rank in RANKS),
                record["average_precision"],
                record["inverse_negative_penalty"],
            ]
            for record in found
        ]
        vehicles = tuple(str(record["vehicle_id"]) for record in found)
        if not found:
            raise ValueError("no query with anything to find")
        return QueryResults(vehicles, 100 * np.array(values, dtype=np.float64), sha256_json(asked))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); run pfcvr eval again") from None


def write_query_results(path: Path, rows: Rows, measured: QueryMetrics) -> None:
    """Write ``measured``, whose queries are the captions of ``rows`` in order, to ``path``, whole or not at all."""
    captions = [(row, caption) for row, captions in enumerate(rows.captions) for caption in captions]
    with atomic_write(path) as file:
        for query, (row, caption) in enumerate(captions):
            relevant = int(measured.relevant[query])
            reached = {
                "first_hit_rank": int(measured.first_hit_rank[query]),
                "average_precision": float(measured.average_precision[query]),
                "inverse_negative_penalty": float(measured.inverse_negative_penalty[query]),
            }
            record = {
                "query": query,
                "image_id": rows.image_ids[row],
                "vehicle_id": rows.vehicle_ids[row],
                "caption": caption,
                "relevant": relevant,
                **(reached if relevant else dict.fromkeys(reached)),
            }
            file.write(canonical_json(record).encode() + b"\n")


def write_published_results(source: Path, target: Path) -> None:
    """Write ``source`` to ``target`` without images and captions, which belong to the data set and not to the model.

    Raises:
        CheckpointError: ``source`` is damaged.
    """
    read_query_results(source)
    with atomic_write(target) as file:
        for line in source.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            kept = {name: value for name, value in record.items() if name not in ("image_id", "caption")}
            file.write(canonical_json(kept | {"asked_sha256": _asked_sha256(record)}).encode() + b"\n")


def _asked_sha256(record: dict[str, Any]) -> str:
    if "asked_sha256" in record:
        return str(record["asked_sha256"])
    return sha256_json([record[name] for name in ASKED])
