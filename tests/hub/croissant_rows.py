"""Rows of a data set as its Croissant file describes them: ``croissant_rows.py CROISSANT SPLIT...``, JSON on stdout.

A program of its own, since datasets, once imported, teaches pandas array columns that mlcroissant then stumbles over.
"""

import json
import sys
from typing import Any

import mlcroissant


def plain(value: Any) -> Any:
    """Bytes as text, in lists too: how mlcroissant hands texts out; numpy's values as Python's."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def main() -> None:
    described = mlcroissant.Dataset(jsonld=sys.argv[1])
    fields = ("image_id", "captions", "width")
    rows = {
        split: [{field: plain(record[f"{split}/{field}"]) for field in fields} for record in described.records(split)]
        for split in sys.argv[2:]
    }
    print(json.dumps({"errors": sorted(described.metadata.issues.errors), "rows": rows}))


if __name__ == "__main__":
    main()
