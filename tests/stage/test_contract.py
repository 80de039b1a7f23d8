"""What a stage seals, what it refuses, and when it stops itself."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stage.numbers import QUIET, keep_even, plan, sealed_bytes

from pfcvr.errors import NothingKept, SealedError, StageStopped
from pfcvr.pipeline.status import workspace_status
from pfcvr.records import Rejected, Selected
from pfcvr.stage import RunOptions, run_stage
from pfcvr.store import Workspace


def test_a_sealed_stage_holds_every_good_row_in_order_and_balances_its_books(workspace: Workspace) -> None:
    shuffled = plan(rows=lambda: [*range(10, 20), *range(10)])
    summary = run_stage(workspace, shuffled, QUIET)
    assert (summary.rows_in, summary.kept, summary.rejected, summary.reasons) == (20, 10, 10, {"odd": 10})
    kept = [record.image_id for record in workspace.records("select", Selected)]
    assert kept == [f"v/{number:04d}" for number in range(0, 20, 2)]
    assert [rejected.subject for rejected in workspace.rejected("select")] == [f"v/{n:04d}" for n in range(1, 20, 2)]


def test_running_a_sealed_stage_again_does_no_work(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)
    before = sealed_bytes(workspace)

    def must_not_run(number: int) -> Selected:
        raise AssertionError("a sealed stage worked again")

    assert run_stage(workspace, plan(work=must_not_run), QUIET).already_done
    assert sealed_bytes(workspace) == before


def test_other_settings_are_refused_with_the_flag_that_allows_them(workspace: Workspace) -> None:
    run_stage(workspace, plan(20), QUIET)
    with pytest.raises(SealedError, match=r"count \(20 before, 30 now\); rerun with --overwrite to replace it"):
        run_stage(workspace, plan(30), QUIET)
    with pytest.raises(SealedError, match=r"import \(abc before, 01234567 now\); rerun"):
        run_stage(workspace, plan(20, inputs={"import": "0123456789abcdef" * 4}), QUIET)
    overwrite = RunOptions(overwrite=True, quiet=True)
    assert run_stage(workspace, plan(30), overwrite).rows_in == 30
    assert run_stage(workspace, plan(30), overwrite).already_done, "what still holds is not made again"


def test_an_unforeseen_error_rejects_its_row_and_no_other(workspace: Workspace) -> None:
    def fails_on_four(number: int) -> Selected | Rejected:
        return Selected(image_id=f"v/{number:04d}", vehicle_id=["not text"]) if number == 4 else keep_even(number)

    summary = run_stage(workspace, plan(work=fails_on_four), QUIET)
    assert (summary.kept, summary.reasons) == (9, {"odd": 10, "unexpected_error": 1})
    rejected = next(row for row in workspace.rejected("select") if row.reason == "unexpected_error")
    assert rejected.subject == "v/0004"
    assert "ValidationError" in rejected.detail


def test_a_run_stops_itself_when_most_rows_fail_for_one_reason(workspace: Workspace) -> None:
    def refused(number: int) -> Rejected:
        return Rejected(stage="select", subject=f"v/{number:04d}", reason="server_gone")

    with pytest.raises(StageStopped, match=r"200 of the last 200 rows .* 'server_gone'.*--retry server_gone"):
        run_stage(workspace, plan(1000, work=refused), QUIET)
    assert workspace.manifest("select") is None
    summary = run_stage(workspace, plan(1000), RunOptions(retry="server_gone", quiet=True))
    assert (summary.kept, summary.reasons) == (500, {"odd": 500})


def test_a_stage_that_keeps_nothing_is_an_error_and_not_sealed(workspace: Workspace) -> None:
    def reject_all(number: int) -> Rejected:
        return Rejected(stage="select", subject=f"v/{number:04d}", reason="odd")

    with pytest.raises(NothingKept, match=r"kept nothing \(20 x odd\); see .*rejected-running.jsonl"):
        run_stage(workspace, plan(work=reject_all), QUIET)
    assert workspace.manifest("select") is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=1, max_size=12))
def test_any_text_can_name_an_image(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    names = [name for name in names if name.isprintable()] or ["plain"]
    workspace = Workspace(tmp_path_factory.mktemp("names") / "ws", create=True)
    named = plan(
        rows=lambda: names, key=str, total=None, work=lambda name: Selected(image_id=name, vehicle_id="v"), settings={}
    )
    run_stage(workspace, named, QUIET)
    assert [record.image_id for record in workspace.records("select", Selected)] == sorted(names)


def test_a_limited_run_leaves_the_rest_pending_and_the_next_one_seals_the_same_bytes(workspace: Workspace) -> None:
    some = run_stage(workspace, plan(), RunOptions(quiet=True, limit=6))
    assert (some.rows_in, some.kept, some.rejected, some.pending) == (20, 3, 3, 14)
    assert some.text().endswith("(odd: 3), 14 pending: run the same command without --limit to go on")
    (status,) = (row for row in workspace_status(workspace) if row.stage == "select")
    assert (status.state, status.pending) == ("unfinished", 14)
    assert run_stage(workspace, plan(), QUIET).kept == 10
    whole = Workspace(workspace.root.parent / "whole", create=True)
    run_stage(whole, plan(), RunOptions(quiet=True, limit=20))
    assert sealed_bytes(whole) == sealed_bytes(workspace)


def test_a_slow_row_holds_up_no_other(workspace: Workspace) -> None:
    others_written = threading.Event()
    running = workspace.folder("select") / "part-running.jsonl"

    def work(number: int) -> Selected:
        if number == 0:
            assert others_written.wait(30), "the rows after the slow one were never written"
        elif len(running.read_bytes().splitlines()) >= 40:
            others_written.set()
        return Selected(image_id=f"v/{number:04d}", vehicle_id="v")

    assert run_stage(workspace, plan(100, work=work), QUIET).kept == 100


def test_a_run_that_ends_early_tells_the_rows_at_work_to_give_up(workspace: Workspace) -> None:
    told = threading.Event()

    def work(number: int) -> Selected:
        if number == 0:
            raise StageStopped("the server is gone")
        told.wait(30)
        raise StageStopped("given up")

    with pytest.raises(StageStopped, match="the server is gone"):
        run_stage(workspace, plan(work=work, give_up=told.set), QUIET)
    assert told.is_set()
    assert run_stage(workspace, plan(), QUIET).rows_in == 20
