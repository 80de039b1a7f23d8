"""The two towers of CLIP as the IRRA family uses them: every token, not only the global one, is projected.

Weights come from a Transformers CLIP checkpoint, from a file in OpenAI's layout, or from chance. Shape letters: see
``pfcvr.model.batch``; ``E`` is the width of the image tower, ``S`` the number of patches that are kept.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from pfcvr.config import TowerSizes
from pfcvr.errors import CheckpointError, first_line
from pfcvr.hub import HUB_NAME
from pfcvr.model.clip_config import read_clip_config
from pfcvr.model.openai_clip import HOW_TO_CONVERT, found_pickle, read_openai_weights
from pfcvr.progress import quiet_transformers

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
"""What CLIP's pixels, in 0..1, are normalised with."""
Pixels = UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]
"""Images: RGB pixels 0..255, or normalised with the above."""


def normalised(images: Pixels) -> Float[Tensor, "B 3 H W"]:
    """RGB pixels 0..255 as CLIP's towers want them; images that are normalised already stay as they are.

    Where the model is, not where images are loaded: a quarter of the bytes are stacked and moved.
    """
    if images.is_floating_point():
        return images
    channels = zip(images.unbind(dim=1), IMAGE_MEAN, IMAGE_STD, strict=True)
    return torch.stack([(pixels / 255 - mean) / std for pixels, mean, std in channels], dim=1)


