"""A sealed stage that is made anew is there until its successor has a record of its own."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from stage.killed_run import killed_run
from stage.numbers import QUIET, keep_even, plan, sealed_bytes

from pfcvr.errors import CheckpointError, NothingKept, StageStopped
from pfcvr.pipeline.audit.books import book_problems
from pfcvr.pipeline.status import workspace_status
from pfcvr.records import Rejected, Selected
from pfcvr.stage import RunOptions, run_stage
from pfcvr.stage_files import kept_so_far
from pfcvr.store import Workspace

OVERWRITE = RunOptions(overwrite=True, quiet=True)


def cannot_start(number: int) -> Selected:
    raise CheckpointError("the weights are damaged")


def reject(number: int) -> Rejected:
    return Rejected(stage="select", subject=f"v/{number:04d}", reason="not_readable")


def state(workspace: Workspace) -> str:
    """``sealed``, or what else the stage is; here nobody made the images anew."""
    found = next(row.state for row in workspace_status(workspace) if row.stage == "select")
    return "sealed" if found == "stale" else found


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (OVERWRITE, {"count": 30}),
        (OVERWRITE, {"count": 20, "outdated": True}),
        (OVERWRITE, {"count": 20, "follows_row": True, "inputs": {"import": "grown"}, "rows": lambda: range(24)}),
        (RunOptions(retry="odd", quiet=True), {"count": 20}),
    ],
    ids=["other settings", "outdated", "grown", "retry"],
)
def test_work_that_cannot_start_leaves_the_sealed_stage_as_it_was(
    workspace: Workspace, options: RunOptions, changes: dict[str, Any]
) -> None:
    run_stage(workspace, plan(follows_row=True), QUIET)
    before = sealed_bytes(workspace)
    with pytest.raises(CheckpointError):
        run_stage(workspace, plan(**changes | {"work": cannot_start}), options)
    assert sealed_bytes(workspace) == before
    assert state(workspace) == "sealed"
    assert run_stage(workspace, plan(follows_row=True), QUIET).already_done
    mended = run_stage(workspace, plan(**changes), options)
    assert not mended.already_done
    assert mended.kept == mended.rows_in / 2


def test_altered_files_stay_until_they_can_be_made_anew(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)
    whole = sealed_bytes(workspace)
    part = workspace.folder("select") / "part-00000.jsonl"
    part.write_bytes(part.read_bytes() + b"\n")
    with pytest.raises(CheckpointError):
        run_stage(workspace, plan(work=cannot_start), OVERWRITE)
    assert part.exists()
    run_stage(workspace, plan(), OVERWRITE)
    assert sealed_bytes(workspace) == whole


def test_new_rows_that_are_all_rejected_replace_nothing(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)
    kept = list(workspace.records("select", Selected))
    with pytest.raises(NothingKept, match="rejected-running.jsonl for each row.*what was sealed before is still there"):
        run_stage(workspace, plan(30, work=reject), OVERWRITE)
    with pytest.raises(StageStopped, match="run the same command again; what was sealed before is still there"):
        run_stage(workspace, plan(300, work=reject), OVERWRITE)
    assert list(workspace.records("select", Selected)) == kept
    assert not list(book_problems(workspace, workspace.sealed("select")))
    assert run_stage(workspace, plan(300), OVERWRITE).kept == 150


def test_from_its_first_record_on_the_new_stage_is_the_unfinished_one(workspace: Workspace) -> None:
    run_stage(workspace, plan(), QUIET)

    def stops_at_five(number: int) -> Selected | Rejected:
        if number == 5:
            raise StageStopped("the server is gone")
        return keep_even(number)

    with pytest.raises(StageStopped, match="the server is gone"):
        run_stage(workspace, plan(30, work=stops_at_five, workers=1), OVERWRITE)
    (status,) = (row for row in workspace_status(workspace) if row.stage == "select")
    assert (status.state, status.kept, status.rejected, status.pending) == ("unfinished", 3, 2, 25)
    worked: list[int] = []

    def noted(number: int) -> Selected | Rejected:
        worked.append(number)
        return keep_even(number)

    assert run_stage(workspace, plan(30, work=noted), QUIET).kept == 15
    assert sorted(worked) == list(range(5, 30))


def test_a_stage_whose_images_only_became_fewer_is_replaced_without_any_work(workspace: Workspace) -> None:
    run_stage(workspace, plan(follows_row=True), QUIET)
    fewer = {"follows_row": True, "inputs": {"import": "fewer"}, "rows": lambda: range(10)}
    assert run_stage(workspace, plan(work=cannot_start, **fewer), OVERWRITE).kept == 5
    fresh = Workspace(workspace.root.parent / "fresh", create=True)
    run_stage(fresh, plan(**fewer), QUIET)
    assert sealed_bytes(workspace) == sealed_bytes(fresh)


def test_a_kill_at_any_point_leaves_the_old_stage_whole_or_the_new_one_begun(tmp_path: Path) -> None:
    for name, count in (("old", 8), ("new", 6)):
        run_stage(Workspace(tmp_path / name, create=True), plan(count), QUIET)
    old, new = (sealed_bytes(Workspace(tmp_path / name)) for name in ("old", "new"))
    seen = set()
    for kill_after in range(1, 80, 2):
        workspace = Workspace(shutil.copytree(tmp_path / "old", tmp_path / f"killed-{kill_after}"))
        code = killed_run(kill_after, workspace.root, 6, overwrite=True).returncode
        seen.add(state(workspace))
        manifest = workspace.manifest("select")
        if manifest is None:
            assert kept_so_far(workspace.folder("select")) > 0, f"neither is there after a kill at step {kill_after}"
        else:
            assert sealed_bytes(workspace).items() >= (old if manifest.rows_in == 8 else new).items()
            assert not list(book_problems(workspace, manifest))
        run_stage(workspace, plan(6), OVERWRITE)
        assert sealed_bytes(workspace) == new, f"killed at step {kill_after}"
        if code == 0:
            break
        assert code == -signal.SIGKILL
    else:
        pytest.fail("no run got through undisturbed; count further")
    assert seen == {"sealed", "unfinished"}
