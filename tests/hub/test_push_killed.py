"""A push that is killed with SIGKILL: the same command ends where an undisturbed one does, and sends nothing twice."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from folders import files_of
from hub.conftest import Program, environment_of_client
from hub.hub_repositories import OWNER_TOKEN
from hub.loopback_hub import Fault, LoopbackHub

NAME = "lab/ready"
PUSH = "import sys; from pfcvr.cli import data_main; data_main()"
MOMENTS = {
    "before the repository is made": Fault(r"POST /api/repos/create", drop=True),
    "after the first large file": Fault(r"PUT /lfs/", lose=True),
    "before the commit": Fault(r"POST .*/commit/", drop=True),
    "after the commit": Fault(r"POST .*/commit/", lose=True),
}
COMPOSED = """
import shutil, sys
from pathlib import Path
import datasets, mlcroissant, pyarrow.parquet
from folders import files_of
from killing import in_child, killed_at_every_change
from pfcvr.config import PushDataConfig
from pfcvr.pipeline import push
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

start, base = (Path(argument) for argument in sys.argv[1:])

def fresh(number):
    workspace = shutil.copytree(start, base / str(number))
    config = PushDataConfig(repository="lab/ready", dry_run=True)
    return lambda: push.run(Workspace(workspace), config, RunOptions(quiet=True)), workspace / "push"

call, folder = fresh(0)
assert in_child(call, folder) == 0
for killed in killed_at_every_change(fresh, step=11):
    assert files_of(base / str(killed) / "push") == files_of(folder), killed
print(killed)
"""


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_push_killed_on_its_way_is_finished_by_the_next_one(
    program: Program, hub: LoopbackHub, ready: Path, tmp_path: Path, moment: Fault
) -> None:
    program("pfcvr-data", "push", "-w", ready, NAME)
    undisturbed = {name: file.content for name, file in hub.repository(NAME).files.items()}
    hub.forget()
    before = files_of(ready)
    command = [sys.executable, "-c", PUSH, "push", "-w", str(ready), NAME]
    environment = environment_of_client(hub, tmp_path / "home") | {"HF_TOKEN": OWNER_TOKEN}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        hub.faults = [replace(moment, then=lambda: os.kill(process.pid, signal.SIGKILL))]
    assert process.returncode == -signal.SIGKILL
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    assert program("pfcvr-data", "push", "-w", ready, NAME).result["rows"] == 18
    assert {name: file.content for name, file in hub.repository(NAME).files.items()} == undisturbed
    assert len(hub.repository(NAME).commits) == 2
    sent = [entry.path for entry in hub.asked("PUT /lfs/") if entry.status == 200]
    assert len(sent) == len(set(sent)) == 3
    assert files_of(ready) == before


def test_a_publication_killed_while_it_is_composed_ends_in_the_same_bytes(closed_set: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", COMPOSED, str(closed_set), str(tmp_path / "copies")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
