"""Processes that load images: what they find wrong, what happens when one of them is gone, and that they end."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import children_of, is_running
from waiting import wait_until

from pfcvr.config import EvalConfig, IndexConfig, TrainConfig
from pfcvr.errors import DataError, StageStopped, TrainingDiverged
from pfcvr.model.data import Rows
from pfcvr.model.evaluate import evaluate
from pfcvr.model.gallery import index
from pfcvr.model.loading import decode
from pfcvr.model.train import train

SHORT = ("schedule.length=4", "schedule.warmup=2", "schedule.evaluate_every=4")
TRAINER = os.getpid()


def decode_or_die(rows: Rows, row: int) -> np.ndarray:
    if os.getpid() != TRAINER:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(rows, row)


@pytest.fixture
def damaged(
    make_data: Callable[..., Path], rows_of: Callable[..., list[dict[str, Any]]], request: pytest.FixtureRequest
) -> tuple[str, str]:
    """A data set with an undecodable image in the split of the test's ``damaged_split``, and the sentence about it."""
    split = request.getfixturevalue("damaged_split")
    splits = {"train": rows_of(range(4)), "val": rows_of(range(4, 6)), "test": rows_of(range(6, 8))}
    splits[split][1]["image"]["bytes"] = b"not an image"
    data = str(make_data(**splits))
    image_id = splits[split][1]["image_id"]
    return data, f"{data} ({split}): image '{image_id}' cannot be decoded; export the data set again"


@pytest.mark.parametrize("damaged_split", ["train", "val"])
@pytest.mark.parametrize("workers", [0, 1])
def test_training_and_its_evaluation_name_an_image_that_cannot_be_decoded_whoever_reads_it(
    damaged: tuple[str, str], damaged_split: str, workers: int, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    config = TrainConfig(data=damaged[0], out=tmp_path / "run", overrides=(*small_model, *SHORT), workers=workers)
    with pytest.raises(DataError) as refused:
        train(config, quiet=True)
    assert str(refused.value) == damaged[1]


@pytest.mark.parametrize("damaged_split", ["test"])
@pytest.mark.parametrize("workers", [0, 1])
def test_commands_that_read_a_split_name_an_image_that_cannot_be_decoded_whoever_reads_it(
    damaged: tuple[str, str], damaged_split: str, workers: int, finished_run: Path
) -> None:
    with pytest.raises(DataError) as refused:
        evaluate(EvalConfig(run=finished_run, data=damaged[0], split=damaged_split, workers=workers), quiet=True)
    assert str(refused.value) == damaged[1]


def test_a_worker_that_is_killed_stops_the_run_which_goes_on_with_fewer(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(data=str(painted), out=tmp_path / "run", overrides=(*small_model, *SHORT), workers=1)
    with monkeypatch.context() as patch:
        patch.setattr("pfcvr.model.loading.decode", decode_or_die)
        with pytest.raises(StageStopped, match=r"/run: a process that loads images ended .* with a lower --workers$"):
            train(config, quiet=True)
    assert train(config.model_copy(update={"workers": 0}), quiet=True).steps == 4


def test_a_worker_that_is_killed_stops_the_encoding_of_images(
    painted: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfcvr.model.loading.decode", decode_or_die)
    with pytest.raises(StageStopped, match=r"\(test\): a process that loads images ended .* with a lower --workers$"):
        index(IndexConfig(run=finished_run, data=str(painted), split="test", out=tmp_path / "g", workers=1), quiet=True)


def test_an_error_that_is_kept_keeps_no_process(
    painted: Path, small_model: tuple[str, ...], finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever trains several runs goes on after one that failed; what it loaded images with must not stay."""
    ruinous = (*small_model, *SHORT[1:], "schedule.length=100", "schedule.warmup=0", "optimizer.lr=1e30")
    config = TrainConfig(data=str(painted), out=tmp_path / "run", overrides=ruinous, workers=2)
    with pytest.raises(TrainingDiverged) as diverged:
        train(config, quiet=True)
    assert not multiprocessing.active_children(), diverged.value

    def no_room(encode: object, batch: object) -> object:
        raise StageStopped("no room")

    monkeypatch.setattr("pfcvr.model.encode.blocks_of", no_room)
    gallery = IndexConfig(run=finished_run, data=str(painted), split="all", out=tmp_path / "gallery", workers=2)
    with pytest.raises(StageStopped) as stopped:
        index(gallery, quiet=True)
    assert not multiprocessing.active_children(), stopped.value


@pytest.mark.parametrize(
    ("stop", "number", "code", "said"),
    [
        (os.killpg, signal.SIGINT, 130, "error: stopped by Ctrl-C; run the same command to continue"),
        (os.kill, signal.SIGTERM, -signal.SIGTERM, ""),
    ],
    ids=["Ctrl-C in a terminal", "SIGTERM to the command alone"],
)
def test_a_command_that_is_stopped_while_it_loads_ends_at_once_with_all_its_processes(
    stop: Callable[[int, int], None],
    number: signal.Signals,
    code: int,
    said: str,
    painted: Path,
    small_model: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """Its output ends too, with the input still open: who reads it through a pipe is not left waiting."""
    import datasets

    environment = {**os.environ, "HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from pfcvr.cli import model_main as m; m()", "train", "--data", str(painted)]
    command += ["--out", str(tmp_path / "run"), "--workers", "2"]
    lengths = ("schedule.length=100000", "checkpoint_every=1")
    command += [word for override in (*small_model, *lengths) for word in ("--set", override)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, start_new_session=True, text=True, **pipes) as child:
        losses = tmp_path / "run" / "metrics.jsonl"
        wait_until(lambda: child.poll() is not None or (losses.is_file() and losses.stat().st_size > 0))
        workers = children_of(child.pid)
        assert len(workers) >= 2
        stop(child.pid, number)
        assert child.stdout.read() == ""
        assert said in child.stderr.read()
        assert child.wait() == code
    wait_until(lambda: not any(is_running(worker) for worker in workers))
