"""Checkpoints (.pth) of the original Segment Anything package, read as tensors alone.

The package's own loader unpickles whatever a file holds, and knows three sizes. Here the sizes are read from the
tensors, so the three published checkpoints load, and so does any other network of the same modules.
"""

import pickle
import re
import struct
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfcvr.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

DECODER_HEADS = 8  # the one size that leaves no trace in the tensors; segment_anything.build_sam
# Whatever torch's restricted unpickler meets in bytes that are no checkpoint.
NOT_TENSORS = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, struct.error),
    *(LookupError, TypeError, AttributeError),
)
LANDMARK = "image_encoder.pos_embed"


@dataclass(frozen=True)
class SamSizes:
    """The arguments of the package's modules, as far as they differ between networks."""

    patch_size: int
    image_size: int
    embed_dim: int
    depth: int
    heads: int
    mlp_ratio: float
    window_size: int
    global_blocks: tuple[int, ...]
    prompt_dim: int
    mask_channels: int
    decoder_depth: int
    decoder_mlp_dim: int
    multimask_outputs: int
    iou_depth: int
    iou_hidden_dim: int


def load_sam(path: Path) -> Any:
    """The ``segment_anything.modeling.Sam`` of a checkpoint, in evaluation mode.

    Raises CheckpointError when the file is missing, holds more than tensors, or tensors of something else.
    """
    weights = _read(path)
    if LANDMARK not in weights:
        first = ", ".join(f"'{name}'" for name in sorted(weights)[:2]) or "nothing"
        raise CheckpointError(
            f"{path}: not a checkpoint of Segment Anything ('{LANDMARK}' is missing, it holds {first}, ...); "
            "give one with --segmenter-model"
        )
    try:
        sam = build_sam(sam_sizes(weights))
        sam.load_state_dict(weights)
    except KeyError as error:
        raise CheckpointError(_unfit(path, f"{error} is missing")) from None
    except RuntimeError as error:
        trouble = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise CheckpointError(_unfit(path, trouble[:200])) from None
    return sam.eval()


def _unfit(path: Path, trouble: str) -> str:
    return f"{path}: the tensors do not make a Segment Anything network ({trouble}); get the file anew"


def _read(path: Path) -> "dict[str, Tensor]":
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's remarks on how a strange file was pickled
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); give a .pth file") from None
    except NOT_TENSORS:
        # What torch says here ends in the advice to trust the file.
        raise CheckpointError(
            f"{path}: not a file of tensors alone; give a .pth checkpoint of Segment Anything"
        ) from None
    if not isinstance(content, dict) or not all(torch.is_tensor(value) for value in content.values()):
        raise CheckpointError(f"{path}: holds no table of tensors; give a .pth checkpoint of Segment Anything")
    return content


def sam_sizes(weights: "dict[str, Tensor]") -> SamSizes:
    """The sizes of the network that ``weights`` (its state dict) belongs to; raises KeyError for a missing tensor."""
    shape = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    _, side, _, embed_dim = shape[LANDMARK]
    depth = _count(weights, r"image_encoder\.blocks\.(\d+)\.")
    patch_size = shape["image_encoder.patch_embed.proj.weight"][-1]
    # A table of relative positions has an entry for every distance, 2 n - 1 of them in a window of n x n patches.
    windows = [(shape[f"image_encoder.blocks.{block}.attn.rel_pos_h"][0] + 1) // 2 for block in range(depth)]
    return SamSizes(
        patch_size=patch_size,
        image_size=side * patch_size,
        embed_dim=embed_dim,
        depth=depth,
        heads=embed_dim // shape["image_encoder.blocks.0.attn.rel_pos_h"][1],
        mlp_ratio=shape["image_encoder.blocks.0.mlp.lin1.weight"][0] / embed_dim,
        window_size=min(windows),
        global_blocks=tuple(block for block, window in enumerate(windows) if window == side),
        prompt_dim=shape["prompt_encoder.no_mask_embed.weight"][1],
        mask_channels=shape["prompt_encoder.mask_downscaling.3.weight"][0],
        decoder_depth=_count(weights, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        decoder_mlp_dim=shape["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
        multimask_outputs=shape["mask_decoder.mask_tokens.weight"][0] - 1,
        iou_depth=_count(weights, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        iou_hidden_dim=shape["mask_decoder.iou_prediction_head.layers.0.weight"][0],
    )


def _count(weights: "dict[str, Tensor]", pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def build_sam(sizes: SamSizes) -> Any:
    """A ``Sam`` of these sizes, as ``segment_anything.build_sam`` builds its three."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    from torch import nn

    grid = sizes.image_size // sizes.patch_size
    encoder = ImageEncoderViT(
        img_size=sizes.image_size,
        patch_size=sizes.patch_size,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.heads,
        mlp_ratio=sizes.mlp_ratio,
        out_chans=sizes.prompt_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=sizes.window_size,
        global_attn_indexes=sizes.global_blocks,
    )
    prompts = PromptEncoder(
        embed_dim=sizes.prompt_dim,
        image_embedding_size=(grid, grid),
        input_image_size=(sizes.image_size, sizes.image_size),
        mask_in_chans=sizes.mask_channels,
    )
    decoder = MaskDecoder(
        transformer_dim=sizes.prompt_dim,
        transformer=TwoWayTransformer(
            depth=sizes.decoder_depth,
            embedding_dim=sizes.prompt_dim,
            num_heads=DECODER_HEADS,
            mlp_dim=sizes.decoder_mlp_dim,
        ),
        num_multimask_outputs=sizes.multimask_outputs,
        iou_head_depth=sizes.iou_depth,
        iou_head_hidden_dim=sizes.iou_hidden_dim,
    )
    return Sam(encoder, prompts, decoder)
