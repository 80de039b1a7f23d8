"""Stage ``import``: every readable image of a source, hashed, measured and named; the rest with its reason."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from pfcvr.config import ImportConfig
from pfcvr.errors import SealedError, SourceError
from pfcvr.files import atomic_write, canonical_json, disk_full_stops
from pfcvr.jsonl import read_records
from pfcvr.pipeline.file_facts import FileFacts
from pfcvr.pipeline.images import UnreadableImage, path_inside
from pfcvr.pipeline.sources import SourceImage, SourceListing, choose_importer, is_there
from pfcvr.pipeline.sources.published import counts_text
from pfcvr.progress import Progress
from pfcvr.records import ImageRecord, Rejected
from pfcvr.row_pool import finished_rows
from pfcvr.scratch import temporary_tables
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.stage_files import read_draft
from pfcvr.stage_plan import work_safely
from pfcvr.store import Workspace
from pfcvr.wording import amount

MAX_WORKERS = 8
EXAMPLES = 5
SURPRISES = "surprises.txt"
UNPACKED = "unpacked"
# Claims of lists about images, and names: however many there are, they say nothing against the images themselves.
NORMAL_REASONS = frozenset(
    {"missing_file", "malformed_line", "conflicting_line", "duplicate_image_id", "unknown_vehicle"}
    | {"ambiguous_vehicle", "linked_folder", "bad_name", "no_identity", "changed_file"}
)


def workspace_for(config: ImportConfig, root: Path) -> Workspace:
    """The workspace at ``root``, made where there is none; for a source that is not there none is made.

    Raises SourceError for such a source, WorkspaceError where ``root`` is something else.
    """
    is_there(config.source, config.format)
    return Workspace(root, create=True)


def run(workspace: Workspace, config: ImportConfig, options: RunOptions) -> StageSummary:
    """Import ``config.source`` into ``workspace``; the same source again adds and renews what is new or changed in it.

    Raises SourceError when nothing is recognised, or with ``strict`` when anything at all is out of order, SealedError
    when images of the last import are gone from the source; else as ``run_stage`` does.
    """
    with disk_full_stops(f"{workspace.root}: stage 'import'"):
        return _import(workspace, config, options)


def _import(workspace: Workspace, config: ImportConfig, options: RunOptions) -> StageSummary:
    layout, importer, why = choose_importer(config.source, config.format)
    listing = importer.read(config.source, workspace.root / UNPACKED)
    facts = FileFacts(workspace.folder("import") / "files.sqlite")
    with closing(listing), closing(facts):
        plan = _plan(workspace, config, listing, facts, {"recognised": f"{layout}: {why}"})
        if config.strict:
            _refuse(workspace, listing, [*listing.surprises, *_surprises(plan, options.quiet)])
        changed = _source_has_changed(workspace, plan)
        outdated = not changed and _files_have_changed(workspace, plan, listing, facts)
        if (changed or outdated) and not options.overwrite:
            _refuse_losses(workspace, listing, facts)
            options = replace(options, overwrite=True)
        plan = replace(plan, outdated=outdated)
        summary = run_stage(workspace, plan, options)
        if summary.pending or summary.already_done:
            return summary
        (workspace.folder("import") / SURPRISES).unlink(missing_ok=True)
        images = workspace.records("import", ImageRecord)
        since = facts.compare_and_remember((image.image_id, image.sha256) for image in images)
        return replace(summary, notes=summary.notes | ({"since_last_import": since} if since else {}))


def report(summary: StageSummary) -> str:
    """What a person should see: why a layout was recognised, its counts beside the published ones, what changed."""
    notes = summary.notes
    lines = [notes["recognised"], counts_text(notes.get("counts", []))]
    same = notes.get("same_bytes_under_two_vehicles", {})
    if same.get("count"):
        lines.append(
            f"{amount(same['count'], 'file')} under several vehicles, such as {', '.join(same['examples'][0])}"
        )
    since = notes.get("since_last_import")
    if since:
        lines.append(
            f"since the last import: {amount(since['added'], 'image')} added, {since['changed']:,} changed, "
            f"{since['vanished']:,} gone"
        )
    return "\n".join(filter(None, lines))


def _plan(
    workspace: Workspace, config: ImportConfig, listing: SourceListing, facts: FileFacts, notes: dict[str, Any]
) -> StagePlan[SourceImage | Rejected]:
    def finish() -> dict[str, Any]:
        groups = _same_bytes(_written(workspace))
        same = {"count": len(groups), "examples": groups[:EXAMPLES]}
        found = {"sources": [listing.source.model_dump()], "same_bytes_under_two_vehicles": same}
        return found | notes | listing.notes

    return StagePlan(
        name="import",
        kind=ImageRecord,
        settings={"source": str(listing.root), "format": listing.source.format, "strict": config.strict},
        inputs={"listing": listing.content},
        rows=listing.rows,
        key=_key,
        work=lambda row: _inspect(row, listing, facts),
        total=listing.total,
        workers=min(MAX_WORKERS, os.cpu_count() or 1),
        notes=finish,
        normal_reasons=NORMAL_REASONS,
    )


def _key(row: SourceImage | Rejected) -> str:
    return row.subject if isinstance(row, Rejected) else row.image_id


def _inspect(row: SourceImage | Rejected, listing: SourceListing, facts: FileFacts) -> ImageRecord | Rejected:
    if isinstance(row, Rejected):
        return row
    try:
        found = facts.inspect(path_inside(listing.root, row.path))
    except UnreadableImage as problem:
        detail = f"{row.path}: {problem.detail}"
        return Rejected(stage="import", subject=row.image_id, reason=problem.reason, detail=detail)
    return ImageRecord(**vars(row), source=listing.source.name, **vars(found))


def _source_has_changed(workspace: Workspace, plan: StagePlan[SourceImage | Rejected]) -> bool:
    """Whether this source was imported before, wholly or in part, and was another then.

    What was read of it is known (``FileFacts``), so beginning anew costs little.
    """
    manifest, wanted = workspace.manifest("import"), plan.fingerprint
    found = read_draft(workspace.folder("import")) if manifest is None else {"fingerprint": manifest.fingerprint}
    before = found.get("fingerprint", wanted)
    return bool(before["settings"] == wanted["settings"] and before["inputs"] != wanted["inputs"])


def _files_have_changed(
    workspace: Workspace, plan: StagePlan[SourceImage | Rejected], listing: SourceListing, facts: FileFacts
) -> bool:
    """Whether a file behind the sealed records has changed under its name and size, which the listing does not show."""
    manifest = workspace.manifest("import")
    if manifest is None or manifest.fingerprint != plan.fingerprint or not workspace.is_intact(manifest):
        return False
    images = workspace.records("import", ImageRecord)
    return any(not facts.is_current(listing.root / image.path, image.sha256) for image in images)


def _refuse_losses(workspace: Workspace, listing: SourceListing, facts: FileFacts) -> None:
    """Raise SealedError where an image of the last import is no longer there: its source may just not be mounted."""
    found = (row for row in listing.rows() if isinstance(row, SourceImage))
    count, examples = facts.absent(row.image_id for row in found if os.path.exists(listing.root / row.path))
    if count:
        raise SealedError(
            f"{listing.root}: {amount(count, 'image')} of the last import can no longer be found, such as "
            f"{', '.join(examples)}; bring them back, or drop them from {workspace.root} with --overwrite"
        )


def _written(workspace: Workspace) -> Iterator[ImageRecord]:
    """The sorted records, which are on disk by the time notes are asked for."""
    paths = sorted(workspace.folder("import").glob("part-[0-9]*.jsonl"))
    return chain.from_iterable(read_records(path, ImageRecord) for path in paths)


def _same_bytes(images: Iterable[ImageRecord]) -> list[list[str]]:
    """The first image_ids of every file that occurs under several vehicles: one of them must be wrong."""
    with closing(temporary_tables("CREATE TABLE image (sha256 TEXT, vehicle_id TEXT, image_id TEXT)")) as found:
        found.executemany(
            "INSERT INTO image VALUES (?, ?, ?)", ((image.sha256, image.vehicle_id, image.image_id) for image in images)
        )
        found.execute("CREATE INDEX image_sha256 ON image (sha256, vehicle_id)")
        several = "SELECT sha256 FROM image GROUP BY sha256 HAVING count(DISTINCT vehicle_id) > 1"
        hashes = [sha256 for (sha256,) in found.execute(several)]
        ids = "SELECT image_id FROM image WHERE sha256 = ? ORDER BY image_id LIMIT ?"
        return sorted([own for (own,) in found.execute(ids, (sha256, EXAMPLES))] for sha256 in hashes)


def _surprises(plan: StagePlan[SourceImage | Rejected], quiet: bool) -> list[str]:
    """Every row that would be rejected, and every file that occurs under several vehicles.

    All pictures are read before anything of the stage is touched; the run that follows knows them (``FileFacts``).
    """
    rejected: list[str] = []

    def good_images() -> Iterator[ImageRecord]:
        results = finished_rows(lambda row: work_safely(plan, [row])[0], plan.rows(), plan.workers, plan.give_up)
        with Progress("strict", plan.total, quiet=quiet) as progress, closing(results):
            for result in results:
                progress.advance()
                if isinstance(result, ImageRecord):
                    yield result
                elif isinstance(result, Rejected):
                    rejected.append(f"{result.subject} ({result.reason})")

    twice = [f"same bytes: {' and '.join(ids)}" for ids in _same_bytes(good_images())]
    return [*sorted(rejected), *twice]


def _refuse(workspace: Workspace, listing: SourceListing, surprises: list[str]) -> None:
    """Raise SourceError where there are ``surprises``; all of them are in a file."""
    if not surprises:
        return
    path: Path = workspace.folder("import") / SURPRISES
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.writelines(f"{canonical_json(surprise)[1:-1]}\n".encode() for surprise in surprises)
    shown = "; ".join(surprises[:EXAMPLES])
    rest = f"; all of them are in {path}" if len(surprises) > EXAMPLES else ""
    raise SourceError(
        f"{listing.root}: a strict import found {amount(len(surprises), 'surprise')}: {shown}{rest}; "
        "mend the source, or leave out --strict"
    )
