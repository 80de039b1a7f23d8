"""``pfcvr train`` under a launcher: two processes on one machine, talking over loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pfcvr.config import TrainConfig
from pfcvr.model.run_log import read_metrics
from pfcvr.model.train import train

LENGTHS = (
    "schedule.unit=epoch",
    "schedule.length=2",
    "schedule.warmup=1",
    "schedule.evaluate_every=1",
    "checkpoint_every=5",
)
UNEVEN = ("batch_size=41", "accumulation=3", "optimizer.eps=1e-3")
"""288 items: 7 batches of 41 an epoch, in parts of 14, 14 and 13 pairs, and one of a single pair."""


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "--local-addr=127.0.0.1", "--no-python")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0", "--no_python")
PROGRAM = """
import os, sys
from pfcvr.cli import model_main
print(f"one of {os.environ['WORLD_SIZE']} processes", file=sys.stderr)
model_main()
"""


def under_launcher(
    data: Path, out: Path, overrides: tuple[str, ...], launcher: tuple[str, ...] = TORCHRUN
) -> subprocess.CompletedProcess[str]:
    """``pfcvr train`` on two processes; training needs about 1 GB each."""
    import datasets

    command = [sys.executable, "-m", *launcher, sys.executable, "-c", PROGRAM]
    command += ["train", "--data", str(data), "--out", str(out), "--workers", "1", "--device", "cpu", "--json"]
    command += [word for override in overrides for word in ("--set", override)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE), "OMP_NUM_THREADS": "1"}
    environment["HF_HOME"] = str(out.parent)  # where accelerate would find the settings of this machine's user
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.timeout(240)
def test_two_processes_make_the_run_that_one_makes_and_continue_it(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps, losses and weights up to rounding; the two processes take up what one had begun."""
    overrides = (*small_model, *LENGTHS, *UNEVEN)
    alone = TrainConfig(data=str(painted), out=tmp_path / "alone", overrides=overrides, workers=0, threads=1)
    train(alone, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr("pfcvr.model.train.draw_curves", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(alone.model_copy(update={"out": tmp_path / "two"}), quiet=True)

    run = under_launcher(painted, tmp_path / "two", overrides)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["steps"] == 16
    one, two = (list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("alone", "two"))
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for mine, theirs in zip(one, two, strict=True):
        assert theirs.get("losses", {}) == pytest.approx(mine.get("losses", {}), rel=1e-4, abs=1e-5)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "two")]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-5)


def test_accelerate_starts_two_processes_on_the_cpu_too(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    lengths = ("schedule.length=3", "schedule.warmup=1", "schedule.evaluate_every=3")
    overrides = (*small_model, *lengths, "optimizer.eps=1e-3")  # a smaller one makes steps of rounding errors
    alone = TrainConfig(data=str(painted), out=tmp_path / "alone", overrides=overrides, workers=0, threads=1)
    train(alone, quiet=True)
    run = under_launcher(painted, tmp_path / "two", overrides, ACCELERATE)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("one of 2 processes") == 2
    one, two = (list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("alone", "two"))
    assert len(one) == 4
    for mine, theirs in zip(one, two, strict=True):
        assert theirs.get("losses", {}) == pytest.approx(mine.get("losses", {}), rel=1e-4, abs=1e-5)


def test_what_is_wrong_is_said_once_and_ends_all_processes(painted: Path, tmp_path: Path) -> None:
    run = under_launcher(painted, tmp_path / "run", ("schedule.lenth=3",))
    assert run.returncode != 0
    assert (run.stdout + run.stderr).count("unknown key 'schedule.lenth'") == 1
    assert not (tmp_path / "run").exists()
