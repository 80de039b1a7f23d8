"""Weights as OpenAI published them are read to the tokens that CLIP's formula, written out plainly, gives for them."""

import hashlib
import io
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from pfcvr.config import LossWeights, ModelConfig
from pfcvr.errors import CheckpointError
from pfcvr.model.clip import pretrained_towers
from pfcvr.model.openai_clip import PUBLISHED_ARCHIVES, read_openai_weights
from pfcvr.model.pfcvr import build_pfcvr
from pfcvr.model.tokenizer import caption_tokenizer

END, LENGTH, VOCABULARY, EMBEDDING = 49, 12, 50, 24
DOCS = Path(__file__).parents[2] / "docs" / "weights.md"


def openai_weights(layers: int = 2, patch: int = 8, side: int = 4, width: int = 128) -> dict[str, Tensor]:
    """Random weights under OpenAI's names, large enough that every one of them shows in the tokens."""
    random = torch.Generator().manual_seed(5)

    def weight(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=random) / math.sqrt(shape[-1])

    def norm(name: str, size: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + weight(size), f"{name}.bias": weight(size)}

    def blocks(prefix: str, size: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for layer in range(layers):
            block = f"{prefix}transformer.resblocks.{layer}"
            found |= {
                f"{block}.attn.in_proj_weight": weight(3 * size, size, scale=2.0),
                f"{block}.attn.in_proj_bias": weight(3 * size),
                f"{block}.attn.out_proj.weight": weight(size, size),
                f"{block}.attn.out_proj.bias": weight(size),
                f"{block}.mlp.c_fc.weight": weight(4 * size, size),
                f"{block}.mlp.c_fc.bias": weight(4 * size),
                f"{block}.mlp.c_proj.weight": weight(size, 4 * size),
                f"{block}.mlp.c_proj.bias": weight(size),
                **norm(f"{block}.ln_1", size),
                **norm(f"{block}.ln_2", size),
            }
        return found

    text = 64
    return {
        "visual.class_embedding": weight(width, scale=5.0),
        "visual.conv1.weight": weight(width, 3, patch, patch),
        "visual.positional_embedding": weight(1 + side**2, width, scale=5.0),
        **norm("visual.ln_pre", width),
        **blocks("visual.", width),
        **norm("visual.ln_post", width),
        "visual.proj": weight(width, EMBEDDING),
        "token_embedding.weight": weight(VOCABULARY, text, scale=5.0),
        "positional_embedding": weight(LENGTH, text, scale=5.0),
        **blocks("", text),
        **norm("ln_final", text),
        "text_projection": weight(text, EMBEDDING),
        "logit_scale": torch.tensor(4.6),
    }


def plain_norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return (
        centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
    )


def plain_blocks(w: dict[str, Tensor], prefix: str, x: Tensor, allowed: Tensor) -> Tensor:
    """Pre-norm attention and MLP with x * sigmoid(1.702 x), one head after the other. ``allowed`` [T, T]."""
    width = x.shape[-1]
    for layer in range(sum(f"{prefix}transformer.resblocks.{n}.ln_1.weight" in w for n in range(99))):
        block = f"{prefix}transformer.resblocks.{layer}"
        normed = plain_norm(w, f"{block}.ln_1", x)
        query, key, value = (normed @ w[f"{block}.attn.in_proj_weight"].T + w[f"{block}.attn.in_proj_bias"]).split(
            width, -1
        )
        heads = []
        for start in range(0, width, 64):
            part = slice(start, start + 64)
            scores = query[..., part] @ key[..., part].mT / 8
            heads.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value[..., part])
        x = x + torch.cat(heads, -1) @ w[f"{block}.attn.out_proj.weight"].T + w[f"{block}.attn.out_proj.bias"]
        hidden = plain_norm(w, f"{block}.ln_2", x) @ w[f"{block}.mlp.c_fc.weight"].T + w[f"{block}.mlp.c_fc.bias"]
        hidden = hidden / (1 + (-1.702 * hidden).exp())
        x = x + hidden @ w[f"{block}.mlp.c_proj.weight"].T + w[f"{block}.mlp.c_proj.bias"]
    return x


