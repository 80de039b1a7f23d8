"""Are all stages there, made from each other's present content, and do their books and hashes add up?"""

import hashlib
from collections import Counter
from collections.abc import Iterator

from pydantic import ValidationError

from pfcvr.files import sha256_file
from pfcvr.jsonl import whole_lines
from pfcvr.pipeline.audit import Finding, Tally
from pfcvr.pipeline.status import is_stale
from pfcvr.records import Rejected
from pfcvr.store import STAGES, Manifest, Workspace
from pfcvr.wording import amount

NEEDED_STAGES = ("import", "caption", "split")


def audit_books(workspace: Workspace, require_parts: bool) -> Iterator[Finding]:
    """Failures about the stages themselves."""
    needed = {*NEEDED_STAGES, *(("parts",) if require_parts else ())}
    missing, stale, unbalanced = Tally(), Tally(), Tally()
    for stage in STAGES:
        manifest = workspace.manifest(stage)
        if manifest is None:
            if stage in needed or workspace.folder(stage).exists():
                missing.add(stage)
            continue
        if is_stale(workspace, manifest):
            stale.add(stage)
        for problem in book_problems(workspace, manifest):
            unbalanced.add(f"{stage}: {problem}")
    yield from missing.finding(
        "missing_stage", "failure", "stages were not run to their end; run pfcvr-data with their names"
    )
    yield from stale.finding(
        "stale_stage", "failure", "stages were made before one that they read was made anew; rerun --overwrite"
    )
    yield from unbalanced.finding(
        "unbalanced_books", "failure", "differences between manifests and files; rerun the stage --overwrite"
    )


def book_problems(workspace: Workspace, manifest: Manifest) -> Iterator[str]:
    """What disagrees between a stage's manifest and its files, in words."""
    folder = workspace.folder(manifest.stage)
    if manifest.rows_in != manifest.kept + manifest.rejected:
        yield f"{manifest.rows_in} rows in are not {manifest.kept} kept + {manifest.rejected} rejected"
    if manifest.kept != sum(file.records for file in manifest.files):
        yield f"{manifest.kept} kept, but its files should hold {sum(file.records for file in manifest.files)}"
    listed = {file.name for file in manifest.files}
    for path in sorted(folder.glob("part-[0-9]*.jsonl")):
        if path.name not in listed:
            yield f"{path.name} is not in the manifest"
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            yield f"{file.name} is gone"
        elif sha256_file(path) != file.sha256:
            yield f"{file.name} is not the file that was sealed"
        elif sum(1 for _ in whole_lines(path)) != file.records:
            yield f"{file.name} does not hold {file.records} records"
    if hashlib.sha256("".join(file.sha256 for file in manifest.files).encode()).hexdigest() != manifest.records_sha256:
        yield "the hash of all records is not that of the files"
    yield from _rejected_problems(workspace, manifest)


def _rejected_problems(workspace: Workspace, manifest: Manifest) -> Iterator[str]:
    reasons: Counter[str] = Counter()
    for number, (_, line) in enumerate(whole_lines(workspace.folder(manifest.stage) / "rejected.jsonl"), start=1):
        try:
            reasons[Rejected.model_validate_json(line).reason] += 1
        except ValidationError:
            yield f"rejected.jsonl:{number} is damaged"
    if reasons.total() != manifest.rejected or dict(reasons) != manifest.reasons:
        yield f"rejected.jsonl holds {amount(reasons.total(), 'row')}, the manifest says {manifest.rejected}"
