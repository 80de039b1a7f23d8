import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfcvr.config import EvalConfig, TrainConfig
from pfcvr.errors import CheckpointError, DataError, SourceError, UsageError
from pfcvr.model import evaluate as evaluation
from pfcvr.model.encode import Encoded
from pfcvr.model.evaluate import evaluate, family_metrics, permuted_metrics
from pfcvr.model.run_info import run_info, run_info_text
from pfcvr.model.train import train


def config_for(run: Path, data: Path, **fields: Any) -> EvalConfig:
    return EvalConfig(run=run, data=str(data), workers=0, **fields)


def perfect(images: int = 12, per_vehicle: int = 2, captions: int = 2) -> Encoded:
    """A model that knows each vehicle: its images and captions share one direction."""
    labels = np.arange(images) // per_vehicle
    own = np.repeat(np.arange(images), captions)
    directions = np.eye(images, dtype=np.float32)
    return Encoded(directions[labels[own]], directions[labels], labels[own], labels, own)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Test vehicles 15..19: two families of two, and one vehicle alone."""
    families = {"015": "a", "016": "a", "017": "b", "018": "b", "019": "c"}
    lines = [json.dumps({"vehicle_id": vehicle, "family_id": family}) for vehicle, family in families.items()]
    (tmp_path / "truth.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "truth.jsonl"


def test_an_evaluation_says_what_was_measured_and_how(finished_run: Path, painted: Path, truth: Path) -> None:
    result = evaluate(config_for(finished_run, painted, truth=truth), quiet=True)
    assert (result["method"], result["variant"], result["protocol"], result["seed"]) == ("pfcvr", "paper", "clean", 0)
    assert (result["split"], result["queries"], result["gallery"], result["identities"]) == ("test", 30, 15, 5)
    assert set(result["metrics"]) == {"rank1", "rank5", "rank10", "mAP", "mINP"}
    assert 0 <= result["metrics"]["rank1"] <= result["metrics"]["rank5"] <= result["metrics"]["rank10"] <= 100
    assert result["chance"]["rank1"] == pytest.approx(100 * 3 / 15)
    assert result["without_own_image"]["queries"] == 30
    assert result["family"]["queries"] == 24
    assert result["family"]["skipped"] == 6
    assert result["family"]["chance_rank1"] == pytest.approx(100 * 2 / 4)
    assert json.loads((finished_run / "eval-test.json").read_text()) == result
    lines = evaluation.text(result).splitlines()
    assert "protocol clean, seed 0" in lines[0]
    assert lines[2].split()[1] == f"{result['metrics']['rank1']:.1f}"
    assert lines[-1].startswith("Rank-1 among near-twins, across cameras")


def test_what_every_query_reached_stands_beside_the_means(finished_run: Path, painted: Path) -> None:
    result = evaluate(config_for(finished_run, painted), quiet=True)
    queries = [json.loads(line) for line in (finished_run / "queries-test.jsonl").read_text().splitlines()]
    assert [query["query"] for query in queries] == list(range(30))
    assert queries[1]["image_id"] == "015/0"
    assert queries[1]["vehicle_id"] == "015"
    assert "glass in a" in queries[1]["caption"]
    assert all(query["relevant"] == 3 for query in queries)
    metrics = result["metrics"]
    for k in (1, 5, 10):
        assert 100 * np.mean([query["first_hit_rank"] <= k for query in queries]) == pytest.approx(metrics[f"rank{k}"])
    assert 100 * np.mean([query["average_precision"] for query in queries]) == pytest.approx(metrics["mAP"])
    assert 100 * np.mean([query["inverse_negative_penalty"] for query in queries]) == pytest.approx(metrics["mINP"])
    assert 0 < result["trapezoid_mAP"] < metrics["mAP"]


def test_captions_that_are_too_long_are_counted(
    finished_run: Path, make_data: Callable[..., Path], rows_of: Callable
) -> None:
    rows = rows_of(range(2), 2)
    rows[0]["captions"] = ["a red car " * 30, "a red car"]
    result = evaluate(config_for(finished_run, make_data(test=rows)), quiet=True)
    assert result["truncated_captions"] == 1
    assert "1 of 8 captions are longer than the model reads and were cut" in evaluation.text(result)


def test_evaluating_again_gives_the_same_numbers(finished_run: Path, painted: Path) -> None:
    first = evaluate(config_for(finished_run, painted), quiet=True)
    again = evaluate(config_for(finished_run, painted).model_copy(update={"workers": 1}), quiet=True)
    assert first == again


def test_the_metrics_of_the_selection_images_are_those_that_training_reported(
    finished_run: Path, painted: Path
) -> None:
    reported = json.loads((finished_run / "run.json").read_text())["metrics"]
    result = evaluate(config_for(finished_run, painted, split="val"), quiet=True)
    for name, value in result["metrics"].items():
        assert value == pytest.approx(reported[name], abs=1e-3)


def test_captions_handed_to_other_vehicles_find_nothing_with_a_perfect_model() -> None:
    encoded = perfect()
    assert encoded.metrics().rank1 == 100
    for seed in range(5):
        assert permuted_metrics(encoded, seed)["rank1"] == 0


def test_captions_handed_to_other_vehicles_keep_chance_with_a_model_that_knows_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(50), 4)
    own = np.arange(200)
    encoded = Encoded(*(rng.standard_normal((200, 8)).astype(np.float32) for _ in "qg"), labels[own], labels, own)
    assert permuted_metrics(encoded, 0)["rank1"] == pytest.approx(2, abs=2.5)


def test_one_vehicle_cannot_be_permuted() -> None:
    assert permuted_metrics(perfect(images=2), 0) is None


def test_rank1_in_the_family_is_across_cameras_and_counts_ties_as_wrong() -> None:
    families = np.repeat(np.arange(3), 4)  # two vehicles with two images each
    own_cameras = np.arange(12)
    known = family_metrics(perfect(), families, own_cameras)
    assert known == {"rank1": 100.0, "chance_rank1": pytest.approx(100 / 3), "queries": 24, "skipped": 0}

    encoded = perfect()
    same = np.ones_like(encoded.gallery)
    blind = Encoded(same[encoded.own_image], same, encoded.query_labels, encoded.gallery_labels, encoded.own_image)
    assert family_metrics(blind, families, own_cameras)["rank1"] == 0

    alone = family_metrics(perfect(per_vehicle=1), families, own_cameras)
    assert (alone["queries"], alone["skipped"]) == (0, 24)


def test_a_twin_seen_by_the_described_camera_is_not_searched() -> None:
    """A model that knows only the view finds the twin there; across cameras it has nothing to go by."""
    labels, cameras = np.repeat([0, 1], 4), np.tile([0, 1, 2, 3], 2)
    own = np.arange(8)
    views = np.eye(4, dtype=np.float32)[cameras]
    encoded = Encoded(views, views, labels, labels, own)
    assert family_metrics(encoded, np.zeros(8, int), cameras)["chance_rank1"] == pytest.approx(50)
    assert family_metrics(encoded, np.zeros(8, int), cameras)["rank1"] == 0
    vehicles = np.eye(2, dtype=np.float32)[labels]
    both = np.concatenate([views, 0.5 * vehicles], axis=1)
    assert family_metrics(Encoded(both, both, labels, labels, own), np.zeros(8, int), cameras)["rank1"] == 100


class TestWhatAUserIsTold:
    def test_no_run(self, painted: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no training run here; make one with: pfcvr train"):
            evaluate(config_for(tmp_path, painted), quiet=True)

    def test_a_run_that_is_not_finished(
        self, painted: Path, tmp_path: Path, small_model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pfcvr.model.train.draw_curves", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        overrides = (*small_model, "schedule.length=4", "schedule.warmup=1", "schedule.evaluate_every=2")
        config = TrainConfig(data=str(painted), out=tmp_path / "run", overrides=overrides, workers=0, threads=1)
        with pytest.raises(KeyboardInterrupt):
            train(config, quiet=True)
        with pytest.raises(CheckpointError, match="training is not finished; run the same pfcvr train to continue"):
            evaluate(config_for(tmp_path / "run", painted), quiet=True)
        assert "not finished" in run_info_text(run_info(tmp_path / "run"))

    def test_a_split_that_is_not_there(self, finished_run: Path, painted: Path) -> None:
        with pytest.raises(DataError, match="no split 'dev' or no image in it; splits here: train, val, test"):
            evaluate(config_for(finished_run, painted, split="dev"), quiet=True)

    def test_no_captions(self, finished_run: Path, make_data: Callable[..., Path], rows_of: Callable) -> None:
        path = make_data(test=[{**row, "captions": []} for row in rows_of(range(2))])
        with pytest.raises(DataError, match="no image of split 'test' has a caption to search with"):
            evaluate(config_for(finished_run, path), quiet=True)

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (None, "there is no such truth file"),
            ("[1]\n", "not a truth file .* expected JSON lines with vehicle_id and family_id"),
            ('{"vehicle_id": "015", "family_id": "a"}\n', "knows no family of vehicle '016'"),
        ],
    )
    def test_a_wrong_truth_file(
        self, finished_run: Path, painted: Path, tmp_path: Path, content: str | None, sentence: str
    ) -> None:
        if content is not None:
            (tmp_path / "wrong.jsonl").write_text(content)
        with pytest.raises(SourceError, match=sentence):
            evaluate(config_for(finished_run, painted, truth=tmp_path / "wrong.jsonl"), quiet=True)

    def test_weights_that_are_cut_off(self, finished_run: Path, painted: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(finished_run, tmp_path / "run")
        weights = tmp_path / "run" / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            evaluate(config_for(tmp_path / "run", painted), quiet=True)

    def test_a_method_nobody_knows(self, finished_run: Path, painted: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(finished_run, tmp_path / "run")
        manifest = tmp_path / "run" / "run.json"
        manifest.write_text(manifest.read_text().replace('"pfcvr"', '"magic"'))
        with pytest.raises(UsageError, match="unknown method 'magic'; choose one of: clip, irra, pfcvr"):
            evaluate(config_for(tmp_path / "run", painted), quiet=True)

    def test_a_run_from_a_newer_program(self, finished_run: Path, painted: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(finished_run, tmp_path / "run")
        manifest = tmp_path / "run" / "run.json"
        manifest.write_text(manifest.read_text().replace('"run_version": 1', '"run_version": 9'))
        with pytest.raises(CheckpointError, match="made by a newer pfcvr"):
            run_info(tmp_path / "run")


def test_info_names_settings_results_and_evaluations(finished_run: Path, painted: Path) -> None:
    evaluate(config_for(finished_run, painted), quiet=True)
    facts = run_info(finished_run)
    assert facts["finished"]
    assert facts["recipe"]["batch_size"] == 8
    assert set(facts["evaluations"]["test"]["metrics"]) == {"rank1", "rank5", "rank10", "mAP", "mINP"}
    text = run_info_text(facts)
    assert "pfcvr, variant paper, protocol clean, seed 0" in text
    assert "36 images of 12 ids, 72 captions, for 12 steps" in text
    assert f"test of {painted} (" in text
