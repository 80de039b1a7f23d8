"""Workspaces that benchmarks and tests make in the same way: imported small pictures, and stages sealed as they are."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pfcvr.config import ImportConfig
from pfcvr.pipeline import import_
from pfcvr.records import Record
from pfcvr.stage import RunOptions, StagePlan, run_stage
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)
PICTURES_PER_VEHICLE = 10


def imported_pictures(folder: Path, count: int) -> Workspace:
    """A workspace with ``count`` pictures of 40 x 40 pixels, each with pixels of its own, imported."""
    for number in range(count):
        file = folder / f"source/images/{number // PICTURES_PER_VEHICLE:05d}/{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.NEAREST).save(file)
    workspace = Workspace(folder / "work", create=True)
    with workspace.lock():
        import_.run(workspace, ImportConfig(source=folder / "source"), QUIET)
    return workspace


def seal_records(
    workspace: Workspace,
    stage: str,
    kind: type[Record],
    records: list[Any],
    notes: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Write ``records`` as the sealed stage ``stage``."""
    plan = StagePlan(
        name=stage,
        kind=kind,
        settings=settings or {},
        inputs={} if stage == "import" else workspace.images_input(),
        rows=lambda: records,
        key=lambda record: record.key,
        work=lambda record: record,
        total=len(records),
        notes=lambda: notes or {},
    )
    run_stage(workspace, plan, QUIET)
