"""Rows that are worked on together: the same batches and the same books, whatever happens to one of them."""

from collections.abc import Sequence

import pytest
from stage.numbers import QUIET, keep_even, plan, sealed_bytes

from pfcvr.errors import StageStopped
from pfcvr.records import Rejected, Selected
from pfcvr.stage import RunOptions, run_stage
from pfcvr.store import Workspace


def sum_of_batch(numbers: Sequence[int]) -> list[Selected | Rejected]:
    """What a row becomes depends, as with a model's last digits, on the rows beside it."""
    kept = sum(numbers)
    results = map(keep_even, numbers)
    return [
        result.model_copy(update={"vehicle_id": str(kept)}) if isinstance(result, Selected) else result
        for result in results
    ]


@pytest.mark.parametrize("stopped_at", [0, 3, 4, 11, 19])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_batches_hold_the_same_rows_however_a_run_was_interrupted(
    workspace: Workspace, stopped_at: int, lost: int
) -> None:
    undisturbed = Workspace(workspace.root.parent / "other", create=True)
    batched = {"batch": 4, "work_many": sum_of_batch, "workers": 1}
    run_stage(undisturbed, plan(**batched), QUIET)

    def interrupted(numbers: Sequence[int]) -> list[Selected | Rejected]:
        if stopped_at in numbers:
            raise KeyboardInterrupt
        return sum_of_batch(numbers)

    with pytest.raises(KeyboardInterrupt):
        run_stage(workspace, plan(**batched | {"work_many": interrupted}), QUIET)
    running = workspace.folder("select") / "part-running.jsonl"
    lines = running.read_bytes().splitlines(keepends=True)
    running.write_bytes(b"".join(lines[: len(lines) - lost]))
    run_stage(workspace, plan(**batched), QUIET)
    assert sealed_bytes(workspace) == sealed_bytes(undisturbed)


def test_one_bad_row_does_not_cost_its_batch(workspace: Workspace) -> None:
    batches: list[list[int]] = []

    def fails_with_six(numbers: Sequence[int]) -> list[Selected | Rejected]:
        batches.append(list(numbers))
        if 6 in numbers:
            raise ValueError("a picture that breaks its batch")
        return [keep_even(number) for number in numbers]

    def alone(number: int) -> Selected | Rejected:
        return fails_with_six([number])[0]

    summary = run_stage(workspace, plan(work=alone, work_many=fails_with_six, batch=8, workers=1), QUIET)
    assert (summary.kept, summary.reasons) == (9, {"odd": 10, "unexpected_error": 1})
    assert [rejected.subject for rejected in workspace.rejected("select") if "breaks" in rejected.detail] == ["v/0006"]
    assert batches == [list(range(8)), *([n] for n in range(8)), list(range(8, 16)), list(range(16, 20))]


def test_a_limited_run_of_batches_keeps_to_its_limit_and_the_rest_follows(workspace: Workspace) -> None:
    batched = plan(batch=4, work_many=sum_of_batch, workers=1)
    first = run_stage(workspace, batched, RunOptions(limit=6, quiet=True))
    assert (first.kept + first.rejected, first.pending) == (6, 14)
    whole = run_stage(workspace, batched, QUIET)
    assert (whole.kept, whole.rejected) == (10, 10)
    expected = {str(sum(range(start, start + 4))) for start in range(0, 20, 4)}
    assert {record.vehicle_id for record in workspace.records("select", Selected)} == expected


def test_a_run_of_batches_stops_itself_as_one_of_rows_does(workspace: Workspace) -> None:
    def refused(numbers: Sequence[int]) -> list[Rejected]:
        return [Rejected(stage="select", subject=f"v/{number:04d}", reason="no_memory") for number in numbers]

    with pytest.raises(StageStopped, match="200 of the last 200 rows were rejected for 'no_memory'"):
        run_stage(workspace, plan(1000, work_many=refused, batch=16), QUIET)
    rejected = workspace.folder("select") / "rejected-running.jsonl"
    assert len(rejected.read_bytes().splitlines()) == 200
