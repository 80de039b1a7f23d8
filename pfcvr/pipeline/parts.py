"""The stage ``parts``: part instances of every image, and the patch grid they make."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain, islice
from typing import Any

from pfcvr.config import PartsConfig
from pfcvr.jsonl import read_records
from pfcvr.pipeline.key_point_agreement import key_point_agreement
from pfcvr.pipeline.part_finder import PartFinder
from pfcvr.pipeline.part_report import part_notes
from pfcvr.records import ImageParts, ImageRecord, Rejected
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.store import Workspace, left_join
from pfcvr.wording import amount

# Somebody else's vocabulary or selection is wider than ours: no sign that the run goes wrong.
NORMAL_REASONS = frozenset({"unknown_category", "unknown_image", "not_selected"})
IMAGES_SORTED_TOGETHER = 1000
READING_THREADS = 2  # one decodes the next batch while the models work on the last


def run(workspace: Workspace, config: PartsConfig, options: RunOptions) -> StageSummary:
    """Write ImageParts for every image of the workspace; an image on which nothing is found keeps an empty one.

    Raises what the backends raise (UsageError, BackendError, CheckpointError, SourceError) and what ``run_stage`` does.
    """
    inputs = workspace.images_input()
    with closing(PartFinder(workspace, config)) as finder:
        detector = finder.detector

        def rows() -> Iterator[ImageRecord | Rejected]:
            yield from similar_together(workspace.images()) if finder.reads_pixels else workspace.images()
            yield from detector.rejected()

        plan = StagePlan(
            name="parts",
            kind=ImageParts,
            settings=finder.settings,
            inputs=inputs | finder.inputs,
            rows=rows,
            key=lambda row: row.key,
            work=lambda row: finder.work_many([row])[0],
            work_many=finder.work_many,
            batch=config.batch if finder.reads_pixels else 1,
            total=workspace.image_count() + detector.rejected_count,
            follows_row=finder.reads_pixels,
            workers=READING_THREADS if finder.reads_pixels else 1,
            notes=lambda: _notes(workspace, config),
            normal_reasons=NORMAL_REASONS,
            give_up=finder.give_up,
        )
        return run_stage(workspace, plan, options)


def similar_together(images: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    """``images`` with those of one shape side by side, in stretches that fit into memory.

    Some models take only images of one shape together.
    """
    rest = iter(images)
    while window := list(islice(rest, IMAGES_SORTED_TOGETHER)):
        yield from sorted(window, key=lambda image: (image.width / image.height, image.image_id))


def _notes(workspace: Workspace, config: PartsConfig) -> dict[str, Any]:
    notes = part_notes(left_join(workspace.images(), _written(workspace)), config.grid)
    if notes["images_with_parts"] == 0:
        notes["remark"] = (
            f"no part on any of {amount(notes['images'], 'image')}; lower --threshold or look at the phrases"
        )
    return notes | key_point_agreement(workspace, left_join(workspace.images(), _written(workspace)))


def _written(workspace: Workspace) -> Iterator[ImageParts]:
    """The sorted records, which are on disk by the time notes are asked for."""
    paths = sorted(workspace.folder("parts").glob("part-[0-9]*.jsonl"))
    return chain.from_iterable(read_records(path, ImageParts) for path in paths)
