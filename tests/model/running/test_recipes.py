from pathlib import Path

import pytest

from pfcvr.config import Method
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
        ("optimiser.lr=1", "--set: unknown key 'optimiser'; known here: .*augment, batch_size"),
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
    with pytest.raises(UsageError, match="unknown recipe 'huge'; choose one of: t2i-veri, t2i-verw, tiny, or give"):
        load_recipe("huge")


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[optimizer]\nspeed = 2\n")
    with pytest.raises(UsageError, match="unknown key 'optimizer.speed'"):
        load_recipe(str(tmp_path / "mine.toml"))


def test_a_variant_lies_under_the_recipe_and_a_method_over_it(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[model]\ntemperature = 0.05\n[model.losses]\nid = 0.7\nmim = 0.3\n")
    mine = str(tmp_path / "mine.toml")
    plain, official = load_recipe(mine), load_recipe(mine, variant="official")
    assert (plain.variant, plain.model.cls_position, plain.model.temperature) == ("paper", 0, 0.05)
    assert (official.variant, official.model.cls_position, official.model.temperature) == ("official", 1, 0.05)
    irra = load_recipe(mine, ["model.losses.mlm=0.25"], method="irra")
    assert irra.method == "irra"
    assert (irra.model.losses.id, irra.model.losses.mim, irra.model.losses.mlm) == (1.0, 0.0, 0.25)
    assert irra.model.temperature == 0.05
    assert irra.model.losses.part_itc == 0
    assert not irra.augment.expand


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize(
    ("method", "losses"), [("clip", {"itc"}), ("irra", {"sdm", "id", "mlm"}), ("pfcvr", {"sdm", "id", "part_itc"})]
)
def test_a_method_has_its_own_losses_under_every_recipe(recipe: str, method: Method, losses: set[str]) -> None:
    weights = load_recipe(recipe, method=method).model.losses.model_dump()
    enabled = {name for name, weight in weights.items() if weight > 0}
    foreign = {"clip": set(weights) - {"itc"}, "irra": {"part_itc", "part_across", "part_mlm", "mim"}, "pfcvr": set()}
    assert losses <= enabled
    assert not enabled & foreign[method]


def test_a_resolved_recipe_keeps_its_method_variant_and_own_values(tmp_path: Path) -> None:
    made = load_recipe("tiny", ["model.losses.mlm=0.1"], variant="official", method="irra")
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(made))
    assert load_recipe(str(path)) == made
    assert load_recipe(str(path), method="irra", variant="official") == made
    with pytest.raises(UsageError, match="has method irra worked in and cannot become pfcvr; give the recipe"):
        load_recipe(str(path), method="pfcvr")
    with pytest.raises(UsageError, match="has variant official worked in and cannot become paper"):
        load_recipe(str(path), variant="paper")


def test_a_method_is_not_set_by_its_name_alone() -> None:
    with pytest.raises(UsageError, match="--set method=irra: a method is many keys at once; give --method irra"):
        load_recipe("tiny", ["method=irra"])


def test_overrides_of_one_run_do_not_reach_the_next() -> None:
    load_recipe("t2i-verw", ["augment.expand=true", "model.losses.mlm=0.3"], method="irra")
    again = load_recipe("t2i-verw", method="irra")
    assert (again.augment.expand, again.model.losses.mlm) == (False, 1.0)
