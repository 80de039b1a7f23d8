"""Kill a stage anywhere, run it again, and the sealed bytes are those of an undisturbed run."""

import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from stage.numbers import QUIET, keep_even, plan, sealed_bytes

from pfcvr.pipeline.status import workspace_status
from pfcvr.records import Rejected, Selected
from pfcvr.stage import run_stage
from pfcvr.store import Workspace


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


KILLED_RUN = """
    import os, signal, sys, time
    from pathlib import Path
    from pfcvr import files, stage
    from pfcvr.records import Selected
    from pfcvr.store import Workspace

    kill_after, root = int(sys.argv[1]), Path(sys.argv[2])
    steps = 0

    def count_down(call):
        def counted(*arguments, **named):
            global steps
            steps += 1
            if steps == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)
        return counted

    os.fsync = count_down(os.fsync)
    Path.replace = count_down(Path.replace)
    Path.unlink = count_down(Path.unlink)

    def work(number):
        count_down(lambda: None)()
        return Selected(image_id=f"v/{number:03d}", vehicle_id="v")

    stage.RECORDS_PER_FILE = 4
    plan = stage.StagePlan(
        name="select", kind=Selected, settings={}, inputs={}, rows=lambda: range(10),
        key=lambda number: f"v/{number:03d}", work=work, total=10,
    )
    workspace = Workspace(root, create=True)
    with workspace.lock():
        stage.run_stage(workspace, plan, stage.RunOptions(quiet=True))
"""


def killed_run(kill_after: int, root: Path) -> int:
    """Exit code of a process that kills itself at its ``kill_after``-th row, flush, rename or removal."""
    script = textwrap.dedent(KILLED_RUN)
    return subprocess.run([sys.executable, "-c", script, str(kill_after), str(root)], check=False).returncode


def test_a_kill_at_any_row_flush_rename_or_removal_leaves_the_same_sealed_bytes(tmp_path: Path) -> None:
    assert killed_run(0, tmp_path / "undisturbed") == 0
    expected = sealed_bytes(Workspace(tmp_path / "undisturbed"))
    kills = 0
    for kill_after in range(3, 60, 2):
        root = tmp_path / f"killed-{kill_after}"
        code = killed_run(kill_after, root)
        kills += code == -signal.SIGKILL
        assert killed_run(0, root) == 0
        assert sealed_bytes(Workspace(root)) == expected, f"killed at step {kill_after}"
        if code == 0:
            break
    else:
        pytest.fail("no run got through undisturbed; count further")
    assert kills >= 10


def test_a_full_disk_stops_the_run_and_the_rerun_completes_it(tmp_path: Path) -> None:
    """A limit on file size makes the kernel refuse a write in mid-row, as a full disk does."""
    root = tmp_path / "ws"
    command = [sys.executable, "-c", textwrap.dedent(KILLED_RUN), "0", str(root)]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    Workspace(root, create=True)
    full = subprocess.run(command, preexec_fn=small_files, capture_output=True, text=True, check=False)
    assert "the disk is full" in full.stderr
    assert "run the same command to continue" in full.stderr
    left = (root / "select" / "part-running.jsonl").read_bytes()
    assert 0 < len(left) <= 300
    assert killed_run(0, root) == 0
    assert [record.image_id for record in Workspace(root).records("select", Selected)] == [
        f"v/{number:03d}" for number in range(10)
    ]