def plain_image_tokens(w: dict[str, Tensor], images: Tensor, positions: Tensor) -> Tensor:
    kernel = w["visual.conv1.weight"]
    patch = kernel.shape[-1]
    pieces = images.unfold(2, patch, patch).unfold(3, patch, patch)  # B 3 rows cols patch patch
    patches = torch.einsum("bcrqij,ecij->brqe", pieces, kernel).flatten(1, 2)
    cls = w["visual.class_embedding"].expand(len(images), 1, -1)
    x = plain_norm(w, "visual.ln_pre", torch.cat([cls, patches], dim=1) + positions)
    x = plain_blocks(w, "visual.", x, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool))
    return plain_norm(w, "visual.ln_post", x) @ w["visual.proj"]


def plain_text_tokens(w: dict[str, Tensor], ids: Tensor) -> Tensor:
    x = w["token_embedding.weight"][ids] + w["positional_embedding"]
    x = plain_blocks(w, "", x, torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril())
    return plain_norm(w, "ln_final", x) @ w["text_projection"]


def double(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() for key, value in w.items()}


def caption_ids() -> Tensor:
    ids = torch.randint(1, 48, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 48
    for row, end in enumerate((4, 8, LENGTH - 1)):
        ids[row, end], ids[row, end + 1 :] = END, 0
    return ids


@torch.no_grad()
@pytest.mark.parametrize(
    ("image_size", "grid"), [((224, 224), (14, 14)), ((384, 384), (24, 24)), ((224, 320), (14, 20))]
)
def test_twelve_layers_give_the_tokens_of_the_plain_formula_at_any_size(
    image_size: tuple[int, int], grid: tuple[int, int], tmp_path: Path
) -> None:
    weights = openai_weights(layers=12, patch=16, side=14)
    save_file(weights, tmp_path / "clip.safetensors")
    towers, sizes = pretrained_towers(str(tmp_path / "clip.safetensors"), image_size, LENGTH, VOCABULARY, END)
    assert (sizes.vision_layers, sizes.vision_heads, sizes.text_heads, sizes.embedding_dim) == (12, 2, 1, EMBEDDING)
    towers = towers.double().eval()
    plain = double(weights)
    images = torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    positions = weights["visual.positional_embedding"]  # resized in float32, as they are read
    square = positions[1:].T.reshape(1, -1, 14, 14)
    resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)[0].flatten(1).T
    expected = plain_image_tokens(plain, images, torch.cat([positions[:1], resized]).double())
    torch.testing.assert_close(towers.image_tokens(images), expected, rtol=1e-9, atol=1e-9)
    ids = caption_ids()
    expected = plain_text_tokens(plain, ids)
    torch.testing.assert_close(towers.text_tokens(ids), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(towers.text_global(expected, ids), expected[torch.arange(3), torch.tensor([4, 8, LENGTH - 1])])


def test_a_file_in_openais_layout_is_a_backbone_with_clips_own_vocabulary(tmp_path: Path) -> None:
    weights = openai_weights()
    tokens = torch.randn(49408, 64, generator=torch.Generator().manual_seed(3))
    save_file({**weights, "token_embedding.weight": tokens}, tmp_path / "clip.safetensors")
    config = ModelConfig(
        backbone=str(tmp_path / "clip.safetensors"),
        image_size=(32, 48),
        text_length=LENGTH - 2,
        losses=LossWeights(id=0, part_itc=0, mlm=0, mim=0),
    )
    model = build_pfcvr(config, caption_tokenizer(config, []), identities=3)
    assert (model.config.towers.vision_width, model.config.towers.text_layers, model.config.patch_grid) == (
        128,
        2,
        (4, 6),
    )
    assert model.tokenizer.mask_id == 49405
    assert torch.equal(model.towers.text_encoder.embeddings.token_embedding.weight, tokens)
    assert model.encode_texts(model.tokenizer.encode(["a white van"]).ids).shape == (1, EMBEDDING)
    assert model.encode_images(torch.zeros(1, 3, 32, 48)).shape == (1, EMBEDDING)


class Archive(torch.nn.Module):
    """A module with the weights in half precision, and the three numbers that OpenAI's archives carry."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for key, value in weights.items():
            *path, name = key.split(".")
            place: torch.nn.Module = self
            for step in path:
                if not hasattr(place, step):
                    place.add_module(step, torch.nn.Module())
                place = getattr(place, step)
            place.register_parameter(name, torch.nn.Parameter(value.half()))
        for name, number in (("input_resolution", 32), ("context_length", LENGTH), ("vocab_size", VOCABULARY)):
            self.register_buffer(name, torch.tensor(number))

    def forward(self, x: Tensor) -> Tensor:
        return x


def archive_bytes(weights: dict[str, Tensor]) -> bytes:
    content = io.BytesIO()
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(Archive(weights)), content)
    return content.getvalue()


def test_an_archive_with_a_published_hash_gives_its_weights_in_float32(tmp_path: Path) -> None:
    weights = openai_weights()
    path = tmp_path / "ViT.pt"
    path.write_bytes(archive_bytes(weights))
    save_file({key: value.half() for key, value in weights.items()}, tmp_path / "same.safetensors")
    found, sizes = read_openai_weights(path, published={hashlib.sha256(path.read_bytes()).hexdigest(): "tiny"})
    expected, expected_sizes = read_openai_weights(tmp_path / "same.safetensors")
    assert sizes == expected_sizes
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) and found[key].dtype == torch.float32 for key, value in expected.items())
    # Query, key and value lie below one another in OpenAI's one matrix.
    query, key, value = weights["visual.transformer.resblocks.1.attn.in_proj_weight"].half().float().split(128)
    attention = "vision_model.encoder.layers.1.self_attn"
    assert torch.equal(found[f"{attention}.q_proj.weight"], query)
    assert torch.equal(found[f"{attention}.k_proj.weight"], key)
    assert torch.equal(found[f"{attention}.v_proj.weight"], value)


def test_an_archive_that_openai_did_not_publish_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-16.pt"
    path.write_bytes(archive_bytes(openai_weights()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError) as refusal:
        pretrained_towers(str(path), (32, 32), LENGTH, VOCABULARY, END)
    assert str(refusal.value) == (
        f"{path}: its SHA-256 {digest} is of no archive that OpenAI published, and a TorchScript archive may run code "
        "when read; download it again or convert it to safetensors as docs/weights.md shows"
    )


def test_the_published_hashes_are_whole_and_vit_b_16_is_among_them() -> None:
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in PUBLISHED_ARCHIVES)
    assert PUBLISHED_ARCHIVES["5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"] == "ViT-B/16"


def test_a_pickle_is_refused_and_what_the_docs_say_converts_it(tmp_path: Path) -> None:
    weights = openai_weights()
    torch.save(weights, tmp_path / "clip.pt")
    with pytest.raises(
        CheckpointError, match="a pickle may run code when read; convert it to safetensors as docs/weig"
    ):
        read_openai_weights(tmp_path / "clip.pt")
    (program,) = re.findall(r"python -c '([^']+)' \S+ \S+", DOCS.read_text(encoding="utf-8"))
    files = [str(tmp_path / name) for name in ("clip.pt", "clip.safetensors")]
    subprocess.run([sys.executable, "-c", program, *files], check=True)
    converted, _ = read_openai_weights(tmp_path / "clip.safetensors")
    assert torch.equal(converted["visual_projection.weight"], weights["visual.proj"].T)


KEY = "visual.transformer.resblocks.0.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({KEY: None}, f"'{KEY}' of shape (512, 128) is missing; copy the file again"),
        ({KEY: torch.zeros(500, 128)}, f"'{KEY}' has shape (500, 128), expected (512, 128); copy the file again"),
        ({"zoo": torch.zeros(1)}, "'zoo' belongs to no CLIP in OpenAI's layout; give the weights of one"),
        (
            {"visual.positional_embedding": torch.zeros(16, 128)},
            "'visual.positional_embedding' has shape (16, 128), expected (17, 128)",
        ),
        ({"text_projection": None}, "no 'text_projection' with 2 axes; expected a CLIP in OpenAI's layout"),
        ({"visual.layer1.0.conv1.weight": torch.zeros(1)}, "a CLIP whose image tower is a ResNet"),
        ({"vision_model.post_layernorm.bias": torch.zeros(1)}, "weights in Transformers' layout; give the folder"),
        ({"visual.conv1.weight": torch.zeros(40, 3, 8, 8)}, "a tower of width 40; expected a multiple of 64"),
    ],
)
def test_a_file_of_the_wrong_shape_or_kind_is_refused_with_a_sentence(
    changes: dict[str, Tensor | None], sentence: str, tmp_path: Path
) -> None:
    weights = {key: value for key, value in {**openai_weights(), **changes}.items() if value is not None}
    save_file(weights, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError) as refusal:
        read_openai_weights(tmp_path / "clip.safetensors")
    assert sentence in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("clip.safetensors", "not a whole safetensors file"), ("clip.pt", "neither OpenAI's archive nor safetensors")],
)
def test_a_file_that_holds_no_weights_is_refused_with_a_sentence(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=sentence):
        read_openai_weights(tmp_path / name)
