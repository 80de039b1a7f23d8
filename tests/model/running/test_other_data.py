"""A run measured on another data set than it was trained on, or on what it was trained on."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pfcvr.cli import model_app, run
from pfcvr.config import CompareConfig, EvalConfig, TrainConfig
from pfcvr.errors import CheckpointError, DataError
from pfcvr.model import evaluate as evaluation
from pfcvr.model.comparison import compare
from pfcvr.model.evaluate import evaluate
from pfcvr.model.run_info import run_info, run_info_text
from pfcvr.model.train import train

Rows = list[dict[str, Any]]
Outcome = tuple[int, str, str]


@pytest.fixture
def fresh_run(finished_run: Path, tmp_path: Path) -> Path:
    """``finished_run``, trained on vehicles 000 to 011, in a folder of its own and not evaluated."""
    skipped = shutil.ignore_patterns("eval-*", "queries-*")
    return Path(shutil.copytree(finished_run, tmp_path / "run", ignore=skipped))


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def call(*arguments: Any) -> Outcome:
        code = run(model_app, "pfcvr", [str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def measure(run_folder: Path, data: Path, split: str = "test") -> dict[str, Any]:
    return evaluate(EvalConfig(run=run_folder, data=str(data), split=split, workers=0), quiet=True)


def result_files(run_folder: Path) -> dict[str, bytes]:
    found = [*run_folder.glob("eval-*"), *run_folder.glob("queries-*")]
    return {path.name: path.read_bytes() for path in found}


def test_vehicles_of_another_draw_that_were_trained_on_are_told_everywhere(
    fresh_run: Path, make_data: Callable[..., Path], rows_of: Callable[..., Rows], cli: Callable[..., Outcome]
) -> None:
    other = make_data(test=[*rows_of(range(10, 12), seed=7), *rows_of(range(40, 43), seed=7)])
    sentence = (
        f"{fresh_run} was trained on other images of 2 of the 5 vehicle ids of split 'test': if both data sets are of "
        "one source these are the same vehicles and the figures are too high for vehicles it has not seen; ids of "
        "unrelated sources may coincide"
    )
    code, out, err = cli("eval", fresh_run, "--data", other, "--workers", 0)
    assert code == 0
    assert f"warning: {sentence}\n" in err
    assert f"\n{sentence}\n" in out
    assert f"{fresh_run} was trained on another data set than {other} (" in out
    answer = json.loads(cli("eval", fresh_run, "--data", other, "--workers", 0, "--json")[1])
    assert (answer["trained_on"], answer["own_data"]) == ({"images": 0, "vehicle_ids": 2}, False)
    assert sentence in cli("info", fresh_run)[1]
    code, out, err = cli("compare", fresh_run)
    assert f"warning: {sentence}\n" in err
    assert sentence in out


def test_images_that_were_trained_on_are_known_by_their_bytes_whatever_their_vehicle_is_called(
    fresh_run: Path, make_data: Callable[..., Path], rows_of: Callable[..., Rows]
) -> None:
    renamed = [{**row, "vehicle_id": "x" + row["vehicle_id"], "sha256": None} for row in rows_of(range(2))]
    result = measure(fresh_run, make_data(test=[*renamed, *rows_of(range(30, 32))]))
    assert result["trained_on"] == {"images": 6, "vehicle_ids": 0}
    assert (
        "was trained on 6 of the 12 images of split 'test' and on 0 of the 4 vehicle ids there: the figures are too "
        "high for vehicles it has not seen"
    ) in evaluation.text(result)


def test_a_split_that_was_trained_on_is_marked_and_one_that_was_not_is_silent(fresh_run: Path, painted: Path) -> None:
    on_train = measure(fresh_run, painted, "train")
    assert on_train["trained_on"] == {"images": 36, "vehicle_ids": 12}
    assert "trained on 36 of the 36 images of split 'train'" in evaluation.warnings(on_train)[0]
    on_test = measure(fresh_run, painted)
    assert on_test["trained_on"] == {"images": 0, "vehicle_ids": 0}
    assert evaluation.warnings(on_test) == []
    assert "trained on" not in evaluation.text(on_test)


def test_val_images_count_as_trained_on_under_the_published_protocol(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = (*small_model, "schedule.length=2", "schedule.warmup=1", "schedule.evaluate_every=2")
    values = {"data": str(painted), "out": tmp_path / "run", "workers": 0, "threads": 1}
    train(TrainConfig(**values, overrides=overrides, protocol="published"), quiet=True, say=lambda _: None)
    assert measure(tmp_path / "run", painted, "val")["trained_on"] == {"images": 9, "vehicle_ids": 3}


def test_of_a_run_that_did_not_keep_what_it_was_trained_on_nothing_is_claimed_until_train_is_run_again(
    fresh_run: Path, painted: Path, small_model: tuple[str, ...]
) -> None:
    kept = (fresh_run / "trained_on.json").read_bytes()
    (fresh_run / "trained_on.json").unlink()
    result = measure(fresh_run, painted, "train")
    assert result["trained_on"] is None
    assert "which images it was trained on was not recorded" in evaluation.text(result)
    assert "which images it was trained on was not recorded" in run_info_text(run_info(fresh_run))
    overrides = (*small_model, "schedule.length=12", "schedule.warmup=2", "schedule.evaluate_every=6")
    config = TrainConfig(data=str(painted), out=fresh_run, overrides=overrides, workers=0, threads=1)
    assert train(config, quiet=True).already_done
    assert (fresh_run / "trained_on.json").read_bytes() == kept
    content = json.loads(kept)
    assert content == {name: sorted(values) for name, values in content.items()}
    assert (len(content["images"]), len(content["vehicle_ids"])) == (36, 12)
    (fresh_run / "trained_on.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"trained_on.json: damaged; remove it, and run the same pfcvr train"):
        measure(fresh_run, painted)


def test_an_evaluation_on_another_data_set_leaves_that_on_the_runs_own_as_it_was(
    fresh_run: Path, painted: Path, make_data: Callable[..., Path], rows_of: Callable[..., Rows]
) -> None:
    own = measure(fresh_run, painted)
    before = result_files(fresh_run)
    other = make_data(test=rows_of(range(20, 24)))
    found = measure(fresh_run, other)
    digits = found["data_fingerprint"][:8]
    after = result_files(fresh_run)
    assert set(after) - set(before) == {f"eval-test-{digits}.json", f"queries-test-{digits}.jsonl"}
    assert {name: after[name] for name in before} == before

    info = run_info(fresh_run)["evaluations"]
    assert list(info) == ["test", f"test-{digits}"]
    assert (info["test"]["metrics"], info["test"]["own_data"]) == (own["metrics"], True)
    assert info[f"test-{digits}"]["data"] == str(other)
    text = run_info_text(run_info(fresh_run))
    assert f"test of {painted} ({own['data_fingerprint'][:8]}): Rank-1" in text
    assert f"test of {other} ({digits}): Rank-1" in text


def test_a_result_that_an_earlier_version_left_under_the_plain_name_is_known_by_the_data_set_in_it(
    fresh_run: Path, painted: Path, make_data: Callable[..., Path], rows_of: Callable[..., Rows]
) -> None:
    other = make_data(test=rows_of(range(20, 24)))
    foreign = measure(fresh_run, other)
    (fresh_run / f"eval-test-{foreign['data_fingerprint'][:8]}.json").rename(fresh_run / "eval-test.json")
    (fresh_run / f"queries-test-{foreign['data_fingerprint'][:8]}.jsonl").rename(fresh_run / "queries-test.jsonl")
    old = json.loads((fresh_run / "eval-test.json").read_text())
    old = {name: value for name, value in old.items() if name not in ("own_data", "trained_on")}
    old["chance"] = {name: old["chance"][name] for name in ("rank1", "mAP")}
    (fresh_run / "eval-test.json").write_text(json.dumps(old))
    assert not run_info(fresh_run)["evaluations"]["test"]["own_data"]
    files = result_files(fresh_run)
    report = compare(CompareConfig(runs=(fresh_run,), data=str(other), workers=0), quiet=True)
    assert result_files(fresh_run) == files
    chance = next(line for line in report.text().splitlines() if line.startswith("| chance on "))
    assert [cell.strip() for cell in chance.split("|")][6:8] == [f"{old['chance']['rank1']:.1f}", ""]


def test_runs_are_compared_on_the_data_set_that_all_were_measured_on(
    fresh_run: Path, painted: Path, tmp_path: Path, make_data: Callable[..., Path], rows_of: Callable[..., Rows]
) -> None:
    second = Path(shutil.copytree(fresh_run, tmp_path / "second"))
    one, two = make_data(test=rows_of(range(20, 24))), make_data(test=rows_of(range(24, 29)))
    measure(fresh_run, painted)
    measure(fresh_run, one)
    measure(second, one)
    report = compare(CompareConfig(runs=(fresh_run, second)), quiet=True)
    assert (report.facts["data"], report.facts["identities"]) == (str(one), 4)
    assert f"Split test of {one} (" in report.text()
    measure(fresh_run, two)
    measure(second, two)
    with pytest.raises(DataError, match=r"several data sets \(.*\); choose one of them with --data"):
        compare(CompareConfig(runs=(fresh_run, second)), quiet=True)
    assert compare(CompareConfig(runs=(fresh_run, second), data=str(two)), quiet=True).facts["identities"] == 5
    measure(second, painted)
    assert compare(CompareConfig(runs=(fresh_run, second)), quiet=True).facts["data"] == str(painted)


def test_a_table_on_images_that_were_trained_on_says_so(
    make_data: Callable[..., Path],
    rows_of: Callable[..., Rows],
    small_model: tuple[str, ...],
    tmp_path: Path,
    cli: Callable[..., Outcome],
) -> None:
    leaky = make_data(train=rows_of(range(6)), val=rows_of(range(6, 8)), test=rows_of(range(4, 6)))
    overrides = (*small_model, "schedule.length=1", "schedule.warmup=0", "schedule.evaluate_every=1")
    options = [word for override in overrides for word in ("--set", override)]
    table = ("--table", "6", "--seeds", "4", "--out", tmp_path / "study", "--workers", 0, "--threads", 1)
    code, out, err = cli("ablate", "--data", leaky, *table, *options)
    sentence = "seed 4, was trained on 6 of the 6 images of split 'test' and on 2 of the 2 vehicle ids there"
    assert code == 0
    assert out.count(sentence) == err.count(sentence) == 2  # rows


def test_a_run_that_is_being_trained_is_told_with_its_process_and_steps(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfcvr.model.train.draw_curves", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    overrides = (*small_model, "schedule.length=4", "schedule.warmup=1", "schedule.evaluate_every=2")
    run_folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(data=str(painted), out=run_folder, overrides=overrides, workers=0, threads=1), quiet=True)
    program = (
        "import pathlib, sys; from pfcvr.model.run_folder import RunFolder\n"
        f"with RunFolder(pathlib.Path({str(run_folder)!r})).claimed(): print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"held\n"
        doing = f"is being trained by process {trainer.pid}, at least 2 steps so far"
        with pytest.raises(CheckpointError, match=f"{doing}; wait until it is finished"):
            measure(run_folder, painted)
        info = run_info(run_folder)
        trainer.communicate()
    assert info["trainer"] == f"process {trainer.pid}, at least 2 steps so far"
    assert f"not finished: {doing}" in run_info_text(info)
    with pytest.raises(CheckpointError, match="training is not finished; run the same pfcvr train to continue it"):
        measure(run_folder, painted)
