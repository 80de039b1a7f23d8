"""What a stage does, how a run of it treats what it finds, and the books it leaves.

``pfcvr.stage`` runs a StagePlan; nothing here touches the disk.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pfcvr.errors import PfcvrError
from pfcvr.files import DISK_FULL, canonical_json
from pfcvr.records import Record, Rejected

Row = TypeVar("Row")


@dataclass(frozen=True)
class StagePlan(Generic[Row]):
    """What a stage does, apart from how a run survives.

    ``rows`` yields the input in a fixed order and may be called again; ``key`` names a row; ``work`` turns it into a
    record with that key or a Rejected with that subject. ``work_many`` does the same for several rows at once, in their
    order: every ``batch`` rows of the input, always the same. ``notes`` must follow from inputs and settings alone.
    ``follows_row`` says that each result depends on its own row and not on which others there are: when only the images
    of the workspace change, results of unchanged rows are kept. ``outdated`` says that sealed records no longer hold
    although settings and inputs are the same: they are made anew. ``normal_reasons`` are rejections that never stop a
    run, however many there are. ``live`` adds to the progress line;
    ``give_up`` is called once when the run ends early, so that the rows at work end soon.
    """

    name: str
    kind: type[Record]
    settings: dict[str, Any]
    inputs: dict[str, str]
    rows: Callable[[], Iterable[Row]]
    key: Callable[[Row], str]
    work: Callable[[Row], Record | Rejected]
    work_many: Callable[[Sequence[Row]], Sequence[Record | Rejected]] | None = None
    batch: int = 1
    total: int | None = None
    workers: int = 1
    follows_row: bool = False
    outdated: bool = False
    notes: Callable[[], dict[str, Any]] = dict
    normal_reasons: frozenset[str] = frozenset()
    live: Callable[[], str] = str
    give_up: Callable[[], None] = lambda: None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Settings and inputs as they read after a trip through JSON."""
        fingerprint: dict[str, Any] = json.loads(canonical_json({"settings": self.settings, "inputs": self.inputs}))
        return fingerprint


@dataclass(frozen=True)
class RunOptions:
    """How this run treats what it finds.

    ``overwrite`` replaces what was made from other inputs or altered since, and only that: work that still holds is
    never done twice.
    ``retry`` takes up the rows rejected for that reason again. ``limit`` ends the run after so many rows; the rest
    stays pending.
    """

    overwrite: bool = False
    retry: str | None = None
    quiet: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class StageSummary:
    """The books of a stage: ``rows_in == kept + rejected + pending``; a sealed stage has none pending.

    ``notes["remark"]``, where there is one, is a sentence that nobody should miss.
    """

    stage: str
    rows_in: int
    kept: int
    rejected: int
    reasons: dict[str, int]
    notes: dict[str, Any] = field(default_factory=dict)
    already_done: bool = False
    pending: int = 0

    def text(self) -> str:
        """The books in one line, commonest reasons first, and the remark in another."""
        state = "already done, " if self.already_done else ""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        why = ", ".join(f"{reason}: {count:,}" for reason, count in ordered)
        books = f"{self.rows_in:,} in, {self.kept:,} kept, {self.rejected:,} rejected" + (f" ({why})" if why else "")
        rest = f", {self.pending:,} pending: run the same command without --limit to go on" if self.pending else ""
        remark = f"\n{self.notes['remark']}" if "remark" in self.notes else ""
        return f"{self.stage}: {state}{books}{rest}{remark}"


def work_safely(plan: StagePlan[Row], rows: Sequence[Row]) -> list[Record | Rejected]:
    """The result of each of ``rows``; an error nobody foresaw rejects its own row instead of ending the run.

    When ``work_many`` fails, which row was to blame shows by working on them one by one.
    """
    if plan.work_many is not None and len(rows) > 1:
        try:
            return list(plan.work_many(rows))
        except Exception as error:
            if ends_run(error):
                raise
    return [_work_on_one(plan, row) for row in rows]


def _work_on_one(plan: StagePlan[Row], row: Row) -> Record | Rejected:
    try:
        return plan.work(row)
    except Exception as error:
        if ends_run(error):
            raise
        detail = f"{type(error).__name__}: {error}"
        return Rejected(stage=plan.name, subject=plan.key(row), reason="unexpected_error", detail=detail)


def ends_run(error: Exception) -> bool:
    """Whether an error is about the run and not about a row: foreseen ones, no memory, no room on the disk."""
    return isinstance(error, PfcvrError | MemoryError) or (isinstance(error, OSError) and error.errno in DISK_FULL)
