"""CLIP weights as OpenAI published them: TorchScript archives, and safetensors files with the same names inside.

Reading a TorchScript archive can run code, so it is read only when its SHA-256 is one that OpenAI published; a
safetensors file holds nothing but numbers and needs no such check. Other files are refused.
"""

import hashlib
import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pfcvr.config import TowerSizes
from pfcvr.errors import CheckpointError

PUBLISHED_ARCHIVES: Mapping[str, str] = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B/32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B/16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L/14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L/14@336px",
}
"""SHA-256 of the archives with a vision transformer, as OpenAI's loader names them in the download addresses."""

HEAD_WIDTH = 64  # the weights do not tell; in OpenAI's code a tower has width / 64 heads
MLP_FACTOR = 4
DESCRIPTIONS = ("input_resolution", "context_length", "vocab_size")  # numbers that archives carry beside the weights
IMAGE_BLOCKS, TEXT_BLOCKS = "visual.transformer.resblocks", "transformer.resblocks"
TELLING = {  # weights whose shapes tell the sizes, and how many axes they have
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "token_embedding.weight": 2,
    "positional_embedding": 2,
    "text_projection": 2,
}
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
RENAMED = (
    ("transformer.resblocks", "encoder.layers"),
    ("attn.", "self_attn."),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("ln_pre", "pre_layrnorm"),  # spelled so in Transformers
    ("ln_post", "post_layernorm"),
    ("ln_final", "final_layer_norm"),
    ("conv1", "embeddings.patch_embedding"),
    ("class_embedding", "embeddings.class_embedding"),
    ("token_embedding", "embeddings.token_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
)
HOW_TO_CONVERT = "convert it to safetensors as docs/weights.md shows"

Weights = dict[str, Tensor]
Shape = tuple[int, ...]


def read_openai_weights(path: Path, published: Mapping[str, str] = PUBLISHED_ARCHIVES) -> tuple[Weights, TowerSizes]:
    """The weights in ``path`` in float32 under Transformers' names, and the sizes they have.

    ``published``: the SHA-256 of archives that may be read.

    Raises:
        CheckpointError: an archive that nobody published, a pickle, or not the weights of a CLIP with a vision
            transformer; the first wrong weight is named with both shapes.
    """
    weights = _read(path, published)
    weights = {key: value.float() for key, value in weights.items() if key not in DESCRIPTIONS}
    sizes, expected = _expected_shapes(weights, path)
    for key in sorted(expected.keys() | weights.keys()):
        if key not in weights:
            raise CheckpointError(f"{path}: '{key}' of shape {expected[key]} is missing; copy the file again")
        if key not in expected:
            raise CheckpointError(f"{path}: '{key}' belongs to no CLIP in OpenAI's layout; give the weights of one")
        if tuple(weights[key].shape) != expected[key]:
            raise CheckpointError(
                f"{path}: '{key}' has shape {tuple(weights[key].shape)}, expected {expected[key]}; copy the file again"
            )
    return _transformers_layout(weights), sizes


def found_pickle(folder: Path) -> Path | None:
    """A file of weights in ``folder`` that is a pickle, where there are no safetensors; None otherwise."""
    if any(folder.glob("*.safetensors")):
        return None
    return next((file for suffix in ("bin", "pt", "pth") for file in sorted(folder.glob(f"*.{suffix}"))), None)


def _read(path: Path, published: Mapping[str, str]) -> Weights:
    content = path.read_bytes()  # hashed and read from the same bytes, so that nobody exchanges the file in between
    if path.suffix == ".safetensors":
        try:
            return load(content)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy it again") from None
    if not _is_torchscript(content):
        raise CheckpointError(
            f"{path}: neither OpenAI's archive nor safetensors, and a pickle may run code when read; {HOW_TO_CONVERT}"
        )
    found = hashlib.sha256(content).hexdigest()
    if found not in published:
        raise CheckpointError(
            f"{path}: its SHA-256 {found} is of no archive that OpenAI published, and a TorchScript archive may run "
            f"code when read; download it again or {HOW_TO_CONVERT}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*torch.jit.load", category=FutureWarning
        )  # no successor reads these
        return dict(torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict())


def _is_torchscript(content: bytes) -> bool:
    file = io.BytesIO(content)
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _expected_shapes(weights: Weights, path: Path) -> tuple[TowerSizes, dict[str, Shape]]:
    """Sizes of the towers, and the shape that each weight must have for them."""
    if any(key.startswith("visual.layer1.") for key in weights):
        raise CheckpointError(f"{path}: a CLIP whose image tower is a ResNet; give one with a vision transformer")
    if any(key.startswith("vision_model.") for key in weights):
        raise CheckpointError(
            f"{path}: weights in Transformers' layout; give the folder with their config.json instead"
        )
    for key, axes in TELLING.items():
        if key not in weights or weights[key].ndim != axes:
            raise CheckpointError(f"{path}: no '{key}' with {axes} axes; expected a CLIP in OpenAI's layout")
    vision_width, _, patch, _ = weights["visual.conv1.weight"].shape
    text_width, embedding = weights["text_projection"].shape
    for width in (vision_width, text_width):
        if width % HEAD_WIDTH or not width:
            raise CheckpointError(f"{path}: a tower of width {width}; expected a multiple of {HEAD_WIDTH}, as CLIP has")
    sizes = TowerSizes(
        patch_size=patch,
        embedding_dim=embedding,
        vision_width=vision_width,
        vision_mlp=MLP_FACTOR * vision_width,
        vision_layers=_layers(weights, IMAGE_BLOCKS),
        vision_heads=vision_width // HEAD_WIDTH,
        text_width=text_width,
        text_mlp=MLP_FACTOR * text_width,
        text_layers=_layers(weights, TEXT_BLOCKS),
        text_heads=text_width // HEAD_WIDTH,
    )
    side = round((len(weights["visual.positional_embedding"]) - 1) ** 0.5)
    shapes: dict[str, Shape] = {
        "logit_scale": (),
        "visual.class_embedding": (vision_width,),
        "visual.conv1.weight": (vision_width, 3, patch, patch),
        "visual.positional_embedding": (1 + side**2, vision_width),
        "visual.proj": (vision_width, embedding),
        "token_embedding.weight": (len(weights["token_embedding.weight"]), text_width),
        "positional_embedding": (len(weights["positional_embedding"]), text_width),
        "text_projection": (text_width, embedding),
    }
    shapes |= _norm_shapes("visual.ln_pre", vision_width) | _norm_shapes("visual.ln_post", vision_width)
    shapes |= _norm_shapes("ln_final", text_width)
    for blocks, width, layers in (
        (IMAGE_BLOCKS, vision_width, sizes.vision_layers),
        (TEXT_BLOCKS, text_width, sizes.text_layers),
    ):
        for layer in range(layers):
            shapes |= _block_shapes(f"{blocks}.{layer}", width)
    return sizes, shapes


def _layers(weights: Weights, blocks: str) -> int:
    numbers = [key.removeprefix(f"{blocks}.").split(".")[0] for key in weights if key.startswith(f"{blocks}.")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def _block_shapes(block: str, width: int) -> dict[str, Shape]:
    hidden = MLP_FACTOR * width
    return {
        f"{block}.attn.in_proj_weight": (3 * width, width),
        f"{block}.attn.in_proj_bias": (3 * width,),
        f"{block}.attn.out_proj.weight": (width, width),
        f"{block}.attn.out_proj.bias": (width,),
        f"{block}.mlp.c_fc.weight": (hidden, width),
        f"{block}.mlp.c_fc.bias": (hidden,),
        f"{block}.mlp.c_proj.weight": (width, hidden),
        f"{block}.mlp.c_proj.bias": (width,),
        **_norm_shapes(f"{block}.ln_1", width),
        **_norm_shapes(f"{block}.ln_2", width),
    }


def _norm_shapes(norm: str, width: int) -> dict[str, Shape]:
    return {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}


def _transformers_layout(weights: Weights) -> Weights:
    """``weights`` under Transformers' names: query, key and value apart, projections transposed for a Linear."""
    renamed: Weights = {}
    for key, value in weights.items():
        if key in PROJECTIONS:
            renamed[PROJECTIONS[key]] = value.T.contiguous()
            continue
        name = key
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        if key.startswith("visual."):
            name = name.replace("visual.", "vision_model.", 1)
        elif key != "logit_scale":
            name = f"text_model.{name}"
        if "in_proj_" in name:
            stem, _, kind = name.rpartition("in_proj_")
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{stem}{letter}_proj.{kind}"] = part.clone()
        else:
            renamed[name] = value
    return renamed
