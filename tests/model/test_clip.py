"""The towers equal Transformers' own CLIP, at any patch grid and with patches removed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pfcvr.errors import CheckpointError
from pfcvr.model.clip import ClipTowers, pretrained_towers, resize_positions

END = 63


def save_clip(folder: Path, **changes: Any) -> Any:
    from transformers import CLIPConfig, CLIPModel

    shared = {"num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": 16}
    vision = {"hidden_size": 24, "intermediate_size": 48, "patch_size": 8, "image_size": 32}
    text = {
        "hidden_size": 20,
        "intermediate_size": 40,
        "vocab_size": 64,
        "max_position_embeddings": 12,
        "bos_token_id": 62,
        "eos_token_id": END,
        "pad_token_id": 0,
    }
    torch.manual_seed(3)
    config = CLIPConfig(
        vision_config={**shared, **vision, **changes.get("vision", {})},
        text_config={**shared, **text, **changes.get("text", {})},
        projection_dim=16,
    )
    clip = CLIPModel(config).eval()
    for parameter in clip.parameters():  # norms and biases that are not 1 and 0, so that leaving one out shows
        parameter.data += 0.05 * torch.randn_like(parameter)
    clip.save_pretrained(folder)
    return clip


def load(folder: Path, image_size: tuple[int, int] = (32, 32), length: int = 12, vocabulary: int = 64) -> ClipTowers:
    return pretrained_towers(str(folder), image_size, length, vocabulary, END)[0].eval()


def caption_ids() -> torch.Tensor:
    ids = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate((4, 7, 10)):
        ids[row, 0] = 62
        ids[row, 1 : 1 + length] = torch.arange(5, 5 + length)
        ids[row, 1 + length] = END
    return ids


@torch.no_grad()
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_global_features_equal_transformers(tmp_path: Path, activation: str) -> None:
    act = {"hidden_act": activation}
    clip, ids, images = save_clip(tmp_path, vision=act, text=act), caption_ids(), torch.randn(3, 3, 32, 32)
    towers = load(tmp_path)
    image = clip.vision_model(pixel_values=images).pooler_output @ clip.visual_projection.weight.T
    torch.testing.assert_close(towers.image_tokens(images)[:, 0], image, rtol=1e-5, atol=1e-6)
    text = clip.text_model(input_ids=ids).pooler_output @ clip.text_projection.weight.T
    torch.testing.assert_close(towers.text_global(towers.text_tokens(ids), ids), text, rtol=1e-5, atol=1e-6)
    both = clip(input_ids=ids, pixel_values=images)
    torch.testing.assert_close(F.normalize(towers.image_tokens(images)[:, 0]), both.image_embeds)


@torch.no_grad()
def test_every_token_is_normalised_and_projected(tmp_path: Path) -> None:
    clip, ids, images = save_clip(tmp_path), caption_ids(), torch.randn(2, 3, 32, 32)
    towers = load(tmp_path)
    hidden = clip.vision_model(pixel_values=images).last_hidden_state
    expected = clip.vision_model.post_layernorm(hidden) @ clip.visual_projection.weight.T
    torch.testing.assert_close(towers.image_tokens(images), expected, rtol=1e-5, atol=1e-6)
    expected = clip.text_model(input_ids=ids).last_hidden_state @ clip.text_projection.weight.T
    torch.testing.assert_close(towers.text_tokens(ids), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_encoder_sees_only_the_kept_patches_at_their_own_positions(tmp_path: Path) -> None:
    save_clip(tmp_path)
    towers, images = load(tmp_path), torch.randn(2, 3, 32, 32)
    kept = torch.tensor([[3, 0, 7], [15, 2, 4]])
    tokens = towers.image_tokens(images, kept)
    assert tokens.shape == (2, 4, 16)
    # A removed patch changes nothing, a kept one does, and the order of the kept ones only reorders the tokens.
    changed = images.clone()
    changed[0, :, 0:8, 8:16] += 1  # patch 1: removed
    torch.testing.assert_close(towers.image_tokens(changed, kept), tokens)
    changed[0, :, 8:16, 24:32] += 1  # patch 7: kept
    assert not torch.allclose(towers.image_tokens(changed, kept)[0], tokens[0])
    turned = towers.image_tokens(images, kept[:, [2, 0, 1]])
    torch.testing.assert_close(turned, tokens[:, [0, 3, 1, 2]], rtol=1e-5, atol=1e-6)
    everything = towers.image_tokens(images, torch.arange(16).expand(2, -1))
    torch.testing.assert_close(everything, towers.image_tokens(images), rtol=1e-5, atol=1e-6)


def bilinear(grid: torch.Tensor, row: float, col: float) -> torch.Tensor:
    """Value between the centres of a grid's cells, the edge cells extended outwards."""
    last = len(grid) - 1
    row, col = min(max(row, 0), last), min(max(col, 0), last)
    top, left = int(row), int(col)
    below, right, down, along = min(top + 1, last), min(left + 1, last), row - top, col - left
    upper = (1 - along) * grid[top, left] + along * grid[top, right]
    lower = (1 - along) * grid[below, left] + along * grid[below, right]
    return (1 - down) * upper + down * lower


