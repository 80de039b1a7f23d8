"""The contract every stage of the data half keeps: continue after a kill, lose nothing, balance the books, seal.

While a stage runs, each finished row is appended to ``part-running.jsonl`` or ``rejected-running.jsonl`` at once.
Sealing sorts them by key into ``part-00000.jsonl`` and on and ``rejected.jsonl``, then writes ``manifest.json`` by
rename. Whatever a kill leaves behind is either complete or rebuilt by the next run: sealed bytes do not depend on how
often a run was interrupted. A sealed stage that is made anew stays as it is until a record of the new one is on disk.
Clock times, pids and attempts go to ``telemetry.jsonl``, which is never sealed.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic

from pfcvr import __version__
from pfcvr.errors import NothingKept, SealedError, StageStopped, UsageError, WorkspaceError
from pfcvr.files import atomic_write, canonical_json, disk_full_stops, write_json
from pfcvr.jsonl import cut_torn_line, lines_at, parse_line, record_line, whole_lines
from pfcvr.progress import Progress
from pfcvr.records import Record, Rejected
from pfcvr.row_index import RowIndex
from pfcvr.row_pool import finished_rows
from pfcvr.stage_files import (
    DRAFT,
    MANIFEST,
    REJECTED,
    REJECTED_RUNNING,
    RUNNING,
    TELEMETRY,
    kept_so_far,
    read_draft,
    rejected_reasons,
    rejected_so_far,
    remove_sealed_files,
    remove_working_files,
)
from pfcvr.stage_plan import Row, RunOptions, StagePlan, StageSummary, work_safely
from pfcvr.stage_reuse import DIGESTS, keep_unchanged, only_images_differ, write_digests
from pfcvr.store import Manifest, SealedFile, Workspace
from pfcvr.wording import differences

__all__ = ["RunOptions", "StagePlan", "StageSummary", "run_stage"]

RECORDS_PER_FILE = 50_000
BREAKER_WINDOW = 200
BREAKER_SHARE = 0.9
STILL_THERE = "; what was sealed before is still there"


def run_stage(workspace: Workspace, plan: StagePlan[Row], options: RunOptions) -> StageSummary:
    """Run ``plan`` to its seal, continuing whatever an earlier run left.

    Raises SealedError when the stage was made from other inputs, StageStopped when most recent rows fail for one
    reason or the disk is full, NothingKept when no row was good. The caller holds the workspace lock.
    """
    with disk_full_stops(f"{workspace.root}: stage '{plan.name}'"):
        sealed = _sealed_before(workspace, plan, options)
        if sealed is not None:
            return _summary(sealed, already_done=True)
        run = _Run(workspace.folder(plan.name), plan, options)
        try:
            pending = run.process_rows()
            return run.summary_so_far(pending) if pending > 0 else _summary(run.seal())
        finally:
            run.close()


def _summary(manifest: Manifest, already_done: bool = False) -> StageSummary:
    return StageSummary(
        stage=manifest.stage,
        rows_in=manifest.rows_in,
        kept=manifest.kept,
        rejected=manifest.rejected,
        reasons=manifest.reasons,
        notes=manifest.notes,
        already_done=already_done,
    )


def _sealed_before(workspace: Workspace, plan: StagePlan[Row], options: RunOptions) -> Manifest | None:
    """The manifest if nothing is to be done; otherwise None, and what the run starts from lies ready."""
    folder = workspace.folder(plan.name)
    manifest = workspace.manifest(plan.name)
    _check_retry(folder, manifest, options.retry)
    found = manifest.fingerprint if manifest is not None else read_draft(folder).get("fingerprint")
    if found is not None and found != plan.fingerprint:
        has_work = manifest is not None or kept_so_far(folder) > 0
        keeps = manifest is not None and plan.follows_row and only_images_differ(found, plan.fingerprint)
        if has_work and not options.overwrite:
            what = "work on the new and changed images alone" if keeps else "replace it"
            raise SealedError(
                f"{folder}: already made from other inputs: {differences(found, plan.fingerprint)}; rerun with "
                f"--overwrite to {what}"
            )
        if keeps and manifest is not None and workspace.is_intact(manifest) and (folder / DIGESTS).exists():
            keep_unchanged(folder, [file.name for file in manifest.files], plan)
        else:
            remove_working_files(folder)
        return None
    if manifest is not None and (plan.outdated or (options.overwrite and _is_altered(workspace, manifest))):
        remove_working_files(folder)
        return None
    if manifest is not None and options.retry is not None:
        _reopen(folder, manifest)
        return None
    if manifest is not None:
        remove_working_files(folder)
    return manifest


def _check_retry(folder: Path, manifest: Manifest | None, reason: str | None) -> None:
    """Raise UsageError for a ``reason`` that no row of the stage was rejected for, nor taken up again for before."""
    if reason is None:
        return
    if manifest is not None:
        reasons = set(manifest.reasons)
    else:
        reasons = {*rejected_so_far(folder), *read_draft(folder).get("retried", ())}
    if reason not in reasons:
        known = (
            f"{', '.join(sorted(reasons))}; give one of them" if reasons else "nothing was rejected; leave --retry out"
        )
        raise UsageError(f"{folder}: no row was rejected for '{reason}'; reasons here: {known}")


def _is_altered(workspace: Workspace, manifest: Manifest) -> bool:
    """Whether the files of a sealed stage no longer are what its manifest says."""
    rejected = workspace.folder(manifest.stage) / REJECTED
    return not workspace.is_intact(manifest) or rejected_reasons(rejected) != manifest.reasons


def _reopen(folder: Path, manifest: Manifest) -> None:
    """Lay all records of a sealed stage ready for a run that continues it."""
    with atomic_write(folder / RUNNING) as running:
        for file in manifest.files:
            running.write((folder / file.name).read_bytes())
    with atomic_write(folder / REJECTED_RUNNING) as rejected:
        rejected.writelines(line for _, line in whole_lines(folder / REJECTED))
    write_json(folder / DRAFT, {"fingerprint": manifest.fingerprint, "total": manifest.rows_in})


def _chunks(lines: Iterator[bytes], size: int) -> Iterator[Iterator[bytes]]:
    """``lines`` in runs of at most ``size``, each consumed before the next is asked for."""
    for first in lines:
        yield chain([first], islice(lines, size - 1))


@dataclass(frozen=True)
class _Batch(Generic[Row]):
    """Rows that belong together, and the keys of those whose results are wanted.

    A batch holds the same rows in every run: what a model says of an image may change in the last digit with the
    images beside it, and sealed bytes must not depend on where a run was interrupted.
    """

    rows: list[Row]
    wanted: frozenset[str]

    def finish(self, plan: StagePlan[Row]) -> list[Record | Rejected]:
        """The wanted results."""
        results = zip(self.rows, work_safely(plan, self.rows), strict=True)
        return [result for row, result in results if plan.key(row) in self.wanted]


class _Run(Generic[Row]):
    """One run of one stage, from opening its folder to the seal.

    A sealed stage that it replaces is dropped once a record of the new one is on disk, at the latest by the seal: until
    then, whatever keeps the run from its work costs nothing.
    """

    def __init__(self, folder: Path, plan: StagePlan[Row], options: RunOptions) -> None:
        self._folder, self._plan, self._options = folder, plan, options
        folder.mkdir(parents=True, exist_ok=True)
        self._replaces_sealed = (folder / MANIFEST).exists()
        if not self._replaces_sealed:
            remove_sealed_files(folder)
        for half_written in folder.glob(".*.partial"):
            half_written.unlink()
        if not (folder / DRAFT).exists():
            write_json(folder / DRAFT, {"fingerprint": plan.fingerprint, "total": plan.total})
        self._index = RowIndex()
        self._recover()
        self._found = len(self._index)
        self._kept_file = (folder / RUNNING).open("ab")
        self._rejected_file = (folder / REJECTED_RUNNING).open("ab")
        self._recent: deque[str | None] = deque(maxlen=BREAKER_WINDOW)
        self._telemetry("started", rows_done=len(self._index))

    def _recover(self) -> None:
        cut_torn_line(self._folder / RUNNING)
        cut_torn_line(self._folder / REJECTED_RUNNING)
        self._drop_retried()
        files = ((REJECTED_RUNNING, Rejected), (RUNNING, self._plan.kind))
        for name, kind in files:
            for offset, line in whole_lines(self._folder / name):
                record = parse_line(line, kind, self._folder / name)
                self._index.add(record.key, offset, rejected=isinstance(record, Rejected))

    def _drop_retried(self) -> None:
        if self._options.retry is None:
            return
        draft = read_draft(self._folder)
        draft["retried"] = sorted({*draft.get("retried", ()), self._options.retry})
        write_json(self._folder / DRAFT, draft)
        path = self._folder / REJECTED_RUNNING
        with atomic_write(path) as file:
            for _, line in whole_lines(path):
                if parse_line(line, Rejected, path).reason != self._options.retry:
                    file.write(line)

    def close(self) -> None:
        self._kept_file.close()
        self._rejected_file.close()
        if self._replaces_sealed and len(self._index) == self._found:
            remove_working_files(self._folder)
        self._index.close()

    def process_rows(self) -> int:
        """Work through the rows that are not done yet, several at a time; append each result as it comes.

        Returns how many rows the limit of this run has left pending.
        """
        plan = self._plan
        batches = finished_rows(lambda batch: batch.finish(plan), self._batches_to_do(), plan.workers, plan.give_up)
        done = len(self._index)
        with Progress(plan.name, plan.total, done, self._options.quiet, live=plan.live) as progress, closing(batches):
            for results in batches:
                for result in results:
                    self._append(result, progress)
        return self._rows_in - len(self._index) if self._options.limit is not None else 0

    def _batches_to_do(self) -> Iterator[_Batch[Row]]:
        """The batches that lack a result, until this run's limit is reached; all rows are counted."""
        plan, limit = self._plan, self._options.limit
        self._rows_in = given = 0
        rows = iter(plan.rows())
        while batch := list(islice(rows, plan.batch)):
            self._rows_in += len(batch)
            lacking = [key for key in map(plan.key, batch) if key not in self._index]
            wanted = frozenset(lacking if limit is None else lacking[: max(limit - given, 0)])
            given += len(wanted)
            if wanted:
                yield _Batch(batch, wanted)

    def _append(self, result: Record | Rejected, progress: Progress) -> None:
        rejected = isinstance(result, Rejected)
        file = self._rejected_file if rejected else self._kept_file
        offset = file.seek(0, os.SEEK_END)
        file.write(record_line(result))
        file.flush()
        self._index.add(result.key, offset, rejected)
        if not rejected:
            self._replace_sealed()
        reason = result.reason if isinstance(result, Rejected) else None
        progress.advance(rejected_because=reason)
        self._stop_when_most_fail(reason)

    def _replace_sealed(self) -> None:
        if self._replaces_sealed:
            os.fsync(self._kept_file.fileno())
            remove_sealed_files(self._folder)
            self._replaces_sealed = False

    def _stop_when_most_fail(self, reason: str | None) -> None:
        if reason in self._plan.normal_reasons:
            return
        self._recent.append(reason)
        if reason is None or len(self._recent) < BREAKER_WINDOW:
            return
        failing = self._recent.count(reason)
        if failing >= BREAKER_SHARE * BREAKER_WINDOW:
            self._telemetry("stopped", reason=reason)
            how = f"again{STILL_THERE}" if self._replaces_sealed else f"with --retry {reason} to continue"
            raise StageStopped(
                f"stage '{self._plan.name}': {failing} of the last {BREAKER_WINDOW} rows were rejected for '{reason}'; "
                f"look at {self._folder / REJECTED_RUNNING}, mend the cause and run the same command {how}"
            )

    def summary_so_far(self, pending: int) -> StageSummary:
        """The books of a run that its limit ended."""
        kept, rejected = self._index.counts()
        reasons = dict(rejected_so_far(self._folder))
        return StageSummary(self._plan.name, self._rows_in, kept, rejected, reasons, pending=pending)

    def seal(self) -> Manifest:
        """Sort, write, balance the books, and rename the manifest into place."""
        kept, rejected = self._index.counts()
        if kept + rejected != self._rows_in:
            raise WorkspaceError(
                f"stage '{self._plan.name}': the books do not balance: {self._rows_in} rows in, {kept} kept, "
                f"{rejected} rejected; the input changed while it was read, remove {self._folder} and run it again"
            )
        reasons = rejected_so_far(self._folder)
        if kept == 0:
            top = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3)) or "no row came in"
            raise NothingKept(
                f"stage '{self._plan.name}' kept nothing ({top}); see {self._folder / REJECTED_RUNNING} for each row, "
                f"mend the input and run the stage again{STILL_THERE if self._replaces_sealed else ''}"
            )
        self._replace_sealed()
        files = self._write_sorted_parts()
        self._sort_rejected()
        if self._plan.follows_row:
            write_digests(self._folder, self._plan)
        manifest = Manifest(
            stage=self._plan.name,
            pfcvr_version=__version__,
            **self._plan.fingerprint,
            rows_in=self._rows_in,
            kept=kept,
            rejected=rejected,
            reasons=dict(sorted(reasons.items())),
            files=files,
            records_sha256=hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest(),
            notes=json.loads(canonical_json(self._plan.notes())),
        )
        write_json(self._folder / MANIFEST, manifest.model_dump(mode="json"))
        remove_working_files(self._folder)
        self._telemetry("sealed", kept=kept, rejected=rejected)
        return manifest

    def _write_sorted_parts(self) -> tuple[SealedFile, ...]:
        files = []
        with (self._folder / RUNNING).open("rb") as running:
            lines = lines_at(running, self._index.offsets(rejected=False))
            for number, chunk in enumerate(_chunks(lines, RECORDS_PER_FILE)):
                name = f"part-{number:05d}.jsonl"
                digest, count = hashlib.sha256(), 0
                with atomic_write(self._folder / name) as part:
                    for line in chunk:
                        part.write(line)
                        digest.update(line)
                        count += 1
                files.append(SealedFile(name=name, records=count, sha256=digest.hexdigest()))
        return tuple(files)

    def _sort_rejected(self) -> None:
        with (self._folder / REJECTED_RUNNING).open("rb") as unsorted, atomic_write(self._folder / REJECTED) as file:
            file.writelines(lines_at(unsorted, self._index.offsets(rejected=True)))

    def _telemetry(self, event: str, **values: Any) -> None:
        row = {"event": event, "time": time.time(), "pid": os.getpid(), **values}
        with (self._folder / TELEMETRY).open("a", encoding="utf-8") as file:
            file.write(canonical_json(row) + "\n")
