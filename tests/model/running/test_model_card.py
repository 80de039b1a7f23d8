"""The card of a run that is published: what it may claim, and what it keeps to itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from pfcvr.config import EvalConfig, PushModelConfig, parse
from pfcvr.errors import UsageError
from pfcvr.model.evaluate import evaluate
from pfcvr.model.publication import compose
from pfcvr.model.push import push
from pfcvr.model.run_folder import RunFolder

Rows = list[dict[str, Any]]


@pytest.fixture
def fresh_run(finished_run: Path, tmp_path: Path) -> Path:
    """``finished_run``, trained on vehicles 000 to 011, in a folder of its own and not evaluated."""
    skipped = shutil.ignore_patterns("eval-*", "queries-*")
    return Path(shutil.copytree(finished_run, tmp_path / "run", ignore=skipped))


def measure(run: Path, data: Path, split: str = "test") -> None:
    evaluate(EvalConfig(run=run, data=str(data), split=split, workers=0), quiet=True)


def card_of(run: Path, licence: str | None = None) -> ModelCard:
    return ModelCard.load(compose(RunFolder(run), "lab/search", licence) / "README.md")


def test_a_model_from_random_weights_is_not_called_clip_and_notes_of_the_machine_stay_here(
    fresh_run: Path, painted: Path
) -> None:
    measure(fresh_run, painted)
    manifest = fresh_run / "run.json"
    facts = json.loads(manifest.read_text())
    facts["notes"] = [*facts["notes"], "no CUDA device here: training on the CPU"]
    manifest.write_text(json.dumps(facts))
    card = card_of(fresh_run)
    assert "clip" not in card.data.tags
    assert "the cosine of a feature of the sentence and one of the image" in card.text
    assert "CUDA" not in card.content
    assert card.text.count("chosen on") == 1
    bullets = [line for line in card.text.splitlines() if line.startswith("- ")]
    assert len(bullets) == len(set(bullets))


def test_a_licence_is_named_or_its_absence_is(fresh_run: Path, painted: Path) -> None:
    named = card_of(fresh_run, "apache-2.0")
    assert named.data.license == "apache-2.0"
    assert "no licence" not in named.text
    silent = card_of(fresh_run)
    assert silent.data.license is None
    assert "Whoever published it named no licence: ask before you use the weights." in silent.text
    told = push(PushModelConfig(run=fresh_run, repository="lab/search", dry_run=True))
    assert "no licence was named, and the card says so: --license NAME names one" in told.text()
    with pytest.raises(UsageError, match="the Hub's name of a licence, for example mit, apache-2.0 or cc-by-nc-4.0"):
        parse(PushModelConfig, {"run": "r", "repository": "a/b", "licence": "My Own: 1"}, "pfcvr push")


def test_backbone_and_data_set_are_named_where_the_hub_has_them(fresh_run: Path) -> None:
    assert (card_of(fresh_run).data.base_model, card_of(fresh_run).data.datasets) == (None, None)
    recipe = fresh_run / "recipe.toml"
    text = recipe.read_text()
    assert "[model]\n" in text
    recipe.write_text(text.replace("[model]\n", '[model]\nbackbone = "openai/clip-vit-base-patch16"\n'))
    facts = json.loads((fresh_run / "run.json").read_text()) | {"data_source": "lab/vehicles"}
    (fresh_run / "run.json").write_text(json.dumps(facts))
    card = card_of(fresh_run)
    assert (card.data.base_model, card.data.datasets) == ("openai/clip-vit-base-patch16", ["lab/vehicles"])
    assert "two CLIP features" in card.text
    assert "clip" in card.data.tags


def test_figures_on_train_images_are_left_out_and_those_on_known_vehicle_ids_are_marked(
    fresh_run: Path, painted: Path, make_data: Callable[..., Path], rows_of: Callable[..., Rows]
) -> None:
    measure(fresh_run, painted, "train")
    assert "| train |" not in card_of(fresh_run).text
    assert "Not evaluated by `pfcvr eval` on images that it had not seen." in card_of(fresh_run).text
    measure(fresh_run, painted)
    other = make_data(test=rows_of(range(3), seed=7))
    measure(fresh_run, other)
    card = card_of(fresh_run)
    own, found = (
        json.loads(path.read_text())["data_fingerprint"][:8] for path in sorted(fresh_run.glob("eval-test*"))[::-1]
    )
    rows = [line for line in card.text.splitlines() if line.startswith("| data-set")]
    assert [row.split(" | ")[0] for row in rows] == [f"| data-set ({own})", rf"| data-set ({found}) \*"]
    assert r"\* The model was trained on other images of 3 of the 3 vehicle ids of split 'test'" in card.text
    assert f"Measured on images that it was trained on, and left out here: train of data-set ({own})." in card.text
    assert f"- Data: data-set ({own}), 36 images" in card.text
    claimed = {(result.dataset_name, result.metric_value) for result in card.data.eval_results}
    measured = json.loads((fresh_run / "eval-test.json").read_text())["metrics"]
    assert claimed == {(f"data-set ({own})", round(value, 2)) for value in measured.values()}
    assert "was not recorded" not in card.text
    (fresh_run / "trained_on.json").unlink()
    measure(fresh_run, painted)
    assert "Which images it was trained on was not recorded" in card_of(fresh_run).text


def test_data_sets_of_one_name_stay_apart_in_the_metadata(
    fresh_run: Path, painted: Path, make_data: Callable[..., Path], rows_of: Callable[..., Rows]
) -> None:
    measure(fresh_run, painted)
    measure(fresh_run, make_data(test=rows_of(range(20, 23))))
    entries = card_of(fresh_run).data.to_dict()["model-index"][0]["results"]
    assert len({entry["dataset"]["name"] for entry in entries}) == 2
    assert [len(entry["metrics"]) for entry in entries] == [5, 5]
