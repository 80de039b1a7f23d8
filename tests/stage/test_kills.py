"""Kill a stage anywhere, run it again, and the sealed bytes are those of an undisturbed run."""

import resource
import signal
from pathlib import Path

import pytest
from stage.killed_run import killed_run
from stage.numbers import QUIET, keep_even, plan, sealed_bytes

from pfcvr.pipeline.status import workspace_status
from pfcvr.records import Rejected, Selected
from pfcvr.stage import run_stage
from pfcvr.store import Workspace

ROWS = 12  # six are kept, in two files


@pytest.mark.parametrize("torn", [b"", b'{"image_id": "v/00', b'{"image_id":"v/0018","vehicle_id":"v"}'])
def test_a_stage_cut_short_continues_and_repeats_nothing(workspace: Workspace, torn: bytes) -> None:
    """``torn`` is what a kill left of the last row: nothing, a piece, or all but the line break."""
    undisturbed = Workspace(workspace.root.parent / "other", create=True)
    run_stage(undisturbed, plan(), QUIET)
    worked: list[int] = []

    def interrupted(number: int) -> Selected | Rejected:
        if number == 11 and 11 not in worked:
            worked.append(11)
            raise KeyboardInterrupt
        worked.append(number)
        return keep_even(number)

    with pytest.raises(KeyboardInterrupt):
        run_stage(workspace, plan(work=interrupted, workers=1), QUIET)
    running = workspace.folder("select") / "part-running.jsonl"
    done = len(running.read_bytes().splitlines())
    with running.open("ab") as file:
        file.write(torn)
    unfinished = next(status for status in workspace_status(workspace) if status.stage == "select")
    assert (unfinished.state, unfinished.kept) == ("unfinished", done)
    assert unfinished.pending == 20 - unfinished.kept - unfinished.rejected
    run_stage(workspace, plan(work=interrupted, workers=1), QUIET)
    assert sealed_bytes(workspace) == sealed_bytes(undisturbed)


def test_a_kill_at_any_row_flush_rename_or_removal_leaves_the_same_sealed_bytes(tmp_path: Path) -> None:
    assert killed_run(0, tmp_path / "undisturbed", ROWS).returncode == 0
    expected = sealed_bytes(Workspace(tmp_path / "undisturbed"))
    kills = 0
    for kill_after in range(3, 60, 2):
        root = tmp_path / f"killed-{kill_after}"
        code = killed_run(kill_after, root, ROWS).returncode
        kills += code == -signal.SIGKILL
        assert killed_run(0, root, ROWS).returncode == 0
        assert sealed_bytes(Workspace(root)) == expected, f"killed at step {kill_after}"
        if code == 0:
            break
    else:
        pytest.fail("no run got through undisturbed; count further")
    assert kills >= 10


def test_a_full_disk_stops_the_run_and_the_rerun_completes_it(tmp_path: Path) -> None:
    """A limit on file size makes the kernel refuse a write in mid-row, as a full disk does."""
    root = tmp_path / "ws"

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    Workspace(root, create=True)
    full = killed_run(0, root, ROWS, preexec_fn=small_files)
    assert "the disk is full" in full.stderr
    assert "run the same command to continue" in full.stderr
    left = (root / "select" / "part-running.jsonl").read_bytes()
    assert 0 < len(left) <= 300
    assert killed_run(0, root, ROWS).returncode == 0
    assert [record.image_id for record in Workspace(root).records("select", Selected)] == [
        f"v/{number:04d}" for number in range(0, ROWS, 2)
    ]