class ClipTowers(nn.Module):
    """Image and text encoder of a Transformers ``CLIPModel``, for one patch grid and one end token.

    Args:
        clip: the model to take apart; its position embeddings and vocabulary already fit.
        image_positions: position embeddings of CLS and of the patch grid, row by row.
        end_id: token that ends a caption; the text feature is read where it first occurs.

    ``cls_position`` is the row of the position embeddings that CLS reads: 0 in CLIP, 1 in the released code.
    """

    cls_position = 0

    def __init__(self, clip: Any, image_positions: Float[Tensor, "positions E"], end_id: int) -> None:
        super().__init__()
        self.end_id = end_id
        vision = clip.vision_model
        self.class_embedding = vision.embeddings.class_embedding
        self.patch_embedding = vision.embeddings.patch_embedding
        self.image_positions = nn.Parameter(image_positions)
        self.image_pre_norm = vision.pre_layrnorm
        self.image_encoder = vision.encoder
        self.image_post_norm = vision.post_layernorm
        self.image_projection = clip.visual_projection
        self.text_encoder = clip.text_model
        self.text_projection = clip.text_projection

    def embed_patches(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N E"]:
        """Patch embeddings with their positions added, before any patch is removed."""
        return self.patch_embedding(images).flatten(2).transpose(1, 2) + self.image_positions[1:]

    def encode_patches(
        self, patches: Float[Tensor, "B N E"], kept: Int[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B _ D"]:
        """Projected tokens, CLS first; with ``kept`` the encoder sees those patches alone, in that order."""
        if kept is not None:
            patches = patches.take_along_dim(kept[:, :, None], dim=1)
        cls = (self.class_embedding + self.image_positions[self.cls_position]).expand(len(patches), 1, -1)
        tokens = self.image_pre_norm(torch.cat([cls.to(patches.dtype), patches], dim=1))
        tokens = self.image_encoder(inputs_embeds=tokens).last_hidden_state
        return self.image_projection(self.image_post_norm(tokens))

    def image_tokens(
        self, images: Float[Tensor, "B 3 H W"], kept: Int[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B _ D"]:
        """Tokens of normalised images, CLS first: the global image feature is token 0."""
        return self.encode_patches(self.embed_patches(images), kept)

    def text_tokens(self, token_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Tokens of captions. Attention is causal, so padding, which comes last, changes no other token."""
        return self.text_projection(self.text_encoder(input_ids=token_ids).last_hidden_state)

    def text_global(self, tokens: Float[Tensor, "B L D"], token_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """The global text feature: the token at the first end token."""
        return tokens[torch.arange(len(tokens), device=tokens.device), self._end_positions(token_ids)]

    def padding(self, token_ids: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """What follows the first end token. The padding id alone would not tell: CLIP's is also "!"."""
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        return places > self._end_positions(token_ids)[:, None]

    def _end_positions(self, token_ids: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
        return (token_ids == self.end_id).int().argmax(dim=1)


def random_towers(
    sizes: TowerSizes, patch_grid: tuple[int, int], text_length: int, vocabulary_size: int, end_id: int
) -> ClipTowers:
    """Towers of the given sizes with CLIP's random initialisation."""
    from transformers import CLIPModel

    config = _clip_config(sizes, sizes.patch_size, text_length, vocabulary_size, end_id)
    clip = CLIPModel(config)
    positions = torch.randn(1 + patch_grid[0] * patch_grid[1], sizes.vision_width)
    return ClipTowers(clip, positions * config.vision_config.initializer_range, end_id)


def _clip_config(sizes: TowerSizes, image_side: int, text_length: int, vocabulary_size: int, end_id: int) -> Any:
    from transformers import CLIPConfig

    shared = {"hidden_act": sizes.activation, "layer_norm_eps": sizes.norm_eps, "projection_dim": sizes.embedding_dim}
    vision = {
        "hidden_size": sizes.vision_width,
        "intermediate_size": sizes.vision_mlp,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_heads,
        "patch_size": sizes.patch_size,
        "image_size": image_side,
    }
    text = {
        "hidden_size": sizes.text_width,
        "intermediate_size": sizes.text_mlp,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text_heads,
        "vocab_size": vocabulary_size,
        "max_position_embeddings": text_length,
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": end_id,
    }
    return CLIPConfig(
        vision_config={**shared, **vision}, text_config={**shared, **text}, projection_dim=sizes.embedding_dim
    )


def pretrained_towers(
    backbone: str, image_size: tuple[int, int], text_length: int, vocabulary_size: int, end_id: int
) -> tuple[ClipTowers, TowerSizes]:
    """Towers of a Transformers CLIP checkpoint (folder, or name on the Hub) or of a file in OpenAI's layout (their
    archive, or safetensors), and the sizes found there.

    Position embeddings are resized to the patch grid of ``image_size`` (rows, cols in px). A vocabulary with one token
    more than the checkpoint's, the mask token, adds a row to the token embedding: the mean of the others.

    Raises:
        CheckpointError: not a CLIP checkpoint in safetensors, incomplete, or it does not fit the image size, the text
            length or the vocabulary.
    """
    clip, sizes = _load_openai(Path(backbone), end_id) if Path(backbone).is_file() else _load_clip(backbone, end_id)
    if any(side % sizes.patch_size for side in image_size):
        raise CheckpointError(
            f"{backbone}: image_size {image_size} is no multiple of its patch size, {sizes.patch_size}; change it"
        )
    grid = (image_size[0] // sizes.patch_size, image_size[1] // sizes.patch_size)
    positions = resize_positions(clip.vision_model.embeddings.position_embedding.weight.detach(), grid)
    _fit_text(clip.text_model.embeddings, text_length, vocabulary_size, backbone)
    return ClipTowers(clip, positions, end_id), sizes


def resize_positions(positions: Float[Tensor, "positions E"], grid: tuple[int, int]) -> Float[Tensor, "resized E"]:
    """Position embeddings of a square grid resized to ``grid`` (rows, cols); CLS stays, bilinear between the others."""
    side = round((len(positions) - 1) ** 0.5)
    if (side, side) == tuple(grid):
        return positions.clone()
    square = positions[1:].T.unflatten(1, (side, side))[None]
    resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).T])


def _load_openai(path: Path, end_id: int) -> tuple[Any, TowerSizes]:
    from transformers import CLIPModel

    weights, sizes = read_openai_weights(path)
    positions = weights["vision_model.embeddings.position_embedding.weight"]
    image_side = sizes.patch_size * round((len(positions) - 1) ** 0.5)
    text_length = len(weights["text_model.embeddings.position_embedding.weight"])
    vocabulary_size = len(weights["text_model.embeddings.token_embedding.weight"])
    clip = CLIPModel(_clip_config(sizes, image_side, text_length, vocabulary_size, end_id))
    clip.load_state_dict(weights)
    return clip, sizes


def _load_clip(backbone: str, end_id: int) -> tuple[Any, TowerSizes]:
    from transformers import CLIPModel

    if Path(backbone).is_dir() and not Path(backbone, "config.json").is_file():
        raise CheckpointError(
            f"{backbone}: no config.json, expected it beside model.safetensors as in a Transformers CLIP checkpoint; "
            "copy it there, or give the weights' own file where it is in OpenAI's layout"
        )
    if not Path(backbone).exists() and HUB_NAME.fullmatch(backbone) is None:
        raise CheckpointError(f"{backbone}: no CLIP checkpoint there; give a folder, a file or a Hub name OWNER/NAME")
    try:
        stored = read_clip_config(backbone)
        vision, text = stored.vision_config, stored.text_config
        config = _clip_config(stored.sizes, vision.image_size, text.max_position_embeddings, text.vocab_size, end_id)
        config.vision_config.attention_dropout = vision.attention_dropout
        config.text_config.attention_dropout = text.attention_dropout
        with quiet_transformers():  # its report of keys is told below, in one sentence
            clip, found = CLIPModel.from_pretrained(
                backbone,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the key can be named below
            )
    except (OSError, ValueError, SafetensorError) as error:
        if pickle := found_pickle(Path(backbone)):
            raise CheckpointError(f"{pickle}: a pickle may run code when read; {HOW_TO_CONVERT}") from None
        reason = first_line(error)
        raise CheckpointError(
            f"{backbone}: no CLIP checkpoint with safetensors weights could be read ({reason}); "
            "give the folder or the name of one"
        ) from None
    for entry in sorted(found["mismatched_keys"]):
        # Transformers 4 gives names only, 5 gives (name, stored shape, expected shape).
        key, *shapes = (entry,) if isinstance(entry, str) else entry
        finding = "has shape {}, expected {}".format(*map(tuple, shapes)) if shapes else "has not the expected shape"
        raise CheckpointError(f"{backbone}: '{key}' {finding}; its config.json is of another model, copy both again")
    for key in sorted(found["missing_keys"]):
        raise CheckpointError(f"{backbone}: '{key}' is missing; the checkpoint is incomplete, copy it again")
    for key in sorted(found["unexpected_keys"]):
        if ".encoder.layers." in key:
            raise CheckpointError(
                f"{backbone}: '{key}' is of a layer that its config.json does not count; copy both again"
            )
    return clip, stored.sizes


def _fit_text(embeddings: Any, text_length: int, vocabulary_size: int, backbone: str) -> None:
    tokens, positions = embeddings.token_embedding.weight.detach(), embeddings.position_embedding.weight.detach()
    if text_length > len(positions):
        raise CheckpointError(
            f"{backbone}: reads captions of {len(positions)} tokens, text_length is {text_length}; lower text_length"
        )
    if vocabulary_size - len(tokens) not in (0, 1):
        raise CheckpointError(
            f"{backbone}: its vocabulary has {len(tokens)} tokens, the tokenizer {vocabulary_size}; "
            "use the tokenizer of the checkpoint"
        )
    if vocabulary_size > len(tokens):
        tokens = torch.cat([tokens, tokens.mean(dim=0, keepdim=True)])
    embeddings.token_embedding = nn.Embedding.from_pretrained(tokens.clone(), freeze=False)
    embeddings.position_embedding = nn.Embedding.from_pretrained(positions[:text_length].clone(), freeze=False)
