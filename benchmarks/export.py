"""Export of a data set in form hf beside a bare Parquet write of the same columns: rows a second, and peak memory.

    python benchmarks/export.py [--rows 14668 --kilobytes 24 --rounds 5] [--json]

The workspace has pictures of noise of about the wanted size, one caption and six parts each. The bare write puts the
same Arrow tables, read back from the export, into files of the same number of rows a group and the same compression; it
neither reads images, joins records, hashes, nor verifies. The two take turns; the best of the rounds counts.
"""

import argparse
import hashlib
import io
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from workspaces import seal_records

from pfcvr import geometry
from pfcvr.config import ExportConfig, SplitConfig
from pfcvr.pipeline import export, split
from pfcvr.records import PARTS, Caption, CaptionOrigin, ImageParts, ImageRecord, PartInstance, PartsOrigin
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)
WIDTH, HEIGHT = 320, 240
IMAGES_PER_VEHICLE = 8
CAPTION = (
    "A dark gray SUV with roof rails, tinted rear windows, five-spoke wheels and a dent on the left rear door. " * 2
)


def pictures(rows: int, kilobytes: int) -> Iterator[bytes]:
    """JPEG files of noise of about the wanted size, all different, so that nothing is left to compress."""
    rng = np.random.default_rng(0)

    def picture(quality: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(file, "JPEG", quality=quality)
        return file.getvalue()

    fitting = next((q for q in range(5, 96, 5) if len(picture(q)) >= kilobytes * 1024), 95)
    return (picture(fitting) for _ in range(rows))


def make_workspace(folder: Path, rows: int, kilobytes: int) -> Workspace:
    """A workspace with every stage sealed."""
    workspace = Workspace(folder / "work", create=True)
    source = folder / "source"
    images = []
    for number, content in enumerate(pictures(rows, kilobytes)):
        vehicle = f"{number // IMAGES_PER_VEHICLE + 1:05d}"
        file = source / vehicle / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        images.append(
            ImageRecord(
                image_id=f"{vehicle}/{number:06d}",
                vehicle_id=vehicle,
                source="noise",
                path=f"{vehicle}/{number:06d}.jpg",
                sha256=hashlib.sha256(content).hexdigest(),
                width=WIDTH,
                height=HEIGHT,
            )
        )
    described = {"name": "noise", "root": str(source), "format": "veri-wild", "licence": "CC0-1.0"}
    seal_records(workspace, "import", ImageRecord, images, {"sources": [described]})
    origin = CaptionOrigin(captioner="import")
    seal_records(
        workspace, "caption", Caption, [Caption(image_id=i.image_id, texts=(CAPTION,), origin=origin) for i in images]
    )
    instances = six_parts()
    grid = geometry.patch_grid(instances, (HEIGHT, WIDTH), 24, 24, 0.5)
    found = [
        ImageParts(image_id=i.image_id, instances=instances, grid=grid, origin=PartsOrigin(detector="import"))
        for i in images
    ]
    seal_records(workspace, "parts", ImageParts, found, settings={"grid": {"rows": 24, "cols": 24}})
    split.run(workspace, SplitConfig(), QUIET)
    return workspace


def six_parts() -> tuple[PartInstance, ...]:
    """An ellipse for each part."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    instances = []
    for number, part in enumerate(PARTS):
        middle = 40 + 45 * number
        mask = ((ys - 120) / 60) ** 2 + ((xs - middle) / 30) ** 2 < 1
        rle = geometry.encode_mask(mask)
        instances.append(PartInstance(part=part, box_xyxy=geometry.mask_box(rle), score=0.5, mask=rle))
    return tuple(instances)


def bare_write(tables: Path, out: Path) -> None:
    """The same shards written again from memory, a row group at a time."""
    import pyarrow.parquet as parquet

    out.mkdir()
    for path in sorted(tables.glob("*.parquet")):
        with parquet.ParquetFile(path) as shard:
            schema = shard.schema_arrow
            with parquet.ParquetWriter(out / path.name, schema, compression="zstd", use_dictionary=False) as writer:
                for group in range(shard.num_row_groups):
                    writer.write_table(shard.read_row_group(group))


def seconds(work: Callable[[], Any]) -> float:
    """How long ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(rows: int, kilobytes: int, rounds: int) -> dict[str, Any]:
    """Best of ``rounds`` of both, taking turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace = make_workspace(folder, rows, kilobytes)
        out, bare = folder / "out", folder / "bare"
        config = ExportConfig(out=out)
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(seconds(lambda: export.run(workspace, config, RunOptions(overwrite=True, quiet=True))))
            theirs.append(seconds(lambda: bare_write(out / "data", bare)))
            shutil.rmtree(bare)
        megabytes = sum(path.stat().st_size for path in out.rglob("*.parquet")) / 1e6
    return {
        "rows": rows,
        "megabytes": round(megabytes, 1),
        "export_rows_per_s": round(rows / min(ours)),
        "bare_rows_per_s": round(rows / min(theirs)),
        "ratio": round(min(ours) / min(theirs), 2),
        "peak_memory_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> int:
    """Print a small table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=14_668)
    parser.add_argument("--kilobytes", type=int, default=24, help="of an image file, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.rows, options.kilobytes, options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:<20}{value:>12,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
