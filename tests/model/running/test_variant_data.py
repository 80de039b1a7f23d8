"""What the variants change before the model: masks that stay or follow, names or phrases of parts, whole short runs."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pfcvr.config import TrainConfig, Variant
from pfcvr.model.data import open_data
from pfcvr.model.loading import TrainPairs, encode_part_phrases
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.recipes import load_recipe
from pfcvr.model.tokenizer import CaptionTokenizer, caption_tokenizer
from pfcvr.model.train import train

SHORT = ("schedule.length=2", "schedule.warmup=1", "schedule.evaluate_every=2", "model.part_decoder_depth=1")


def pairs_of(path: Path, overrides: tuple[str, ...], variant: Variant = "paper") -> TrainPairs:
    recipe, data = load_recipe("tiny", overrides, variant=variant), open_data(str(path))
    rows = data.split("train")
    tokenizer = caption_tokenizer(recipe.model, [text for texts in rows.captions for text in texts])
    return TrainPairs(rows, tokenizer, recipe, data.coverage, seed=0)


def test_masks_follow_their_image_or_stay_where_they_were(painted: Path, small_model: tuple[str, ...]) -> None:
    still = (*small_model, "augment.flip=0", "augment.crop_padding=0", "augment.erase=0")
    flipping = (*small_model, "augment.flip=1", "augment.crop_padding=0", "augment.erase=0")
    upright, follows = pairs_of(painted, still)[[(0, 0)]], pairs_of(painted, flipping)[[(0, 0)]]
    stays = pairs_of(painted, (*flipping, "augment.sync_masks=false"))[[(0, 0)]]
    assert torch.equal(follows.images, upright.images.flip(3))
    assert torch.equal(stays.images, follows.images)
    rows, cols = 4, 4
    mirrored = upright.part_grids.view(1, 6, rows, cols).flip(3).flatten(2)
    assert not torch.equal(mirrored, upright.part_grids)
    assert torch.equal(follows.part_grids, mirrored)
    assert torch.equal(stays.part_grids, upright.part_grids)
    official = pairs_of(painted, flipping, "official")[[(0, 0)]]
    assert torch.equal(official.part_grids, upright.part_grids)


@pytest.fixture
def phrased(make_data: Callable[..., Path], rows_of: Callable[..., list[dict[str, Any]]]) -> Path:
    """A data set that says something of some parts of some images."""
    train_rows = rows_of(range(6))
    train_rows[0]["part_texts"] = train_rows[0]["part_texts"] | {"windows": "dark green windows", "roof": "  "}
    train_rows[1]["part_texts"] = train_rows[1]["part_texts"] | {"wheels": "wheels " * 30}
    return make_data(train=train_rows, val=rows_of(range(6, 8)), test=rows_of(range(8, 10)))


def test_parts_are_described_by_the_phrase_of_the_data_set_and_else_by_their_name(
    phrased: Path, small_model: tuple[str, ...]
) -> None:
    pairs = pairs_of(phrased, (*small_model, "model.part_text_length=16"), "extended")
    batch = pairs[[(0, 0), (0, 8)]]  # images 0 and 1; each is four looks of two captions
    assert batch.part_token_ids is not None
    assert batch.part_token_ids.shape == (2, 6, 16)
    tokenizer = pairs._tokenizer
    first, second = ([tokenizer.decode(ids) for ids in image] for image in batch.part_token_ids)
    assert first == ["dark green windows", "car wheels", "car doors", "car mirrors", "car lights", "car roof"]
    assert second[0] == "car windows"
    assert second[1].startswith("wheels wheels")
    assert (batch.part_token_ids == tokenizer.end_id).any(dim=2).all()


def test_names_alone_need_no_phrases(painted: Path, small_model: tuple[str, ...]) -> None:
    assert pairs_of(painted, small_model)[[(0, 0)]].part_token_ids is None
    without_part_losses = (*small_model, "model.losses.part_itc=0", "model.losses.part_across=0")
    assert pairs_of(painted, without_part_losses, "extended")[[(0, 0)]].part_token_ids is None


def test_phrases_are_cut_to_what_the_text_tower_reads(phrased: Path, small_model: tuple[str, ...]) -> None:
    config = load_recipe("tiny", (*small_model, "model.part_text_length=40")).model
    rows = open_data(str(phrased)).split("train")
    tokenizer = caption_tokenizer(config, [text for texts in rows.captions for text in texts])
    ids, cut = encode_part_phrases(rows, tokenizer, config)
    assert cut == sum(len(phrases.get("wheels", "").split()) > 20 for phrases in rows.part_texts) > 0
    assert ids.shape == (18, 6, config.text_length)
    assert isinstance(tokenizer, CaptionTokenizer)
    assert tokenizer.length == config.text_length


def test_phrases_that_were_cut_are_told(phrased: Path, small_model: tuple[str, ...], tmp_path: Path) -> None:
    config = TrainConfig(
        data=str(phrased),
        out=tmp_path / "run",
        overrides=(*small_model, *SHORT),
        variant="extended",
        workers=0,
        threads=1,
    )
    said: list[str] = []
    train(config, quiet=True, say=said.append)
    assert "1 of the phrases for parts were cut to 16 tokens" in said


@pytest.mark.parametrize("variant", ["official", "extended"])
def test_a_run_of_a_variant_trains_and_its_recipe_and_model_say_which_switches_it_had(
    variant: Variant, painted: Path, small_model: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = (*small_model, *SHORT, "model.losses.part_mlm=0.1")
    config = TrainConfig(
        data=str(painted), out=tmp_path / "run", overrides=overrides, variant=variant, workers=0, threads=1
    )
    result = train(config, quiet=True, say=lambda sentence: None)
    assert result.variant == variant
    recipe = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())
    model = PfcvrModel.from_pretrained(tmp_path / "run" / "model")
    expected = load_recipe("tiny", overrides, variant=variant)
    assert recipe["model"]["part_decoder"] == model.config.part_decoder == expected.model.part_decoder
    assert recipe["optimizer"]["rate_groups"] == expected.optimizer.rate_groups
    assert recipe["augment"]["sync_masks"] is expected.augment.sync_masks
    note = "the data set has no phrases for parts: every part is called by its name"
    assert (note in result.notes) == (variant == "extended")
