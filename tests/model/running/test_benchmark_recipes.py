"""The recipes of the two benchmarks, at their full image size, on a CLIP checkpoint that is small enough to train."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pfcvr.config import TrainConfig
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.recipes import load_recipe
from pfcvr.model.run_folder import RunFolder
from pfcvr.model.tokenizer import clip_tokenizer
from pfcvr.model.train import train


def save_clip(folder: Path, patch_size: int) -> Path:
    """A CLIP folder in Transformers' layout with CLIP's own words and one thin layer a tower."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = clip_tokenizer(77)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": tokenizer.vocabulary_size, "eos_token_id": tokenizer.end_id, "max_position_embeddings": 77}
    config = CLIPConfig(
        text_config={**tower, **words, "projection_dim": 16},
        vision_config={**tower, "image_size": 2 * patch_size, "patch_size": patch_size, "projection_dim": 16},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "backbone", patch_size=16)


@pytest.mark.parametrize("name", ["t2i-veri", "t2i-verw"])
def test_a_benchmark_recipe_trains_on_a_local_checkpoint(
    name: str, small_clip: Path, make_data: Callable[..., Path], rows_of: Callable[..., list], tmp_path: Path
) -> None:
    data = make_data(train=rows_of(range(4), 1), val=rows_of(range(4, 6), 1), test=rows_of(range(6, 8), 1))
    shorter = ["batch_size=4", "precision=fp32", "model.patch_decoder_depth=1"]
    shorter += ["schedule.unit=step", "schedule.length=2", "schedule.warmup=1", "schedule.evaluate_every=2"]
    overrides = (f"model.backbone={small_clip}", *shorter)
    settings = TrainConfig(data=str(data), out=tmp_path / "run", recipe=name, overrides=overrides, workers=0, threads=1)
    assert train(settings, quiet=True).steps == 2
    recorded = RunFolder(tmp_path / "run").read_recipe()
    assert recorded == load_recipe(name, overrides)
    assert (recorded.model.image_size, recorded.model.text_length) == ((384, 384), 77)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert set(first["losses"]) == {"sdm", "id", "part_itc", "mlm", "mim"}


@pytest.mark.parametrize(("patch_size", "side"), [(32, 64), (14, 112)], ids=["ViT-B/32", "ViT-L/14"])
@pytest.mark.parametrize("lacking", ["mim", "part_itc"])
def test_a_checkpoint_brings_its_own_patch_size(
    patch_size: int,
    side: int,
    lacking: str,
    make_data: Callable[..., Path],
    rows_of: Callable[..., list],
    tmp_path: Path,
) -> None:
    data = make_data(train=rows_of(range(4), 1), val=rows_of(range(4, 6), 1))
    backbone = save_clip(tmp_path / "backbone", patch_size)
    shorter = ["batch_size=4", "precision=fp32", "model.patch_decoder_depth=1", f"model.losses.{lacking}=0"]
    shorter += ["schedule.unit=step", "schedule.length=2", "schedule.warmup=1", "schedule.evaluate_every=2"]
    overrides = (f"model.backbone={backbone}", f"model.image_size=[{side},{side}]", *shorter)
    settings = TrainConfig(data=str(data), out=tmp_path / "run", recipe="t2i-veri", overrides=overrides, workers=0)
    assert train(settings, quiet=True).steps == 2
    model = PfcvrModel.from_pretrained(tmp_path / "run" / "model")
    assert model.config.patch_grid == (side // patch_size, side // patch_size)


def test_the_recipes_hold_the_published_numbers() -> None:
    veri, verw = load_recipe("t2i-veri"), load_recipe("t2i-verw")
    for recipe in (veri, verw):
        assert recipe.model.backbone == "openai/clip-vit-base-patch16"
        assert recipe.model.patch_grid == (24, 24)
        assert recipe.model.removed_patches == 144
        assert (recipe.schedule.length, recipe.schedule.warmup, recipe.schedule.unit) == (60, 5, "epoch")
        assert (recipe.model.losses.part_itc, recipe.model.word_mask_ratio) == (0.2, 0.15)
    assert (veri.augment.expand, verw.augment.expand) == (True, False)


def test_a_variant_changes_its_switches_under_a_benchmark_recipe() -> None:
    official = load_recipe("t2i-verw", variant="official")
    assert (official.model.temperature, official.model.part_loss) == (0.07, "bce")
    assert official.model.removed_patches == 432
    extended = load_recipe("t2i-verw", variant="extended")
    assert (extended.model.part_text, extended.model.losses.part_across) == ("phrase", 0.2)


def test_official_masks_the_captions_of_images_that_have_copies_and_no_others() -> None:
    def masks(name: str, *overrides: str, **layers: str) -> bool:
        return load_recipe(name, overrides, variant="official", **layers).model.mask_caption_for_matching

    assert masks("t2i-veri")
    assert not masks("t2i-verw")  # its released command asks for no copies
    assert masks("t2i-verw", "augment.expand=true")
    assert not masks("t2i-veri", "augment.expand=false")
    assert masks("t2i-verw", "model.mask_caption_for_matching=true")
    assert not masks("t2i-veri", "model.mask_caption_for_matching=false")
    assert not masks("t2i-veri", method="clip")