def test_position_embeddings_are_resized_to_any_grid_and_cls_stays() -> None:
    positions = torch.randn(1 + 16, 5)
    resized = resize_positions(positions, (6, 3))
    assert torch.equal(resized[0], positions[0])
    square = positions[1:].view(4, 4, 5)
    for row in range(6):
        for col in range(3):
            expected = bilinear(square, (row + 0.5) * 4 / 6 - 0.5, (col + 0.5) * 4 / 3 - 0.5)
            torch.testing.assert_close(resized[1 + row * 3 + col], expected)
    assert torch.equal(resize_positions(positions, (4, 4)), positions)


@torch.no_grad()
def test_a_checkpoint_reads_larger_and_non_square_images(tmp_path: Path) -> None:
    clip = save_clip(tmp_path)
    towers, images = load(tmp_path, image_size=(48, 24)), torch.randn(2, 3, 48, 24)
    positions = resize_positions(clip.vision_model.embeddings.position_embedding.weight, (6, 3))
    patches = F.conv2d(images, clip.vision_model.embeddings.patch_embedding.weight, stride=8).flatten(2).transpose(1, 2)
    cls = clip.vision_model.embeddings.class_embedding.expand(2, 1, -1)
    hidden = clip.vision_model.pre_layrnorm(torch.cat([cls, patches], dim=1) + positions)
    hidden = clip.vision_model.encoder(inputs_embeds=hidden).last_hidden_state
    expected = clip.visual_projection(clip.vision_model.post_layernorm(hidden))
    torch.testing.assert_close(towers.image_tokens(images), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_what_follows_the_end_token_changes_no_caption(tmp_path: Path) -> None:
    save_clip(tmp_path)
    towers, ids = load(tmp_path), caption_ids()
    padding = towers.padding(ids)
    assert padding.sum(dim=1).tolist() == [6, 3, 0]
    other = torch.where(padding, 17, ids)
    ours, theirs = towers.text_tokens(ids), towers.text_tokens(other)
    torch.testing.assert_close(ours[~padding], theirs[~padding])
    torch.testing.assert_close(towers.text_global(ours, ids), towers.text_global(theirs, other))


@torch.no_grad()
def test_an_added_mask_token_leaves_the_other_tokens_as_they_were(tmp_path: Path) -> None:
    save_clip(tmp_path)
    ids = caption_ids()
    torch.testing.assert_close(load(tmp_path, vocabulary=65).text_tokens(ids), load(tmp_path).text_tokens(ids))
    assert load(tmp_path, vocabulary=65).text_tokens(ids.masked_fill(ids == 6, 64)).isfinite().all()


def cut_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, tower: str | None, **values: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if tower is None else config[tower]).update(values)
    path.write_text(json.dumps(config))


