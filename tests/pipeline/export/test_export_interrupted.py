"""An export that is killed, run beside another, or out of disk never leaves half a data set."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import files_of

from pfcvr.errors import LockedError, StageStopped
from pfcvr.pipeline.exporters import shards


def test_export_killed_half_way_leaves_no_data_set_and_the_next_one_is_whole(whole, tmp_path, monkeypatch) -> None:
    whole.export(tmp_path / "undisturbed")
    out = tmp_path / "out"
    monkeypatch.setattr(shards, "verify_shards", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        whole.export(out)
    assert not out.exists()
    monkeypatch.undo()
    whole.export(out)
    assert files_of(out) == files_of(tmp_path / "undisturbed")
    assert not (tmp_path / ".out.partial").exists()


KILLED_EXPORT = """
import os, signal, sys
from pathlib import Path
from pfcvr.config import ExportConfig
from pfcvr.pipeline import export, output_folder
from pfcvr.pipeline.exporters import hf, shards
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
moment = sys.argv[3]
if moment == "writing":
    hf.row_of = die
elif moment == "verifying":
    shards.verify_shards = die
elif moment == "renaming":
    rename = Path.rename
    Path.rename = lambda path, to: (rename(path, to), path.name == "out" and die())[0]
export.run(Workspace(Path(sys.argv[1])), ExportConfig(out=Path(sys.argv[2])), RunOptions(overwrite=True, quiet=True))
"""


@pytest.mark.parametrize("moment", ["writing", "verifying", "renaming"])
def test_export_killed_with_sigkill_is_made_whole_by_the_next_run(whole, tmp_path, moment) -> None:
    whole.export(tmp_path / "undisturbed")
    out = tmp_path / "out"
    whole.export(out)
    arguments = [str(whole.workspace.root), str(out), moment]
    killed = subprocess.run([sys.executable, "-c", KILLED_EXPORT, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert out.exists() == (moment != "renaming")
    whole.export(out, overwrite=True)
    assert files_of(out) == files_of(tmp_path / "undisturbed")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


KILLED_EVERYWHERE = """
import sys
from pathlib import Path
import datasets, pyarrow.parquet
from folders import files_of
from killing import in_child, killed_at_every_change
from pfcvr.config import ExportConfig
from pfcvr.pipeline import export
from pfcvr.pipeline.exporters import hf, shards
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

workspace, base = Workspace(Path(sys.argv[1])), Path(sys.argv[2])

def export_to(name):
    config, options = ExportConfig(out=base / name), RunOptions(overwrite=True, quiet=True)
    return lambda: export.run(workspace, config, options)

def older(number):
    assert in_child(export_to(f"older-{number}"), base) == 0
    return export_to(f"older-{number}"), base

assert in_child(export_to("whole"), base) == 0
expected, kills = files_of(base / "whole"), 0
for before, prepare in (("new", lambda number: (export_to(f"new-{number}"), base)), ("older", older)):
    for kill in killed_at_every_change(prepare):
        assert files_of(base / f"{before}-{kill}") == expected, (before, kill)
    kills += kill - 1
assert not list(base.glob(".*")), list(base.glob(".*"))
print(kills)
"""


def test_export_killed_before_any_change_to_a_file_is_made_whole_by_the_next_run(whole, tmp_path) -> None:
    base = tmp_path / "exports"
    base.mkdir()
    arguments = [sys.executable, "-c", KILLED_EVERYWHERE, str(whole.workspace.root), str(base)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_second_export_to_the_same_folder_is_refused_with_the_pid_of_the_first(whole, tmp_path) -> None:
    waiting = KILLED_EXPORT.replace(
        "export.run(", "hf.row_of = lambda *_: (print(flush=True), signal.pause())\nexport.run("
    )
    command = [sys.executable, "-c", waiting, str(whole.workspace.root), str(tmp_path / "out"), ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        try:
            sentence = f"process {first.pid} is writing this data set; wait for it or stop it"
            with pytest.raises(LockedError, match=sentence):
                whole.export(tmp_path / "out")
        finally:
            first.kill()
    assert not whole.export(tmp_path / "out").already_done


def test_full_disk_stops_the_export_with_a_sentence_and_no_data_set(whole, tmp_path, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "shard")

    monkeypatch.setattr(shards, "table_of", full)
    with pytest.raises(StageStopped, match="out: export: the disk is full at shard; free some space and run the same"):
        whole.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
