"""The stage ``parts``: part instances of every image, and the patch grid they make."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from pfcvr import geometry
from pfcvr.backends import load_backend
from pfcvr.config import PartsConfig
from pfcvr.jsonl import read_records
from pfcvr.pipeline.detectors import DETECTORS, Detector, DetectorFactory
from pfcvr.pipeline.joined import PixelFiles
from pfcvr.pipeline.pictures import Picture
from pfcvr.records import PARTS, ImageParts, ImageRecord, Part, PartsOrigin, Rejected
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.store import Workspace

# Somebody else's vocabulary or selection is wider than ours: no sign that the run goes wrong.
NORMAL_REASONS = frozenset({"unknown_category", "unknown_image", "not_selected"})


def run(workspace: Workspace, config: PartsConfig, options: RunOptions) -> StageSummary:
    """Write ImageParts for every image of the workspace; an image on which nothing is found keeps an empty one.

    Raises SourceError for annotations that cannot be read, and what ``run_stage`` raises.
    """
    inputs = workspace.images_input()
    factory: DetectorFactory = load_backend("detector", DETECTORS, config.detector)
    detector = factory(workspace, config)
    grid, files = config.grid, PixelFiles(workspace)

    def rows() -> Iterator[ImageRecord | Rejected]:
        yield from workspace.images()
        yield from detector.rejected()

    def work(row: ImageRecord | Rejected) -> ImageParts | Rejected:
        return row if isinstance(row, Rejected) else _parts_of(Picture(row, files.path(row)), detector, config)

    with closing(detector):
        plan = StagePlan(
            name="parts",
            kind=ImageParts,
            settings={"detector": config.detector, "grid": grid.model_dump(), **detector.settings},
            inputs=inputs | detector.inputs,
            rows=rows,
            key=lambda row: row.key,
            work=work,
            total=workspace.image_count() + detector.rejected_count,
            notes=lambda: _notes(workspace, config),
            normal_reasons=NORMAL_REASONS,
        )
        return run_stage(workspace, plan, options)


def _parts_of(picture: Picture, detector: Detector, config: PartsConfig) -> ImageParts:
    (found,) = detector.detect([picture])
    grid, origin = config.grid, PartsOrigin(detector=config.detector)
    cells = geometry.patch_grid(found.instances, picture.size, grid.rows, grid.cols, grid.coverage)
    return ImageParts(image_id=picture.record.image_id, instances=found.instances, grid=cells, origin=origin)


def _notes(workspace: Workspace, config: PartsConfig) -> dict[str, Any]:
    """Counted from the sorted records, which are on disk by the time notes are asked for."""
    images = with_parts = 0
    instances: Counter[Part] = Counter()
    images_with: Counter[Part] = Counter()
    for path in sorted(workspace.folder("parts").glob("part-[0-9]*.jsonl")):
        for record in read_records(path, ImageParts):
            images += 1
            with_parts += bool(record.instances)
            instances.update(instance.part for instance in record.instances)
            images_with.update({instance.part for instance in record.instances})
    return {
        "grid": {"rule": "stretch-coverage", **config.grid.model_dump()},
        "images": images,
        "images_with_parts": with_parts,
        "instances": {part: instances[part] for part in PARTS},
        "coverage": {part: round(images_with[part] / max(images, 1), 4) for part in PARTS},
    }
