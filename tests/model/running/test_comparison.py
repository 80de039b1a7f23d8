import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfcvr.cli import model_app, run
from pfcvr.config import CompareConfig, EvalConfig, TrainConfig
from pfcvr.errors import CheckpointError, DataError, UsageError
from pfcvr.model.comparison import compare
from pfcvr.model.evaluate import evaluate
from pfcvr.model.query_results import REACHED, read_query_results
from pfcvr.model.train import train


@pytest.fixture(scope="module")
def measured_run(finished_run: Path, painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``finished_run`` in a folder of its own, evaluated on test."""
    copy = tmp_path_factory.mktemp("measured") / "pfcvr"
    shutil.copytree(finished_run, copy)
    evaluate(EvalConfig(run=copy, data=str(painted), workers=0), quiet=True)
    return copy


@pytest.fixture
def make_run(measured_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the measured run whose queries reached what is given."""

    def make(name: str, reached: Callable[[dict[str, Any]], dict[str, Any]] = dict, **facts: Any) -> Path:
        copy = tmp_path / name
        shutil.copytree(measured_run, copy)
        path = copy / "queries-test.jsonl"
        records = [reached(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        evaluation = json.loads((copy / "eval-test.json").read_text()) | facts
        (copy / "eval-test.json").write_text(json.dumps(evaluation))
        return copy

    return make


def perfect(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "first_hit_rank": 1, "average_precision": 1.0, "inverse_negative_penalty": 1.0}


def hopeless(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "first_hit_rank": 12, "average_precision": 0.1, "inverse_negative_penalty": 0.1}


def two(*paths: Path, **more: Any) -> CompareConfig:
    return CompareConfig(runs=paths, workers=0, **more)


def test_the_means_are_those_of_the_evaluation_and_lie_in_their_intervals(measured_run: Path) -> None:
    report = compare(two(measured_run))
    evaluated = json.loads((measured_run / "eval-test.json").read_text())["metrics"]
    found = report.rows[0]["metrics"]
    assert {name: found[name]["mean"] for name in REACHED} == pytest.approx(evaluated)
    for name in REACHED:
        assert found[name]["low"] <= found[name]["mean"] <= found[name]["high"]
        assert found[name]["deviation"] is None
    assert report.rows[0]["seeds"] == [0]
    assert (report.facts["queries"], report.facts["identities"], report.facts["gallery"]) == (30, 5, 15)


def test_a_better_run_differs_by_as_much_as_it_is_better(make_run: Callable[..., Path]) -> None:
    worse, better, same = make_run("worse", hopeless), make_run("better", perfect), make_run("same", hopeless)
    report = compare(two(worse, better, same))
    gain = report.rows[1]["against_first"]
    assert gain["rank1"]["difference"] == 100
    assert gain["mAP"]["difference"] == pytest.approx(90)
    assert gain["rank1"]["low"] == gain["rank1"]["high"] == 100
    assert gain["rank1"]["p_value"] == pytest.approx(2 / 2**5)  # five vehicles: the smallest p there can be
    none = report.rows[2]["against_first"]["rank1"]
    assert (none["difference"], none["p_value"]) == (0, 1)
    assert compare(two(better, worse)).rows[1]["against_first"]["rank1"]["difference"] == -100


def test_the_same_seed_gives_the_same_report(make_run: Callable[..., Path], measured_run: Path) -> None:
    other = make_run("better", perfect)
    assert compare(two(measured_run, other)).as_dict() == compare(two(measured_run, other)).as_dict()


def test_queries_can_be_drawn_instead_of_identities(make_run: Callable[..., Path]) -> None:
    hits: Iterator[int] = iter(range(100))
    run_folder = make_run("half", lambda record: perfect(record) if next(hits) < 15 else hopeless(record))
    by_identity, by_query = (compare(two(run_folder, unit=unit)).rows[0] for unit in ("identities", "queries"))
    width = [row["metrics"]["rank1"]["high"] - row["metrics"]["rank1"]["low"] for row in (by_identity, by_query)]
    assert width[0] > width[1] > 0  # all queries of a vehicle were hit, or none


def test_seeds_of_one_training_are_one_entry_with_their_mean_and_deviation(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "seeds").mkdir()
    make_run("seeds/seed-1", hopeless, seed=1)
    make_run("seeds/seed-2", perfect, seed=2)
    row = compare(two(tmp_path / "seeds")).rows[0]
    assert row["seeds"] == [1, 2]
    assert row["metrics"]["rank1"]["mean"] == 50
    assert row["metrics"]["rank1"]["deviation"] == pytest.approx(np.std([0, 100], ddof=1))
    text = compare(two(tmp_path / "seeds")).text()
    assert "50.0 ± 70.7" in text
    assert "± is the deviation over the seeds" in text


def test_seeds_of_different_methods_are_not_mixed(make_run: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    make_run("seeds/seed-1")
    make_run("seeds/seed-2", method="irra")
    with pytest.raises(UsageError, match=r"its runs differ in method \(irra, pfcvr\); name the runs one by one"):
        compare(two(tmp_path / "seeds"))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda record: {**record, "caption": record["caption"] + "!"}, {}),
        (lambda record: {**record, "relevant": 2}, {}),
        (dict, {"gallery": 16}),
    ],
    ids=["captions", "relevant images", "gallery"],
)
def test_runs_measured_on_different_queries_are_refused(
    make_run: Callable[..., Path], measured_run: Path, change: Callable, facts: dict[str, int]
) -> None:
    other = make_run("other", change, **facts)
    sentence = "were measured on different queries or galleries of split 'test' .*; run pfcvr eval on one data set"
    with pytest.raises(DataError, match=sentence):
        compare(two(measured_run, other))


def test_a_run_without_results_needs_the_data_set(
    finished_run: Path, painted: Path, tmp_path: Path, measured_run: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "new", ignore=shutil.ignore_patterns("eval-*", "queries-*"))
    with pytest.raises(
        DataError, match=r"not evaluated query by query on split 'test'; give --data, or run: pfcvr eval"
    ):
        compare(two(measured_run, tmp_path / "new"))
    report = compare(two(measured_run, tmp_path / "new", data=str(painted)), quiet=True)
    assert report.rows[0]["metrics"] == report.rows[1]["metrics"]


def test_runs_are_compared_on_the_data_set_that_is_given_and_on_no_other(
    make_run: Callable[..., Path],
    measured_run: Path,
    painted: Path,
    make_data: Callable[..., Path],
    rows_of: Callable[..., list[dict[str, Any]]],
) -> None:
    run_folder = make_run("run")
    other = make_data(test=rows_of(range(20, 24)))
    report = compare(two(run_folder, data=str(other)), quiet=True)
    assert (report.facts["queries"], report.facts["gallery"]) == (24, 12)
    made = (run_folder / "eval-test.json").stat().st_mtime_ns
    assert compare(two(run_folder, data=str(other)), quiet=True).rows == report.rows
    assert (run_folder / "eval-test.json").stat().st_mtime_ns == made
    back = compare(two(run_folder, measured_run, data=str(painted)), quiet=True)
    assert back.rows[0]["metrics"] == back.rows[1]["metrics"]


def test_what_is_no_run_is_named(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="no training run here, nor seeds of one; give a folder that pfcvr train"):
        compare(two(tmp_path / "nothing"))
    damaged = make_run("damaged")
    (damaged / "queries-test.jsonl").write_text("{")
    with pytest.raises(CheckpointError, match=r"queries-test\.jsonl: damaged .*; run pfcvr eval again"):
        compare(two(damaged))
    (damaged / "queries-test.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"damaged \(no query with anything to find\); run pfcvr eval again"):
        compare(two(damaged))
    with pytest.raises(CheckpointError, match=r"eval-test\.json: damaged evaluation; run pfcvr eval again"):
        compare(two(make_run("uncounted", gallery="many")))
    unnamed = make_run("unnamed")
    facts = json.loads((unnamed / "run.json").read_text())
    (unnamed / "run.json").write_text(json.dumps({name: facts[name] for name in facts if name != "method"}))
    with pytest.raises(CheckpointError, match=r"run\.json: damaged, 'method' is missing; restore the file or train"):
        compare(two(unnamed))
    (damaged / "eval-test.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"eval-test\.json: damaged evaluation; run pfcvr eval again"):
        compare(two(damaged))


def test_published_rivals_stand_beside_with_what_to_know_about_them(
    measured_run: Path, make_run: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = make_run("irra", perfect, method="irra", protocol="published")
    arguments = ["compare", str(measured_run), str(other), "--published", "t2i-verw", "--out", str(tmp_path / "out")]
    assert run(model_app, "pfcvr", arguments) == 0
    printed = capfd.readouterr().out
    assert printed == (tmp_path / "out" / "compare-test.md").read_text()
    rivals = [line for line in printed.splitlines() if line.startswith("| VFE-TPS (2025)")]
    assert [cell.strip() for cell in rivals[0].split("|")][6:10] == ["53.7", "82.0", "89.7", "24.4"]
    assert rivals[0].split("|")[1].strip() == "VFE-TPS (2025), published on T2I-VeRW"
    assert "(15 images of 5 vehicles) is not the test split of T2I-VeRW (4,403 images of 545 vehicles)" in printed
    source = "Figures published on T2I-VeRW: Table IV"
    for sentence in (source, "Average precision is not defined alike", "The protocols differ"):
        assert sentence in printed
    records = list(csv.DictReader(io.StringIO((tmp_path / "out" / "compare-test.csv").read_text())))
    assert [record["run"] for record in records[:2]] == [str(measured_run), str(other)]
    assert float(records[1]["rank1_p_value_to_first"]) <= 1
    irra = next(record for record in records if record["run"] == "IRRA (2023)")
    assert (float(irra["rank1"]), irra["published_on"]) == (47.3, "T2I-VeRW")
    assert records[0]["published_on"] == ""

    assert run(model_app, "pfcvr", ["compare", str(measured_run), str(other), "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["rows"][1]["method"] == "irra"
    assert "against_first" not in answer["rows"][0]
    assert set(answer["rows"][1]["against_first"]) == set(REACHED)


def test_runs_of_every_method_can_be_compared(
    painted: Path, small_model: tuple[str, ...], tmp_path: Path, measured_run: Path
) -> None:
    short = ("schedule.length=3", "schedule.warmup=1", "schedule.evaluate_every=3")
    for method in ("clip", "irra"):
        overrides = (*small_model[2:], *short)
        config = TrainConfig(data=str(painted), out=tmp_path / method, overrides=overrides, workers=0, threads=1)
        train(config.model_copy(update={"method": method}), quiet=True)
    report = compare(two(measured_run, tmp_path / "clip", tmp_path / "irra", data=str(painted)), quiet=True)
    assert [row["method"] for row in report.rows] == ["pfcvr", "clip", "irra"]


def test_what_a_query_reached_is_read_as_it_was_written(measured_run: Path) -> None:
    results = read_query_results(measured_run / "queries-test.jsonl")
    records = [json.loads(line) for line in (measured_run / "queries-test.jsonl").read_text().splitlines()]
    assert results.vehicle_ids == tuple(record["vehicle_id"] for record in records)
    assert results.values[:, 3].tolist() == pytest.approx([100 * record["average_precision"] for record in records])
    assert results.values[:, 1].tolist() == [100.0 * (record["first_hit_rank"] <= 5) for record in records]
