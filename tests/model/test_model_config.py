"""Model settings that cannot be built are refused before anything is built."""

from typing import Any

import pytest

from pfcvr.cli import model_app, run
from pfcvr.config import ModelConfig, Recipe, TrainConfig, parse
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
        ({"text_length": 100_000}, "'text_length': input should be less than or equal to 1024 (got 100000)"),
        ({"part_text_length": 100_000}, "'part_text_length': input should be less than or equal to 1024"),
        ({"image_size": [64, 100_000]}, "'image_size.1': input should be less than or equal to 4096 (got 100000)"),
        ({"image_size": [0, 64]}, "'image_size.0': input should be greater than or equal to 1 (got 0)"),
        ({"towers": {"vision_width": 10**8}}, "'towers.vision_width': input should be less than or equal to 16384"),
        ({"patch_decoder_depth": 10**6}, "'patch_decoder_depth': input should be less than or equal to 256"),
        ({"vocabulary_size": 10**9}, "'vocabulary_size': input should be less than or equal to 1000000"),
        ({"temperature": 1e-30}, "'temperature': input should be greater than or equal to 0.001 (got 1e-30)"),
        ({"losses": {"sdm": 0, "id": 0, "part_itc": 0, "mlm": 0, "mim": 0}}, "'losses': every loss has weight 0"),
        (
            {"patch_mask_ratio": 1e-20, "patch_mask_ratio_means": "kept"},
            "patch_mask_ratio (1e-20) removes every patch of (24, 24)",
        ),
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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": 4, "accumulation": 5}, "--set: accumulation (5) must not exceed batch_size (4)"),
        ({"augment": {"crop_padding": 384}}, "--set: augment.crop_padding (384) must be smaller than the sides"),
        ({"augment": {"erase_area": [0.5, 4.0]}}, "erase_area (0.5, 4.0) is a share of the image"),
        ({"augment": {"dark_gamma": [0.5, 2.0]}}, "dark_gamma (0.5, 2.0) must lie above 1 and bright_gamma (0.4, 0.7)"),
        ({"augment": {"bright_gamma": [0.5, 2.0]}}, "and bright_gamma (0.5, 2.0) below"),
        ({"augment": {"noise_sigma": 40}}, "'augment.noise_sigma': input should be less than or equal to 1 (got 40)"),
        ({"optimizer": {"eps": 1e300}}, "'optimizer.eps': input should be less than or equal to 1 (got 1e+300)"),
        ({"optimizer": {"weight_decay": 1e9}}, "'optimizer.weight_decay': input should be less than or equal to 10"),
    ],
)
def test_settings_that_train_nothing_are_refused_with_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(Recipe, settings, "--set")
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"seed": 10**23}, "'seed': input should be less than 9223372036854775808"),
        ({"workers": 100_000}, "'workers': input should be less than or equal to 256 (got 100000)"),
        ({"threads": 100_000}, "'threads': input should be less than or equal to 1024 (got 100000)"),
    ],
)
def test_what_no_machine_can_do_is_refused_with_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(TrainConfig, {"data": "dataset", "out": "run", **settings}, "pfcvr train")
    assert sentence in str(refusal.value)


def test_a_decay_of_the_optimizer_that_forgets_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'optimizer.betas.1': input should be less than 1 \(got 1\)"):
        parse(Recipe, {"optimizer": {"betas": [0.9, 1]}}, "--set")


@pytest.mark.parametrize("command", [["train", "--out", "run"], ["probe"]])
def test_the_number_of_threads_can_be_given_on_the_command_line(
    command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(model_app, "pfcvr", [*command, "--data", "dataset", "--threads", "0"]) == 2
    assert "'threads': input should be greater than or equal to 1 (got 0)" in capfd.readouterr().err
