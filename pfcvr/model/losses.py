"""The terms of the training objective (paper eq. 5), one pure function each.

Every loss is computed in at least float32 and outside autocast, whatever precision its inputs come in; none of them
divides by zero: a loss over nothing is 0 with zero gradients. Shape letters: see ``pfcvr.model.batch``.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pfcvr.model.batch import IGNORED_LABEL

Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def _in_full_precision(loss: Loss) -> Loss:
    def widen(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if half else value

    @wraps(loss)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*map(widen, args), **{key: widen(value) for key, value in kwargs.items()})

    return cast(Loss, run)


@_in_full_precision
def sdm_loss(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "B D"],
    identities: Int[Tensor, " B"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Similarity distribution matching (paper eq. 8, IRRA): KL from the matching distribution to the model's.

    ``q_ij`` is uniform over the pairs of one identity, ``p`` the softmax of cosines over ``temperature``; the loss is
    the sum of both directions of ``mean_i sum_j p_ij (log p_ij - log(q_ij + 1e-8))``. Features need not be normalised.
    """
    logits = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T / temperature
    same = (identities[:, None] == identities[None, :]).to(logits.dtype)
    log_target = torch.log(same / same.sum(dim=1, keepdim=True) + 1e-8)

    def divergence(scores: Tensor) -> Tensor:
        log_model = F.log_softmax(scores, dim=1)
        return (log_model.exp() * (log_model - log_target)).sum(dim=1).mean()

    return divergence(logits) + divergence(logits.T)


@_in_full_precision
def info_nce(images: Float[Tensor, "B D"], texts: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, ""]:
    """Symmetric InfoNCE between paired global features: mean of both directions, the pair itself the only positive."""
    logits = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T / temperature
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@_in_full_precision
def id_loss(
    image_logits: Float[Tensor, "B K"], text_logits: Float[Tensor, "B K"], identities: Int[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Identity classification (paper eq. 6-7): mean of the images' and the captions' cross entropies."""
    return (F.cross_entropy(image_logits, identities) + F.cross_entropy(text_logits, identities)) / 2


@_in_full_precision
def part_contrastive_loss(
    visual: Float[Tensor, "B P D"],
    queries: Float[Tensor, "B P D"],
    present: Bool[Tensor, "B P"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Part-level contrast within each image (paper eq. 9): visual part n against the N present part queries.

    ``-1/(2N) sum_n [log softmax_m(s_nm / tau)_n + log softmax_m(s_mn / tau)_n]`` with cosines ``s`` between the present
    parts of one image, then the mean over the images that show a part at all.
    """
    return _grouped_info_nce(visual, queries, present, ~_diagonal(present), temperature)


@_in_full_precision
def part_bce_loss(
    visual: Float[Tensor, "B P D"],
    queries: Float[Tensor, "B P D"],
    present: Bool[Tensor, "B P"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Part-level matching as the released code has it: is visual part n the part that query m is of?

    Binary cross entropy of ``s_nm / tau`` against ``n = m``, mean over the N x N pairs of present parts of one image,
    then the mean over the images that show a part at all. The released code's two directions both have this value.
    """
    cosines = F.normalize(visual, dim=2) @ F.normalize(queries, dim=2).transpose(1, 2)
    target = _diagonal(present).to(cosines.dtype).expand_as(cosines)
    entropies = F.binary_cross_entropy_with_logits(cosines / temperature, target, reduction="none")
    counted = present[:, :, None] & present[:, None, :]
    items = present.sum(dim=1)
    per_image = torch.where(counted, entropies, 0).sum(dim=(1, 2)) / items.square().clamp(min=1)
    return per_image.sum() / (items > 0).sum().clamp(min=1)


@_in_full_precision
def part_across_loss(
    visual: Float[Tensor, "B P D"],
    queries: Float[Tensor, "B P D"],
    present: Bool[Tensor, "B P"],
    identities: Int[Tensor, " B"],
    temperature: float,
) -> Float[Tensor, ""]:
    """The same part contrasted across the images of the batch (ours): equation 9 with images and parts exchanged.

    Other images of the same identity are not negatives, since they show the same part. Contrast within an image can be
    won by telling a wheel from a roof; this one needs what the part looks like.
    """
    other_vehicle = (identities[:, None] != identities[None, :]).expand(present.shape[1], -1, -1)
    return _grouped_info_nce(visual.transpose(0, 1), queries.transpose(0, 1), present.T, other_vehicle, temperature)


@_in_full_precision
def mlm_loss(logits: Float[Tensor, "M V"], labels: Int[Tensor, " M"]) -> Float[Tensor, ""]:
    """Masked language modelling (paper eq. 10): mean cross entropy over the masked tokens, which alone are given.

    A label of ``IGNORED_LABEL`` does not count.
    """
    entropy = F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="sum")
    return entropy / (labels != IGNORED_LABEL).sum().clamp(min=1)


@_in_full_precision
def mim_loss(
    predicted: Float[Tensor, "B R pixels"],
    target: Float[Tensor, "B R pixels"],
    removed: Bool[Tensor, "B R"] | None = None,
) -> Float[Tensor, ""]:
    """Masked image modelling (paper eq. 11): squared error on the patches that are ``removed``, by default all given.

    The mean is taken over the pixel values of a patch too, as the released code does; the paper's squared norm is
    larger by their number (3 x 16 x 16). The target is not normalised per patch.
    """
    errors = (predicted - target).square()
    if removed is None:
        return errors.sum() / max(errors.numel(), 1)
    return torch.where(removed[:, :, None], errors, 0).sum() / (removed.sum() * errors.shape[2]).clamp(min=1)


def _diagonal(present: Bool[Tensor, "G I"]) -> Bool[Tensor, "1 I I"]:
    return torch.eye(present.shape[1], dtype=torch.bool, device=present.device)[None]


def _grouped_info_nce(
    visual: Float[Tensor, "G I D"],
    queries: Float[Tensor, "G I D"],
    present: Bool[Tensor, "G I"],
    negative: Bool[Tensor, "#G I I"],
    temperature: float,
) -> Float[Tensor, ""]:
    """InfoNCE inside each group over its present items; mean over the items of a group, then over non-empty groups."""
    cosines = F.normalize(visual, dim=2) @ F.normalize(queries, dim=2).transpose(1, 2)
    pair_present = present[:, :, None] & present[:, None, :]
    counted = pair_present & (negative | _diagonal(present))
    # A finite floor instead of -inf: rows of absent items stay free of NaN, in the backward pass as well.
    logits = (cosines / temperature).masked_fill(~counted, torch.finfo(cosines.dtype).min)
    log_hits = F.log_softmax(logits, dim=2).diagonal(dim1=1, dim2=2) + F.log_softmax(logits, dim=1).diagonal(
        dim1=1, dim2=2
    )
    items = present.sum(dim=1)
    per_group = -torch.where(present, log_hits, 0).sum(dim=1) / (2 * items.clamp(min=1))
    return per_group.sum() / (items > 0).sum().clamp(min=1)
