"""Model settings that cannot be built are refused before anything is built."""

from typing import Any

import pytest

from pfcvr.config import ModelConfig, Recipe, parse
from pfcvr.errors import UsageError


def test_the_defaults_are_clip_vit_b16_at_384_px_with_the_papers_losses() -> None:
    config = ModelConfig()
    assert config.patch_grid == (24, 24)
    weights = {name: weight for name, weight in config.losses.model_dump().items() if weight}
    assert weights == {"sdm": 1.0, "id": 0.5, "part_itc": 0.2, "mlm": 0.5, "mim": 0.5}


def test_the_patch_grid_has_as_many_rows_as_the_image_is_high() -> None:
    assert ModelConfig(image_size=(128, 384)).patch_grid == (8, 24)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image_size": [100, 96]}, "image_size (100, 96) must be multiples of patch_size (16)"),
        ({"heads": 7}, "embedding_dim (512) must be divisible by heads (7)"),
        ({"patch_mask_ratio": 0.001}, "patch_mask_ratio (0.001) removes no patch of (24, 24)"),
        ({"towers": {"text_heads": 5}}, "text_width (512) must be divisible by text_heads (5)"),
        ({"losses": {"mlm": -1}}, "'losses.mlm': input should be greater than or equal to 0"),
        ({"losses": {"mlm": float("inf")}}, "'losses.mlm': input should be a finite number (got inf)"),
        ({"backbone": ""}, "'backbone': string should have at least 1 character (got '')"),
        ({"towers": {"activation": "sigmoid"}}, "'towers.activation': input should be 'quick_gelu', 'gelu'"),
        ({"losses": {"zoo": 1}}, "unknown key 'losses.zoo'; known here: id, itc, mim, mlm, part_across"),
    ],
)
def test_settings_that_fit_no_model_are_refused_with_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(ModelConfig, settings, "recipe.toml")
    assert sentence in str(refusal.value)
    assert str(refusal.value).startswith("recipe.toml: ")


def test_what_concerns_several_keys_is_said_without_all_the_others() -> None:
    with pytest.raises(UsageError) as refusal:
        parse(Recipe, {"model": {"image_size": [100, 96]}}, "--set")
    assert str(refusal.value) == "--set: 'model': image_size (100, 96) must be multiples of patch_size (16)"


def test_a_decay_of_the_optimizer_that_forgets_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'optimizer.betas.1': input should be less than 1 \(got 1\)"):
        parse(Recipe, {"optimizer": {"betas": [0.9, 1]}}, "--set")
