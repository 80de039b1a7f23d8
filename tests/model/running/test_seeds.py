import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch

from pfcvr.cli import model_app, run
from pfcvr.config import SeedList, TrainConfig, parse
from pfcvr.errors import CheckpointError, TrainingDiverged, UsageError
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.run_folder import RunFolder, seed_runs
from pfcvr.model.seeds import train_seeds

SHORT = ("schedule.length=4", "schedule.warmup=1", "schedule.evaluate_every=4")


@pytest.fixture
def config(painted: Path, small_model: tuple[str, ...], tmp_path: Path) -> TrainConfig:
    overrides = (*small_model, *SHORT)
    return TrainConfig(data=str(painted), out=tmp_path / "runs", overrides=overrides, workers=0, threads=1)


def test_each_seed_has_its_folder_and_a_finished_one_is_not_trained_again(config: TrainConfig) -> None:
    train_seeds(config, (3,), quiet=True)
    weights = config.out / "seed-3" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    result = train_seeds(config, (3, 12), quiet=True)
    assert [found.already_done for found in result.runs] == [True, False]
    assert weights.stat().st_mtime_ns == before

    assert [path.name for path in seed_runs(config.out)] == ["seed-3", "seed-12"]
    facts = [json.loads((path / "run.json").read_text()) for path in seed_runs(config.out)]
    assert [found["seed"] for found in facts] == [3, 12]
    reached = [found["metrics"]["mAP"] for found in facts]
    summary = json.loads((config.out / "summary.json").read_text())
    assert summary["metrics"]["mAP"]["mean"] == pytest.approx(mean(reached))
    assert summary["metrics"]["mAP"]["deviation"] == pytest.approx(stdev(reached))
    assert "2 seeds, best weights of each on val" in result.text()
    assert f"{mean(reached):.1f} ± {stdev(reached):.1f}" in result.text()
    chance = next(line for line in result.text().splitlines() if line.startswith("| chance "))
    assert [cell.strip() for cell in chance.split("|")][2:5] == ["33.3", "95.2", "100.0"]  # 3 of 9 val images are right
    with pytest.raises(CheckpointError, match=r"runs: holds runs of 2 seeds; name one of them, .*runs/seed-3$"):
        RunFolder(config.out).finished()


def test_the_command_trains_a_baseline_from_two_seeds_and_its_runs_can_be_used(
    config: TrainConfig, painted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = [word for override in config.overrides for word in ("--set", override)]
    out = tmp_path / "irra"
    arguments = ["--data", str(painted), "--out", str(out), "--method", "irra", "--workers", "0", "--json"]
    assert run(model_app, "pfcvr", ["train", *arguments, "--seeds", "1, 2", *overrides]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert [(one["method"], one["seed"]) for one in answer["runs"]] == [("irra", 1), ("irra", 2)]
    one = str(out / "seed-2")
    assert run(model_app, "pfcvr", ["eval", one, "--data", str(painted), "--workers", "0"]) == 0
    assert "method irra, variant paper" in capfd.readouterr().out
    assert run(model_app, "pfcvr", ["info", one]) == 0
    assert "seed-2: irra, variant paper, protocol clean, seed 2" in capfd.readouterr().out
    assert run(model_app, "pfcvr", ["search", one, "a red car", "--data", str(painted), "-k", "2"]) == 0
    assert len(capfd.readouterr().out.splitlines()) >= 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("1,1", "a seed is named twice"), ("1,x", "'seeds.1': input should be a valid integer"), ("-1", "greater than")],
)
def test_seeds_that_make_no_sense_are_named(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(SeedList, {"seeds": text}, "pfcvr train --seeds")


def test_several_seeds_are_not_trained_inside_a_single_run(config: TrainConfig, finished_run: Path) -> None:
    with pytest.raises(CheckpointError, match="is one training run; give another folder with --out"):
        train_seeds(config.model_copy(update={"out": finished_run}), (1, 2), quiet=True)
    assert not seed_runs(finished_run)


@pytest.fixture
def diverge(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the loss of the next so many steps NaN."""

    def make(steps: int) -> None:
        bad = [float("nan")] * steps
        honest = PfcvrModel.total

        def total(self: PfcvrModel, *given: Any) -> torch.Tensor:
            return honest(self, *given) * (bad.pop() if bad else 1.0)

        monkeypatch.setattr(PfcvrModel, "total", total)

    return make


def test_a_seed_that_diverges_keeps_no_other_from_being_trained(
    config: TrainConfig, diverge: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = [word for override in config.overrides for word in ("--set", override)]
    arguments = ["train", "--data", config.data, "--out", str(config.out), "--workers", "0", *overrides]
    diverge(4)
    assert run(model_app, "pfcvr", [*arguments, "--seeds", "1,2"]) == 1
    printed = capfd.readouterr().out
    assert "1 seed, best weights" in printed
    assert f"seed 1 diverged and is left out: {config.out}/seed-1: the loss is nan at step 1" in printed
    summary = json.loads((config.out / "summary.json").read_text())
    assert ([one["seed"] for one in summary["runs"]], list(summary["diverged"])) == ([2], ["1"])


def test_seeds_of_which_all_diverge_are_no_result(config: TrainConfig, diverge: Callable[[int], None]) -> None:
    diverge(8)
    with pytest.raises(TrainingDiverged, match=r"no seed came to its end; the last: .*seed-2: the loss is nan at step"):
        train_seeds(config, (1, 2), quiet=True)
    assert not (config.out / "summary.json").exists()


def test_one_seed_and_a_list_of_seeds_exclude_each_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--data", "d", "--out", str(tmp_path / "run"), "--seed", "7", "--seeds", "1,2"]
    assert run(model_app, "pfcvr", arguments) == 2
    assert "--seed and --seeds were both given; leave out one of them" in capfd.readouterr().err
