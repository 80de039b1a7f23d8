"""``pfcvr-data merge``: what people corrected, kept in a stage of its own over what captioners and detectors said.

``WORKSPACE/merge/`` holds a HumanEdit for each image that people said something of, from all files merged so far. The
stages ``caption`` and ``parts`` stay as they were sealed, and may be run anew: the edits lie on top (``joined.py``).
New edits go to a new file, and the manifest, replaced last by rename, says which file counts.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pfcvr import __version__
from pfcvr.backends import load_backend
from pfcvr.config import MergeConfig
from pfcvr.errors import NothingKept
from pfcvr.files import atomic_write, disk_full_stops, sha256_file, sha256_json, sync_folder, write_json
from pfcvr.jsonl import record_line
from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.edit_files import EDIT_READERS, EditFile, EditReader
from pfcvr.pipeline.edit_files.recognise import recognise
from pfcvr.records import HumanCaption, HumanEdit, HumanParts, Rejected
from pfcvr.scratch import temporary_tables
from pfcvr.stage import RunOptions, StageSummary
from pfcvr.store import Manifest, SealedFile, Workspace
from pfcvr.wording import amount

STAGE = "merge"
CONFLICT = "human_edit_kept"
EXAMPLES = 5
TABLES = """
CREATE TABLE edit (image_id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID;
CREATE TABLE problem (subject TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID;
"""


@dataclass
class Outcome:
    """What became of the edits of one file, by number of images."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    conflicts: int = 0

    @property
    def kept(self) -> int:
        return self.added + self.replaced + self.unchanged


def run(workspace: Workspace, config: MergeConfig, options: RunOptions) -> StageSummary:
    """Add the edits of ``config.file`` to those of the workspace; the books are those of this file.

    An edit that says something else than an earlier one by people is Rejected, unless ``options.overwrite``. A file
    that was merged before is read again where the workspace has other images now: it may speak of some that are new.
    Raises SourceError for a file that is no edit, NothingKept when not one of its edits was taken.
    """
    images = sha256_json(workspace.images_input())
    form, why = recognise(config.file)
    file = EditFile(config.file, plain_text(config.file.name), sha256_file(config.file), config.editor)
    manifest = workspace.manifest(STAGE)
    files: list[dict[str, Any]] = manifest.notes["files"] if manifest is not None else []
    before = next((known for known in files if known["sha256"] == file.sha256), None)
    path = plain_text(str(config.file.resolve()))
    label = _label(file.name, path, files) if before is None else str(before["file"])
    if manifest is not None and before is not None and before.get("images") == images and not options.overwrite:
        if before["added"] + before["replaced"] + before["unchanged"] == 0:
            raise NothingKept(_nothing(config.file, before))
        _clear_up(workspace.folder(STAGE), manifest)
        return _summary(before, already_done=True)
    with (
        disk_full_stops(f"{workspace.root}: stage '{STAGE}'"),
        closing(temporary_tables(TABLES)) as tables,
    ):
        reader: EditReader = load_backend("form of edits", EDIT_READERS, form)
        _collect(reader(workspace, file), tables, file.name, label)
        renews = before is None or options.overwrite
        outcome = _weigh(workspace, tables, label, options.overwrite, renews)
        known = {"file": label, "path": path, "sha256": file.sha256, "images": images, "form": form, "why": why}
        entry = known | _books(tables, outcome, label)
        if outcome.kept == 0 and manifest is None:
            raise NothingKept(_nothing(config.file, entry))
        _seal(workspace, tables, [other for other in files if other is not before] + [entry])
    if outcome.kept == 0:
        raise NothingKept(_nothing(config.file, entry))
    return _summary(entry)


def report_text(summary: StageSummary) -> str:
    """What kind of file it was, and what became of its edits, for people."""
    notes = summary.notes
    taken = f"{notes['added']:,} added, {notes['replaced']:,} replaced, {notes['unchanged']:,} as they were"
    lines = [f"{notes['file']}: {notes['form']}, since {notes['why']}; images edited: {taken}"]
    if notes["conflicts"]:
        named = ", ".join(notes["conflict_examples"])
        lines.append(
            f"left as people said before: {amount(notes['conflicts'], 'image')} ({named}); see merge/rejected.jsonl, "
            "--overwrite takes this file's word"
        )
    return "\n".join(lines)


def _label(name: str, path: str, files: list[dict[str, Any]]) -> str:
    """What the file at ``path`` is called in reports: its name, numbered where another merged file has that."""
    paths = {known["file"]: known["path"] for known in files}
    labels = (name if number == 1 else f"{name} ({number})" for number in count(1))
    return next(label for label in labels if paths.get(label, path) == path)


def _collect(edits: Iterator[HumanEdit | Rejected], tables: sqlite3.Connection, name: str, label: str) -> None:
    for row in edits:
        if isinstance(row, Rejected):
            row = row.model_copy(update={"subject": label + row.subject.removeprefix(name)})
            tables.execute("INSERT OR REPLACE INTO problem VALUES (?, ?)", (row.subject, row.model_dump_json()))
        else:
            tables.execute("INSERT INTO edit VALUES (?, ?)", (row.image_id, row.model_dump_json()))


def _weigh(workspace: Workspace, tables: sqlite3.Connection, label: str, overwrite: bool, renews: bool) -> Outcome:
    """Lay the file's edits over the earlier ones, in the table ``edit``, which then holds the edits of both.

    ``renews`` says that the file was written after the images became what they are, so that its word is of their bytes.
    """
    outcome = Outcome()
    (outcome.added,) = tables.execute("SELECT count(*) FROM edit").fetchone()
    earlier = workspace.records(STAGE, HumanEdit) if workspace.manifest(STAGE) is not None else iter(())
    for old in earlier:
        found = tables.execute("SELECT body FROM edit WHERE image_id = ?", (old.image_id,)).fetchone()
        new = HumanEdit.model_validate_json(found[0]) if found is not None else None
        if new is not None:
            outcome.added -= 1
        if new is not None and (not _disagree(old, new) or overwrite):
            kept = _united(old, new) if renews or old.image_sha256 == new.image_sha256 else old
            outcome.unchanged += kept == old
            outcome.replaced += kept != old
        else:
            kept = old
            if new is not None:
                outcome.conflicts += 1
                detail = f"{_disagree(old, new)} as in {_earlier_file(old, new)}; --overwrite takes {label}'s word"
                row = Rejected(stage=STAGE, subject=f"{label}:{old.image_id}", reason=CONFLICT, detail=detail)
                tables.execute("INSERT OR REPLACE INTO problem VALUES (?, ?)", (row.subject, row.model_dump_json()))
        tables.execute("INSERT OR REPLACE INTO edit VALUES (?, ?)", (old.image_id, kept.model_dump_json()))
    return outcome


def _disagree(old: HumanEdit, new: HumanEdit) -> str:
    """Which of caption and parts both edits have, and have differently, for the same picture; empty for neither."""
    if old.image_sha256 != new.image_sha256:
        return ""
    pairs = {"caption": (old.caption, new.caption), "parts": (old.parts, new.parts)}
    return " and ".join(what for what, (one, other) in pairs.items() if one and other and _said(one) != _said(other))


def _said(edit: HumanCaption | HumanParts) -> dict[str, Any]:
    return edit.model_dump(exclude={"origin"})


def _earlier_file(old: HumanEdit, new: HumanEdit) -> str:
    differing = [one for one, other in ((old.caption, new.caption), (old.parts, new.parts)) if one and other]
    return " and ".join(dict.fromkeys(edit.origin.file for edit in differing))


def _united(old: HumanEdit, new: HumanEdit) -> HumanEdit:
    """``new``, and of ``old`` what ``new`` does not speak of; who said the same first is kept.

    An edit of other bytes of the image is outdated as a whole.
    """
    if old.image_sha256 != new.image_sha256:
        return new
    caption = old.caption if new.caption is None or _same(old.caption, new.caption) else new.caption
    parts = old.parts if new.parts is None or _same(old.parts, new.parts) else new.parts
    return HumanEdit(image_id=old.image_id, image_sha256=old.image_sha256, caption=caption, parts=parts)


def _same(one: HumanCaption | HumanParts | None, other: HumanCaption | HumanParts) -> bool:
    return one is not None and _said(one) == _said(other)


def _books(tables: sqlite3.Connection, outcome: Outcome, label: str) -> dict[str, Any]:
    """The file's rows: images edited, and what was rejected of it with the reasons."""
    problems = [Rejected.model_validate_json(body) for (body,) in tables.execute("SELECT body FROM problem ORDER BY 1")]
    conflicts = [row for row in problems if row.reason == CONFLICT]
    return {
        "added": outcome.added,
        "replaced": outcome.replaced,
        "unchanged": outcome.unchanged,
        "conflicts": outcome.conflicts,
        "conflict_examples": [row.subject.removeprefix(f"{label}:") for row in conflicts[:EXAMPLES]],
        "reasons": dict(sorted(Counter(row.reason for row in problems).items())),
        "examples": [f"{row.subject}: {row.detail}" for row in problems[:EXAMPLES]],
    }


def _seal(workspace: Workspace, tables: sqlite3.Connection, files: list[dict[str, Any]]) -> None:
    """Write the edits beside the earlier ones, then the manifest that says that they count, then clear up."""
    folder = workspace.folder(STAGE)
    folder.mkdir(exist_ok=True)
    _keep_other_problems(workspace, tables, files[-1]["file"])
    reasons = _write_problems(folder / "rejected.jsonl", tables)
    before = workspace.manifest(STAGE)
    sealed = _write_edits(folder, tables, before.files[0].name if before is not None else None)
    manifest = Manifest(
        stage=STAGE,
        pfcvr_version=__version__,
        settings={},
        inputs={f"file {number}": entry["sha256"] for number, entry in enumerate(files, start=1)},
        rows_in=sealed.records + reasons.total(),
        kept=sealed.records,
        rejected=reasons.total(),
        reasons=dict(sorted(reasons.items())),
        files=(sealed,),
        records_sha256=hashlib.sha256(sealed.sha256.encode()).hexdigest(),
        notes={"files": files},
    )
    write_json(folder / "manifest.json", manifest.model_dump(mode="json"))
    _clear_up(folder, manifest)


def _clear_up(folder: Path, manifest: Manifest) -> None:
    """Remove the edits that ``manifest`` has replaced; a kill before this leaves them for the next run to remove."""
    for path in folder.glob("part-*.jsonl"):
        if path.name != manifest.files[0].name:
            path.unlink()
    sync_folder(folder)


def _keep_other_problems(workspace: Workspace, tables: sqlite3.Connection, label: str) -> None:
    """Take over what was rejected of other files; what was rejected of this one before is told anew."""
    for row in workspace.rejected(STAGE):
        if not row.subject.startswith(f"{label}:"):
            tables.execute("INSERT OR IGNORE INTO problem VALUES (?, ?)", (row.subject, row.model_dump_json()))


def _write_problems(path: Path, tables: sqlite3.Connection) -> Counter[str]:
    reasons: Counter[str] = Counter()
    with atomic_write(path) as file:
        for (body,) in tables.execute("SELECT body FROM problem ORDER BY subject"):
            row = Rejected.model_validate_json(body)
            reasons[row.reason] += 1
            file.write(record_line(row))
    return reasons


def _write_edits(folder: Path, tables: sqlite3.Connection, before: str | None) -> SealedFile:
    """One file beside ``before``, the sealed one, so that a kill leaves the earlier edits whole."""
    number = 0 if before is None else int(Path(before).stem.removeprefix("part-")) + 1
    name = f"part-{number:05d}.jsonl"
    digest, records = hashlib.sha256(), 0
    with atomic_write(folder / name) as file:
        for (body,) in tables.execute("SELECT body FROM edit ORDER BY image_id"):
            line = f"{body}\n".encode()
            file.write(line)
            digest.update(line)
            records += 1
    return SealedFile(name=name, records=records, sha256=digest.hexdigest())


def _summary(entry: dict[str, Any], already_done: bool = False) -> StageSummary:
    kept = entry["added"] + entry["replaced"] + entry["unchanged"]
    rejected = sum(entry["reasons"].values())
    return StageSummary(STAGE, kept + rejected, kept, rejected, entry["reasons"], entry, already_done)


def _nothing(path: Path, entry: dict[str, Any]) -> str:
    commonest: Iterable[tuple[str, int]] = Counter(entry["reasons"]).most_common(3)
    why = ", ".join(f"{count} x {reason}" for reason, count in commonest) or "it holds no edit"
    example = f", such as {entry['examples'][0]}" if entry["examples"] else ""
    return f"{path}: not one edit was taken ({why}{example}); mend the file, or give --overwrite where people disagree"
