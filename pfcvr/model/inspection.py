"""What the training heads do with a batch, for pictures: part attention, restored patches, guessed words.

Shape letters: see ``pfcvr.model.batch``; ``S`` rows of context, ``G`` guesses. The models must be in evaluation mode.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pfcvr.model.batch import Batch
from pfcvr.model.clip import IMAGE_MEAN, IMAGE_STD
from pfcvr.model.pfcvr import CaptionFeatures, PfcvrModel
from pfcvr.model.reconstruction import patch_pixels


@dataclass(frozen=True)
class PartView:
    """Where the query of each part looks, and which patches it is like."""

    on_parts: Float[Tensor, "B P P"]
    """Attention to the text of each part."""
    on_context: Float[Tensor, "B P S"]
    """Attention to each token of the caption, or to the image's global feature; no rows where these were added to the
    part texts."""
    likeness: Float[Tensor, "B P N"]
    """Cosine of the query and each patch: the part loss raises it on the patches of the part, if pooled by the mean."""


@dataclass(frozen=True)
class WordGuesses:
    """The most probable words for each masked place, best first."""

    ids: Int[Tensor, "M G"]
    probabilities: Float[Tensor, "M G"]


@torch.no_grad()
def view_parts(model: PfcvrModel, batch: Batch) -> PartView:
    """What the part queries attend to; the model must have some."""
    part_queries = model.heads.part_queries
    assert part_queries is not None
    image = model.towers.image_tokens(batch.images)
    memory = model.part_memory(image[:, 0], _caption(model, batch), batch)
    on_parts, on_context = part_queries.attention(*memory)
    likeness = F.normalize(part_queries(*memory), dim=2) @ F.normalize(image[:, 1:], dim=2).transpose(1, 2)
    return PartView(on_parts.sum(dim=3), on_context, likeness)


@torch.no_grad()
def restore_patches(model: PfcvrModel, batch: Batch) -> tuple[Bool[Tensor, "B N"], Float[Tensor, "B H W 3"]]:
    """Which patches are hidden, and the images, pixels in 0..1, with what the image branch paints there.

    The model must have an image branch.
    """
    decoder, size = model.heads.patch_decoder, model.config.towers.patch_size
    assert decoder is not None
    pixels = patch_pixels(batch.images, size)
    painted = model.paint_patches(decoder, model.towers.embed_patches(batch.images), _caption(model, batch), batch)
    if painted.places is not None:
        hidden = torch.zeros(pixels.shape[:2], dtype=torch.bool).scatter(1, painted.places, True)
        restored = pixels.scatter(1, painted.places[:, :, None].expand_as(painted.pixels), painted.pixels)
    else:
        assert painted.hidden is not None
        hidden = painted.hidden
        restored = torch.where(hidden[:, :, None], painted.pixels, pixels)
    rows, cols = model.config.patch_grid
    grid = restored.unflatten(2, (size, size, 3)).unflatten(1, (rows, cols))  # B rows cols r c 3
    images = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return hidden, (images * torch.tensor(IMAGE_STD) + torch.tensor(IMAGE_MEAN)).clamp(0, 1)


@torch.no_grad()
def guess_words(model: PfcvrModel, batch: Batch, guesses: int = 5) -> WordGuesses:
    """The best ``guesses`` for each of ``batch.masked_positions``; the model must have a text branch."""
    decoder = model.heads.word_decoder
    assert decoder is not None
    masked_text, padding = model.towers.text_tokens(batch.masked_token_ids), model.towers.padding(batch.token_ids)
    image = model.towers.image_tokens(batch.images)
    logits = decoder(masked_text, padding if model.config.mask_padding else None, image, batch.masked_positions)
    best = logits.softmax(dim=1).topk(guesses, dim=1)
    return WordGuesses(best.indices, best.values)


def _caption(model: PfcvrModel, batch: Batch) -> CaptionFeatures:
    return model.caption_features(model.towers.text_tokens(batch.token_ids), batch.token_ids)
