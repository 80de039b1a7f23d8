"""Kill an import in its middle, run it again: the sealed bytes are those of an undisturbed run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from folders import files_of

from pfcvr.config import ImportConfig
from pfcvr.pipeline import file_facts, import_
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

SLOW_IMPORT = """
import sys, time
from pathlib import Path
from pfcvr.config import ImportConfig
from pfcvr.pipeline import file_facts, import_
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

real = file_facts.inspect_image
def slow(path):
    time.sleep(0.02)
    return real(path)
file_facts.inspect_image = slow
import_.run(Workspace(Path(sys.argv[2]), create=True), ImportConfig(source=Path(sys.argv[1])), RunOptions(quiet=True))
"""


def sealed_bytes(workspace: Path) -> dict[str, bytes]:
    return files_of(workspace / "import", but=("telemetry.jsonl", "files.sqlite"))


@pytest.mark.parametrize("rows_before_kill", [1, 30, 90])
def test_a_killed_import_continues_to_the_same_bytes(intake, tmp_path: Path, rows_before_kill: int) -> None:
    intake.pictures(*(f"{number // 5:05d}/{number:06d}" for number in range(100)))
    for number in (7, 60):
        intake.write(f"images/{number // 5:05d}/{number:06d}.jpg", b"")
    intake.info(*(f"{number // 5:05d}/{number:06d};{number % 3};t;;sedan;white" for number in range(104)))
    expected = intake.run_import()
    killed = tmp_path / "killed"
    arguments = [sys.executable, "-c", textwrap.dedent(SLOW_IMPORT), str(intake.root), str(killed)]
    running = killed / "import" / "part-running.jsonl"
    with subprocess.Popen(arguments) as process:
        while process.poll() is None and (not running.exists() or running.read_bytes().count(b"\n") < rows_before_kill):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    done = running.read_bytes()
    assert 0 < done.count(b"\n") < expected.kept
    running.write_bytes(done + b'{"image_id": "torn')
    summary = import_.run(Workspace(killed), ImportConfig(source=intake.root), RunOptions(quiet=True))
    assert (summary.kept, summary.rejected) == (98, 6)
    assert sealed_bytes(killed) == sealed_bytes(intake.workspace.root)


def test_rows_that_were_done_are_not_opened_again(intake, monkeypatch: pytest.MonkeyPatch) -> None:
    intake.pictures(*(f"00001/{number:06d}" for number in range(40)))
    real, opened = file_facts.inspect_image, []

    def breaks_at_20(path: Path):
        opened.append(path.name)
        if len(opened) == 20:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(file_facts, "inspect_image", breaks_at_20)
    with pytest.raises(KeyboardInterrupt):
        intake.run_import()
    running = intake.workspace.folder("import") / "part-running.jsonl"
    done = running.read_bytes().count(b"\n")
    opened.clear()
    monkeypatch.setattr(file_facts, "inspect_image", lambda path: (opened.append(path.name), real(path))[1])
    assert intake.run_import().kept == 40
    assert done > 0
    assert 0 < len(opened) <= 40 - done
