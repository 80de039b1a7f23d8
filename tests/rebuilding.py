"""Published annotations joined with a copy of the images, and what the report then says of each image."""

import json
from pathlib import Path

import pyarrow.parquet as parquet

from pfcvr.config import RebuildConfig
from pfcvr.pipeline import rebuild
from pfcvr.stage import RunOptions


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("data/*.parquet")) for row in parquet.read_table(path).to_pylist()]


def report_of(out: Path) -> dict[str, dict]:
    return {row["image_id"]: row for row in map(json.loads, (out / "report.jsonl").read_text().splitlines())}


def join(published: Path, images: Path, out: Path, **settings) -> rebuild.RebuildSummary:
    return rebuild.run(RebuildConfig(annotations=published, images=images, out=out, **settings), RunOptions(quiet=True))
