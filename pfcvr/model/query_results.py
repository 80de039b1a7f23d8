"""What every query of an evaluation reached, one line of JSON each, for those who compare runs query by query.

Fields: ``query`` (position), ``image_id`` and ``vehicle_id`` of the described image, ``caption``, ``relevant`` (how
many images of its vehicle the gallery holds), ``first_hit_rank`` (1-based), ``average_precision`` and
``inverse_negative_penalty`` as fractions; the last three are null where nothing is relevant.
"""

from pathlib import Path

from pfcvr.files import atomic_write, canonical_json
from pfcvr.model.data import Rows
from pfcvr.model.metrics import QueryMetrics


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
