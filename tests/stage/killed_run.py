"""The stage over whole numbers in a process of its own, which kills itself at a row, flush, rename or removal."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stage.numbers import keep_even, plan

from pfcvr import stage
from pfcvr.store import Workspace

RECORDS_PER_FILE = 4


def killed_run(
    kill_after: int, root: Path, rows: int, overwrite: bool = False, **process: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``rows`` rows into the workspace ``root`` in a process that is killed at step ``kill_after``; 0: never."""
    command = [sys.executable, "-m", "stage.killed_run", str(kill_after), str(root), str(rows), str(int(overwrite))]
    here = Path(__file__).parent.parent
    return subprocess.run(command, check=False, cwd=here, capture_output=True, text=True, **process)


def main(kill_after: int, root: Path, rows: int, overwrite: bool) -> None:
    steps = 0

    def count_down(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    os.fsync = count_down(os.fsync)
    Path.replace = count_down(Path.replace)
    Path.unlink = count_down(Path.unlink)
    stage.RECORDS_PER_FILE = RECORDS_PER_FILE
    workspace = Workspace(root, create=True)
    with workspace.lock():
        options = stage.RunOptions(overwrite=overwrite, quiet=True)
        stage.run_stage(workspace, plan(rows, work=count_down(keep_even), workers=1), options)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")