KEY = "vision_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: cut_weights(folder, lambda w: w.pop(KEY)), f"'{KEY}' is missing; the checkpoint is incomplete"),
        (
            lambda folder: cut_weights(folder, lambda w: w.update({KEY: torch.zeros(24, 23)})),
            f"'{KEY}' has shape (24, 23), expected (24, 24); its config.json is of another model",
        ),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps({"model_type": "bert"})),
            "a checkpoint of kind 'bert', expected 'clip'; name a CLIP checkpoint",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pytorch_model.bin: a pickle may run code when read; convert it to safetensors as docs/weights.md shows",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"not weights"),
            "no CLIP checkpoint with safetensors weights could be read",
        ),
        (
            lambda folder: (folder / "config.json").unlink(),
            "no config.json, expected it beside model.safetensors as in a Transformers CLIP checkpoint; copy it there",
        ),
        (
            lambda folder: (folder / "config.json").write_text("{}"),
            "its config.json names no model_type, expected 'clip'; name a CLIP checkpoint",
        ),
        (
            lambda folder: (folder / "config.json").write_text("[1]"),
            "its config.json is not that of a CLIP checkpoint ('list' object has no attribute 'get'); copy it again",
        ),
        (
            lambda folder: (folder / "config.json").write_text("5"),
            "its config.json is not that of a CLIP checkpoint (argument of type 'int' is not",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "clip", "vision_config": "base"}'),
            "'vision_config': input should be a valid dictionary or instance of VisionTower (got 'base')",
        ),
        (
            lambda folder: change_config(folder, "text_config", num_attention_heads=7),
            "'text_config': hidden_size (20) must be divisible by num_attention_heads (7); name another CLIP",
        ),
        (
            lambda folder: change_config(folder, "vision_config", num_attention_heads=0),
            "'vision_config.num_attention_heads': input should be greater than or equal to 1 (got 0); name another",
        ),
        (
            lambda folder: change_config(folder, "vision_config", num_hidden_layers=1),
            "'vision_model.encoder.layers.1.layer_norm1.bias' is of a layer that its config.json does not count; copy",
        ),
        (
            lambda folder: change_config(folder, "text_config", vocab_size=-5),
            "'text_config.vocab_size': input should be greater than or equal to 1 (got -5); name another CLIP",
        ),
        (
            lambda folder: change_config(folder, "text_config", vocab_size=10**9),
            "'text_config.vocab_size': input should be less than or equal to 1000000 (got 1000000000); name another",
        ),
        *(
            (
                lambda folder, found=found: change_config(folder, "text_config", max_position_embeddings=found),
                f"'text_config.max_position_embeddings': input should be {expected} (got {found!r}); name another",
            )
            for found, expected in (
                (0, "greater than or equal to 1"),
                (-1, "greater than or equal to 1"),
                (10**9, "less than or equal to 16384"),
                ("seventy", "a valid integer, unable to parse string as an integer"),
                (None, "a valid integer"),
            )
        ),
        (
            lambda folder: change_config(folder, "vision_config", image_size=0),
            "'vision_config.image_size': input should be greater than or equal to 1 (got 0); name another CLIP",
        ),
        (
            lambda folder: change_config(folder, "vision_config", image_size=7),
            "'vision_config': image_size (7) must be at least patch_size (8); name another CLIP checkpoint",
        ),
        (
            lambda folder: change_config(folder, "text_config", attention_dropout=-1),
            "'text_config.attention_dropout': input should be greater than or equal to 0 (got -1); name another",
        ),
        (
            lambda folder: change_config(folder, "vision_config", num_channels=1),
            "'vision_config.num_channels': input should be 3 (got 1); name another CLIP checkpoint",
        ),
        (
            lambda folder: change_config(folder, None, projection_dim=8),
            "'text_projection.weight' has shape (16, 20), expected (8, 20); its config.json is of another model",
        ),
        (
            lambda folder: change_config(folder, None, quantization_config={"quant_method": "bitsandbytes"}),
            "holds quantized weights, which cannot be trained; name a CLIP checkpoint in full",
        ),
        (
            lambda folder: change_config(folder, "vision_config", hidden_act="gelu_fast"),
            "not known here: 'vision_config.hidden_act': input should be 'quick_gelu', ",
        ),
        (
            lambda folder: change_config(folder, "text_config", hidden_act="gelu"),
            "its towers differ in hidden_act (vision quick_gelu, text gelu), expected the same in both; name another",
        ),
        (
            lambda folder: change_config(folder, "vision_config", layer_norm_eps=1e-6),
            "its towers differ in layer_norm_eps (vision 1e-06, text 1e-05), expected the same in both; name another",
        ),
        (
            lambda folder: change_config(folder, "vision_config", patch_size=[8, 8]),
            "'vision_config.patch_size': input should be a valid integer (got [8, 8]); name another CLIP checkpoint",
        ),
    ],
)
def test_a_checkpoint_of_the_wrong_kind_is_refused_with_a_sentence(
    spoil: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    save_clip(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load(tmp_path)
    assert sentence in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path))


