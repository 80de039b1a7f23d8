"""A workspace: one process at a time, and never somebody else's folder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pfcvr.errors import LockedError, WorkspaceError
from pfcvr.store import Workspace


def test_a_second_process_is_refused_with_the_pid_of_the_first_and_the_lock_dies_with_it(workspace: Workspace) -> None:
    script = (
        "import sys, time; from pathlib import Path; from pfcvr.store import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} is working on this workspace"), workspace.lock():
            pass
        holder.kill()
        holder.wait()
        with workspace.lock():
            pass


def test_a_child_process_does_not_keep_the_lock_of_its_dead_parent(workspace: Workspace) -> None:
    script = (
        "import os, subprocess, sys; from pathlib import Path; from pfcvr.store import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock():\n"
        "    child = os.fork()\n"
        "    if child == 0: import time; time.sleep(20); os._exit(0)\n"
        "    print(child, flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.wait()
        try:
            with workspace.lock():
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_workspace_of_a_newer_version_is_refused(workspace: Workspace) -> None:
    (workspace.root / "workspace.json").write_text(json.dumps({"pfcvr_workspace": 99}))
    with pytest.raises(WorkspaceError, match=r"has version 99, this pfcvr reads up to 1; upgrade pfcvr"):
        Workspace(workspace.root)


def test_a_folder_with_other_things_in_it_is_not_taken_for_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(WorkspaceError, match="exists and is not a pfcvr workspace; give a new or empty folder"):
        Workspace(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("left", [[], [".workspace.json.partial"], [".lock", ".workspace.json.partial"]])
def test_a_workspace_whose_making_was_killed_can_be_made_by_the_same_command(tmp_path: Path, left: list[str]) -> None:
    (tmp_path / "ws").mkdir()
    for name in left:
        (tmp_path / "ws" / name).touch()
    assert Workspace(tmp_path / "ws", create=True).manifest("import") is None
    assert Workspace(tmp_path / "ws").manifest("import") is None
