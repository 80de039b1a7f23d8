from pathlib import Path

import pytest

from pfcvr.errors import UsageError
from pfcvr.model.recipes import load_recipe, recipe_names, recipe_text


def test_every_shipped_recipe_reads_back_from_its_resolved_text(tmp_path: Path) -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        (tmp_path / "resolved.toml").write_text(recipe_text(recipe))
        assert load_recipe(str(tmp_path / "resolved.toml")) == recipe


def test_values_can_be_set() -> None:
    recipe = load_recipe("tiny", ["optimizer.lr=3e-4", "augment.expand=false", "model.towers.activation=gelu"])
    assert (recipe.optimizer.lr, recipe.augment.expand, recipe.model.towers.activation) == (3e-4, False, "gelu")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimiser.lr=1", "--set: unknown key 'optimiser'; known here: augment, batch_size"),
        ("optimizer.rate=1", "unknown key 'optimizer.rate'; known here: betas, eps, kind, lr"),
        ("batch_size=many", "'batch_size': input should be a valid integer"),
        ("batch_size.big=1", "'batch_size' is a value, not a table of keys"),
        ("lr", "--set lr: expected KEY=VALUE"),
        ("schedule.warmup=900", r"warmup \(900\) must be shorter than length \(500\)"),
    ],
)
def test_a_wrong_override_is_named(override: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_recipe("tiny", [override])


def test_an_unknown_recipe_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown recipe 'huge'; choose one of: tiny, or give the path"):
        load_recipe("huge")


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[optimizer]\nspeed = 2\n")
    with pytest.raises(UsageError, match="unknown key 'optimizer.speed'"):
        load_recipe(str(tmp_path / "mine.toml"))
