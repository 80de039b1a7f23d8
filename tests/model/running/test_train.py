import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import children_of, is_running
from safetensors.torch import load_file
from waiting import wait_until

from pfcvr.cli import run
from pfcvr.cli_model import app
from pfcvr.config import TrainConfig
from pfcvr.errors import (
    BackendError,
    CheckpointError,
    DataError,
    LockedError,
    SealedError,
    StageStopped,
    TrainingDiverged,
)
from pfcvr.model import train as training
from pfcvr.model.data import open_data
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.run_folder import RunFolder
from pfcvr.model.run_log import read_metrics
from pfcvr.model.tokenizer import train_caption_tokenizer
from pfcvr.model.train import train

SHORT = ("schedule.length=12", "schedule.warmup=2", "schedule.evaluate_every=6")


def config_for(data: Path, out: Path, small_model: tuple[str, ...], *more: str, **fields: Any) -> TrainConfig:
    settings = {"workers": 0, "threads": 1, **fields}
    return TrainConfig(data=str(data), out=out, overrides=(*small_model, *SHORT, *more), **settings)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_run_leaves_all_its_files_and_facts(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir() if not path.name.startswith(("eval-", "queries-"))}
    assert names == {
        ".lock", "recipe.toml", "metrics.jsonl", "curves.png", "tensorboard", "model", "trained_on.json", "run.json",
        "telemetry.jsonl",
    }  # fmt: skip
    facts = json.loads((finished_run / "run.json").read_text())
    assert (facts["method"], facts["variant"], facts["protocol"], facts["seed"]) == ("pfcvr", "paper", "clean", 0)
    assert (facts["steps"], facts["selection"]) == (12, "val")
    assert facts["train"] == {"images": 36, "identities": 12, "pairs": 72, "truncated_captions": 0}
    rows = list(read_metrics(finished_run / "metrics.jsonl"))
    assert [row["step"] for row in rows if "losses" in row] == list(range(1, 13))
    measured = {row["step"]: row["metrics"] for row in rows if "metrics" in row}
    assert list(measured) == [6, 12]
    assert facts["metrics"] == measured[facts["best_step"]]
    assert facts["metrics"]["rank1"] == max(row["rank1"] for row in measured.values())
    assert list((finished_run / "tensorboard").iterdir())
    PfcvrModel.from_pretrained(finished_run / "model")


def test_the_recipe_of_a_run_repeats_it(finished_run: Path, painted: Path, tmp_path: Path) -> None:
    recipe = str(finished_run / "recipe.toml")
    again = TrainConfig(data=str(painted), out=tmp_path / "again", recipe=recipe, workers=1, threads=1)
    train(again, quiet=True)
    assert same_weights(finished_run, tmp_path / "again")
    assert (finished_run / "metrics.jsonl").read_bytes() == (tmp_path / "again" / "metrics.jsonl").read_bytes()


def test_training_again_does_nothing_and_says_so(
    finished_run: Path, painted: Path, small_model: tuple[str, ...]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()}
    result = train(config_for(painted, finished_run, small_model), quiet=True)
    assert result.already_done
    assert "12 steps (already done)" in result.text()
    after = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} <= {".lock"}


