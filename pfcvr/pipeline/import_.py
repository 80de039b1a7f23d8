"""Stage ``import``: every readable image of a source, hashed, measured and named; the rest with its reason."""

import os
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from pfcvr.config import ImportConfig
from pfcvr.errors import SourceError
from pfcvr.pipeline.images import UnreadableImage, inspect_image, path_inside
from pfcvr.pipeline.sources import SourceImage, SourceListing, choose_importer
from pfcvr.records import ImageRecord, Rejected
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.store import Workspace

MAX_WORKERS = 8
SURPRISES_SHOWN = 5
# Claims of lists about images, and names: however many there are, they say nothing against the images themselves.
NORMAL_REASONS = frozenset(
    {"missing_file", "malformed_line", "conflicting_line", "duplicate_image_id", "unknown_vehicle"}
    | {"ambiguous_vehicle", "linked_folder", "bad_name", "no_identity"}
)


def run(workspace: Workspace, config: ImportConfig, options: RunOptions) -> StageSummary:
    """Import ``config.source`` into ``workspace``.

    Raises SourceError when nothing is recognised, or with ``strict`` when anything at all is out of order; else as
    ``run_stage`` does.
    """
    layout, importer, why = choose_importer(config.source, config.format)
    listing = importer.read(config.source)
    with closing(listing):
        if config.strict:
            _refuse(listing, [*listing.surprises, *_sentences(listing.rows())])
        plan = _plan(workspace, config, listing, {"recognised": f"{layout}: {why}"})
        return run_stage(workspace, plan, options)


def _plan(
    workspace: Workspace, config: ImportConfig, listing: SourceListing, notes: dict[str, Any]
) -> StagePlan[SourceImage | Rejected]:
    def finish() -> dict[str, Any]:
        if config.strict:
            _refuse(listing, _sentences(workspace.rejected("import")))
        return {"sources": [listing.source.model_dump()], **notes, **listing.notes}

    return StagePlan(
        name="import",
        kind=ImageRecord,
        settings={"source": str(listing.root), "format": listing.source.format, "strict": config.strict},
        inputs={"listing": listing.content},
        rows=listing.rows,
        key=_key,
        work=lambda row: _inspect(row, listing),
        total=listing.total,
        workers=min(MAX_WORKERS, os.cpu_count() or 1),
        notes=finish,
        normal_reasons=NORMAL_REASONS,
    )


def _key(row: SourceImage | Rejected) -> str:
    return row.subject if isinstance(row, Rejected) else row.image_id


def _inspect(row: SourceImage | Rejected, listing: SourceListing) -> ImageRecord | Rejected:
    if isinstance(row, Rejected):
        return row
    try:
        facts = inspect_image(path_inside(listing.root, row.path))
    except UnreadableImage as problem:
        detail = f"{row.path}: {problem.detail}"
        return Rejected(stage="import", subject=row.image_id, reason=problem.reason, detail=detail)
    return ImageRecord(**vars(row), source=listing.source.name, **vars(facts))


def _sentences(rows: Iterable[SourceImage | Rejected]) -> list[str]:
    return [f"{row.subject} ({row.reason})" for row in rows if isinstance(row, Rejected)]


def _refuse(listing: SourceListing, surprises: list[str]) -> None:
    if surprises:
        shown = "; ".join(surprises[:SURPRISES_SHOWN]) + ("; ..." if len(surprises) > SURPRISES_SHOWN else "")
        raise SourceError(
            f"{listing.root}: a strict import found {len(surprises)} surprises: {shown}; "
            "mend the source, or leave out --strict and start over with --overwrite"
        )