def test_nothing_but_our_sentence_is_printed_of_a_checkpoint(tmp_path: Path) -> None:
    """In a program of its own, since Transformers keeps the stderr that it first saw."""
    for name in ("good", "wrong"):
        save_clip(tmp_path / name)
    cut_weights(tmp_path / "wrong", lambda weights: weights.update({KEY: weights[KEY][:, :-1].contiguous()}))
    program = "import sys, pfcvr.model.clip as c; c.pretrained_towers(sys.argv[1], (32, 32), 12, 64, 2)"
    ended = {}
    for name in ("good", "wrong"):
        call = [sys.executable, "-c", program, str(tmp_path / name)]
        ended[name] = subprocess.run(call, capture_output=True, text=True)
    assert (ended["good"].returncode, ended["good"].stdout, ended["good"].stderr) == (0, "", "")
    trace, _, sentence = ended["wrong"].stderr.rpartition("pfcvr.errors.CheckpointError: ")
    assert sentence.strip() == (
        f"{tmp_path / 'wrong'}: '{KEY}' has shape (24, 23), expected (24, 24); its config.json is of another model, "
        "copy both again"
    )
    assert trace.startswith("Traceback")


def test_what_a_tower_has_no_use_for_is_not_read(tmp_path: Path) -> None:
    """Ids that a tokenizer knows better, and what only says how other programs would run the model."""
    save_clip(tmp_path)
    expected = load(tmp_path).text_tokens(caption_ids())
    change_config(tmp_path, "text_config", eos_token_id="seventy", pad_token_id=-5)
    change_config(tmp_path, None, num_labels=10**9, logit_scale_init_value=None, _attn_implementation=5)
    assert torch.equal(load(tmp_path).text_tokens(caption_ids()), expected)


def test_a_tower_drops_attention_in_training_as_its_config_says(tmp_path: Path) -> None:
    for tower in ("text", "vision"):
        save_clip(tmp_path / tower, **{tower: {"attention_dropout": 0.5}})
        towers, ids, images = load(tmp_path / tower).train(), caption_ids(), torch.randn(2, 3, 32, 32)
        same_text = torch.equal(towers.text_tokens(ids), towers.text_tokens(ids))
        same_image = torch.equal(towers.image_tokens(images), towers.image_tokens(images))
        assert (same_text, same_image) == (tower != "text", tower != "vision")


def test_a_config_in_the_words_of_early_transformers_is_read(tmp_path: Path) -> None:
    """Its towers stood in ``*_config_dict``, and what equals CLIP ViT-B/32 could be left out."""
    save_clip(tmp_path)
    expected = load(tmp_path).text_tokens(caption_ids())
    config = json.loads((tmp_path / "config.json").read_text())
    text, vision = config.pop("text_config"), config.pop("vision_config")
    left_out = ("hidden_act", "layer_norm_eps", "num_channels")
    early = {"text_config_dict": text, "vision_config_dict": {k: v for k, v in vision.items() if k not in left_out}}
    (tmp_path / "config.json").write_text(json.dumps(config | early))
    assert torch.equal(load(tmp_path).text_tokens(caption_ids()), expected)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image_size": (32, 36)}, "image_size (32, 36) is no multiple of its patch size, 8; change it"),
        ({"length": 13}, "reads captions of 12 tokens, text_length is 13; lower text_length"),
        ({"vocabulary": 70}, "its vocabulary has 64 tokens, the tokenizer 70; use the tokenizer of the checkpoint"),
    ],
)
def test_settings_that_do_not_fit_the_checkpoint_are_refused(
    settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    save_clip(tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load(tmp_path, **settings)
    assert sentence in str(refusal.value)