def test_losses_go_down_and_the_rate_follows_the_schedule(finished_run: Path) -> None:
    rows = [row for row in read_metrics(finished_run / "metrics.jsonl") if "losses" in row]
    assert set(rows[0]["losses"]) == {"sdm", "itc", "id", "part_itc", "part_across", "mlm", "mim"}
    assert rows[-1]["loss"] < rows[0]["loss"]
    rates = [row["lr"] for row in rows]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[2] == pytest.approx(1e-3)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_another_seed_gives_other_weights(
    finished_run: Path, painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    train(config_for(painted, tmp_path / "run", small_model, seed=1), quiet=True)
    assert not same_weights(finished_run, tmp_path / "run")


CHILD = """
import resource
import sys
from pathlib import Path
import datasets
from pfcvr.config import TrainConfig
from pfcvr.model.train import train
data, out, workers, *overrides = sys.argv[1:]
config = TrainConfig(data=data, out=Path(out), overrides=tuple(overrides), workers=int(workers), threads=1)
train(config, quiet=True)
"""


def start_child(
    data: Path, out: Path, workers: int, overrides: tuple[str, ...], first: str = ""
) -> subprocess.Popen[bytes]:
    """Train in another process, which runs the line ``first`` before it begins."""
    import datasets

    environment = {**os.environ, "HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        CHILD.replace("train(config", f"{first}\ntrain(config"),
        str(data),
        str(out),
        str(workers),
        *overrides,
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_steps(run: Path, child: subprocess.Popen[bytes], steps: int) -> None:
    """Until ``run`` has written so many steps; fails when the child ends before."""
    for _ in range(6000):
        path = run / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b'"losses"') >= steps:
            return
        assert child.poll() is None, child.stderr.read().decode()
        time.sleep(0.01)
    raise AssertionError(f"no {steps} steps were written")


@pytest.fixture
def backbone_with_dropout(tmp_path: Path, painted: Path) -> Path:
    """A CLIP checkpoint of one layer a tower, whose attention drops weights in training, with its own vocabulary."""
    from transformers import CLIPConfig, CLIPModel

    texts = [text for texts in open_data(str(painted)).split("train").captions for text in texts]
    tokenizer = train_caption_tokenizer(texts, 600, 16)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    tower |= {"projection_dim": 32, "attention_dropout": 0.2}
    words = {"vocab_size": tokenizer.vocabulary_size, "max_position_embeddings": 16, "eos_token_id": tokenizer.end_id}
    config = CLIPConfig(
        text_config=tower | words, vision_config=tower | {"image_size": 32, "patch_size": 8}, projection_dim=32
    )
    CLIPModel(config).save_pretrained(tmp_path / "backbone")
    tokenizer.save(tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.mark.timeout(180)
def test_killed_in_mid_epoch_and_continued_is_bit_for_bit_the_undisturbed_run(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, backbone_with_dropout: Path
) -> None:
    """Two kills with workers, augmentation, accumulation, dropout, patch removal and word masking on.

    Checkpoints fall inside epochs; batches of 9 pairs are computed in parts of 5 and 4.
    """
    lengths = ("schedule.length=60", "schedule.warmup=5", "schedule.evaluate_every=25", "checkpoint_every=7")
    overrides = (*small_model, *lengths, "model.vocabulary=clip", f"model.backbone={backbone_with_dropout}")
    overrides += ("batch_size=9", "accumulation=2")
    undisturbed = TrainConfig(data=str(painted), out=tmp_path / "whole", overrides=overrides, workers=0, threads=1)
    train(undisturbed, quiet=True)

    broken = tmp_path / "broken"
    for kill_after in (10, 35):
        child = start_child(painted, broken, 2, overrides)
        wait_for_steps(broken, child, kill_after)
        workers = children_of(child.pid)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stderr.close()
        assert workers, "the run had loader processes"
        wait_until(lambda workers=workers: not any(is_running(worker) for worker in workers))
        assert not (broken / "run.json").exists()
    train(undisturbed.model_copy(update={"out": broken, "workers": 1}), quiet=True)

    assert same_weights(tmp_path / "whole", broken)
    assert (broken / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    one, other = (json.loads((run / "run.json").read_text()) for run in (tmp_path / "whole", broken))
    assert one == other


def test_a_run_that_another_process_trains_is_refused_with_its_pid(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = (*small_model, "schedule.length=100000", "checkpoint_every=1")
    child = start_child(painted, tmp_path / "run", 0, overrides)
    try:
        wait_for_steps(tmp_path / "run", child, 1)
        second = TrainConfig(data=str(painted), out=tmp_path / "run", overrides=overrides, workers=0, threads=1)
        with pytest.raises(LockedError, match=f"process {child.pid} is training in this folder; wait for it or stop"):
            train(second, quiet=True)
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.mark.parametrize("evaluate_every", [2, 12])
def test_a_full_disk_stops_the_run_which_then_continues(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, evaluate_every: int
) -> None:
    """A limit on the size of files stands in for a full disk: the model's file meets it first, or the checkpoint's."""
    overrides = (*small_model, *SHORT, f"schedule.evaluate_every={evaluate_every}", "checkpoint_every=3")
    child = start_child(
        painted, tmp_path / "run", 0, overrides, "resource.setrlimit(resource.RLIMIT_FSIZE, (9 << 14,) * 2)"
    )
    _, errors = child.communicate()
    assert "StageStopped" in errors.decode()
    assert f"{tmp_path / 'run'}: training: the disk is full" in errors.decode()
    config = TrainConfig(data=str(painted), out=tmp_path / "run", overrides=overrides, workers=0, threads=1)
    assert train(config, quiet=True).steps == 12


def test_a_run_of_other_settings_is_refused_with_the_difference(
    finished_run: Path, painted: Path, small_model: tuple[str, ...], make_data: Callable[..., Path], rows_of: Callable
) -> None:
    with pytest.raises(SealedError, match=r"made from something else: optimizer.lr \(0.001 before, 0.0005 now\); give"):
        train(config_for(painted, finished_run, small_model, "optimizer.lr=5e-4"), quiet=True)
    with pytest.raises(SealedError, match=r"seed \(0 before, 3 now\)"):
        train(config_for(painted, finished_run, small_model, seed=3), quiet=True)
    with pytest.raises(SealedError, match=r"protocol \(clean before, published now\)"):
        train(config_for(painted, finished_run, small_model, protocol="published"), quiet=True)
    other = make_data(train=rows_of(range(4)), val=rows_of(range(4, 6)))
    with pytest.raises(SealedError, match="data \\(another data set, or it was exported anew\\)"):
        train(config_for(other, finished_run, small_model), quiet=True)


def test_a_run_that_failed_before_its_first_step_is_replaced(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(CheckpointError, match="no CLIP checkpoint"):
        train(config_for(painted, out, small_model, f"model.backbone={tmp_path}/no/such"), quiet=True)
    assert RunFolder(out).is_run
    assert train(config_for(painted, out, small_model, "schedule.length=3"), quiet=True).steps == 3


def test_a_folder_that_is_no_run_is_left_alone(painted: Path, small_model: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not a training run of pfcvr; give a new or empty folder"):
        train(config_for(painted, tmp_path, small_model), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    honest = PfcvrModel.total

    def total(self: PfcvrModel, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        return honest(self, losses) * (float("nan") if len(calls) >= 9 else 1.0)

    monkeypatch.setattr(PfcvrModel, "total", total)
    sentence = r"loss is nan at step 9 \(.*sdm .*\); the last good checkpoint is kept; .*--set optimizer.lr=0.0003"
    with pytest.raises(StageStopped, match=sentence):
        train(config_for(painted, tmp_path / "run", small_model, "checkpoint_every=4"), quiet=True)
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert kept["state"]["step"] == 8
    assert all(torch.isfinite(weight).all() for weight in kept["model"].values())
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "losses" in row]
    assert steps == list(range(1, 9))


def test_a_rate_that_ruins_the_weights_is_told_before_they_are_measured(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    absurd = config_for(
        painted, tmp_path / "run", small_model, "schedule.evaluate_every=1", "schedule.warmup=0", "optimizer.lr=1e38"
    )
    with pytest.raises(StageStopped, match=r"after step 1; there is no checkpoint yet; train in a new folder with"):
        train(absurd, quiet=True)


def test_finite_weights_that_give_infinite_features_stop_the_run_as_a_loss_does(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    large = config_for(
        painted, tmp_path / "run", small_model, "schedule.evaluate_every=1", "schedule.warmup=0", "optimizer.lr=1e30"
    )
    with pytest.raises(TrainingDiverged, match=r"the weights after step 1 give features that are no finite numbers; "):
        train(large, quiet=True)


@pytest.fixture
def interrupted(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainConfig:
    """A training in ``tmp_path / "run"`` that was stopped after its first checkpoint."""
    config = config_for(painted, tmp_path / "run", small_model, "checkpoint_every=4")
    monkeypatch.setattr(training, "draw_curves", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(config, quiet=True)
    return config


def test_a_checkpoint_that_cannot_be_read_is_named(interrupted: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: damaged checkpoint"):
        train(interrupted, quiet=True)


@pytest.mark.parametrize("left", [100, None], ids=["cut", "gone"])
def test_metrics_that_are_shorter_than_the_checkpoint_says_are_told_before_the_first_step(
    interrupted: TrainConfig, left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = interrupted.out / "metrics.jsonl"
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    monkeypatch.setattr(PfcvrModel, "total", lambda self, losses: pytest.fail("a step was taken"))
    with pytest.raises(
        CheckpointError, match=r"metrics\.jsonl: (100|0) bytes, expected the [\d,]+ .*; restore the file"
    ):
        train(interrupted, quiet=True)


def test_a_pickle_in_place_of_the_checkpoint_is_not_executed(interrupted: TrainConfig, tmp_path: Path) -> None:
    torch.save({"model": Trap(tmp_path / "sprung")}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        train(interrupted, quiet=True)
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_published_chooses_on_test_and_says_so(painted: Path, small_model: tuple[str, ...], tmp_path: Path) -> None:
    said: list[str] = []
    result = train(
        config_for(painted, tmp_path / "run", small_model, protocol="published"), quiet=True, say=said.append
    )
    assert (result.protocol, result.selection) == ("published", "test")
    assert said[0] == "weights chosen on test, as the published tables did; val images are trained on"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["train"]["identities"] == 15


@pytest.mark.parametrize("val", [range(10, 11), None], ids=["val split", "carved"])
def test_one_vehicle_alone_cannot_choose_weights_so_the_last_are_kept(
    val: range | None,
    small_model: tuple[str, ...],
    make_data: Callable[..., Path],
    rows_of: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    data = make_data(train=rows_of(range(10)), **({"val": rows_of(val)} if val else {}))
    said: list[str] = []
    result = train(config_for(data, tmp_path / "run", small_model), quiet=True, say=said.append)
    assert result.best_step == result.steps == 12
    assert "they show one vehicle alone, so every answer is right: the last weights are kept" in said[0]


def test_a_run_without_a_gpu_says_so(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="no CUDA device here; use --device cpu"):
        train(config_for(painted, tmp_path / "run", small_model, device="cuda"), quiet=True)
    train(config_for(painted, tmp_path / "other", small_model), quiet=True)
    assert "no CUDA device here: training on the CPU" in capsys.readouterr().err


def test_the_command_says_how_many_captions_were_cut(
    make_data: Callable[..., Path],
    rows_of: Callable[..., list[dict[str, Any]]],
    small_model: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """75 words fit between start and end; here each word is one token. Nearly all words are masked as well."""
    rows = rows_of(range(3))
    for number, row in enumerate(rows):
        row["captions"] = [" ".join(["car"] * 75), " ".join(["car"] * (76 if number < 5 else 9))]
    data = make_data(train=rows, val=rows_of(range(3, 5)))
    overrides = (*small_model, *SHORT, "model.text_length=77", "model.word_mask_ratio=0.999", "schedule.length=4")
    command = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--workers", "0", "--threads", "1"]
    code = run(app, "pfcvr", [*command, *(word for override in overrides for word in ("--set", override))])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert printed.err.count("5 of 18 train captions were cut to 77 tokens\n") == 1
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["train"]["truncated_captions"] == 5
    assert "5 of 18 train captions were cut to 77 tokens" in manifest["notes"]
    losses = [row["losses"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "losses" in row]
    assert all(math.isfinite(loss) for row in losses for loss in row.values())


def test_epochs_can_be_the_unit(painted: Path, small_model: tuple[str, ...], tmp_path: Path) -> None:
    epochs = ("schedule.unit=epoch", "schedule.length=2", "schedule.warmup=1", "schedule.evaluate_every=1")
    result = train(config_for(painted, tmp_path / "run", small_model, *epochs, "batch_size=50"), quiet=True)
    rows = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert result.steps == 2 * 6  # 288 items in batches of 50
    assert [row["epoch"] for row in rows if "losses" in row] == [0] * 6 + [1] * 6
    assert [row["lr"] for row in rows if "losses" in row] == pytest.approx([1e-4] * 6 + [1e-3] * 6)
    assert [row["step"] for row in rows if "metrics" in row] == [6, 12]


def test_half_precision_trains_too(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, finished_run: Path
) -> None:
    train(config_for(painted, tmp_path / "run", small_model, "precision=bf16"), quiet=True)
    assert all(weight.dtype == torch.float32 for weight in weights_of(tmp_path / "run").values())
    assert not same_weights(finished_run, tmp_path / "run")
    for name, weight in weights_of(finished_run).items():
        torch.testing.assert_close(weights_of(tmp_path / "run")[name], weight, atol=0.03, rtol=0)


def test_part_losses_without_parts_are_refused(
    small_model: tuple[str, ...], make_data: Callable[..., Path], rows_of: Callable, tmp_path: Path
) -> None:
    bare = [{**row, "parts": []} for row in rows_of(range(6))]
    path = make_data(train=bare[:12], val=bare[12:])
    with pytest.raises(DataError, match=r"no train image shows a part.*--set model.losses.part_itc=0"):
        train(config_for(path, tmp_path / "run", small_model), quiet=True)
    without = ("model.losses.part_itc=0", "model.losses.part_across=0")
    assert train(config_for(path, tmp_path / "other", small_model, *without), quiet=True).steps == 12


def test_an_unfinished_run_that_lost_its_model_folder_makes_it_again(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill between removing the old best weights and renaming the new ones leaves behind."""
    config = config_for(painted, tmp_path / "run", small_model)
    with monkeypatch.context() as patch:
        patch.setattr(training, "sync_folder", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, quiet=True)
    shutil.rmtree(tmp_path / "run" / "model")
    train(config, quiet=True)
    assert same_weights(tmp_path / "run", finished_run)
