"""``--retry REASON`` takes up the rows that were rejected for it, and no other."""

import pytest
from stage.numbers import QUIET, keep_even, plan

from pfcvr.errors import StageStopped, UsageError
from pfcvr.records import Rejected, Selected
from pfcvr.stage import RunOptions, run_stage
from pfcvr.store import Workspace


def test_retry_takes_up_the_rows_of_one_reason_alone(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)
    worked: list[int] = []

    def mended(number: int) -> Selected:
        worked.append(number)
        return Selected(image_id=f"v/{number:04d}", vehicle_id="v")

    summary = run_stage(workspace, plan(work=mended), RunOptions(retry="odd", quiet=True))
    assert sorted(worked) == list(range(1, 20, 2))
    assert (summary.kept, summary.rejected) == (20, 0)
    with pytest.raises(UsageError, match="no row was rejected for 'odd'; reasons here: nothing was rejected"):
        run_stage(workspace, plan(work=mended), RunOptions(retry="odd", quiet=True))


def test_retry_for_a_reason_that_no_row_has_stops_before_any_work(workspace: Workspace) -> None:
    worked: list[int] = []

    def work(number: int) -> Selected | Rejected:
        worked.append(number)
        return keep_even(number)

    unknown = RunOptions(retry="even", quiet=True)
    with pytest.raises(UsageError, match=r"no row was rejected for 'even'; reasons here: nothing was rejected; leave"):
        run_stage(workspace, plan(work=work), unknown)
    run_stage(workspace, plan(work=work), RunOptions(limit=5, quiet=True))
    assert workspace.manifest("select") is None
    worked.clear()
    with pytest.raises(UsageError, match=r"no row was rejected for 'even'; reasons here: odd; give one"):
        run_stage(workspace, plan(work=work), unknown)
    assert worked == []


def test_a_retry_that_was_interrupted_goes_on_with_the_same_command(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)

    def mended(number: int) -> Selected:
        return Selected(image_id=f"v/{number:04d}", vehicle_id="v")

    def interrupted(number: int) -> Selected:
        raise StageStopped("interrupted")

    again = RunOptions(retry="odd", quiet=True)
    with pytest.raises(StageStopped):
        run_stage(workspace, plan(work=interrupted), again)
    summary = run_stage(workspace, plan(work=mended), again)
    assert (summary.kept, summary.rejected) == (20, 0)
    assert not (workspace.folder("select") / "draft.json").exists()
