"""From the logits or probabilities of a mask decoder to run lengths, without all masks of a picture in full at once."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pfcvr import geometry
from pfcvr.records import PartInstance, Rle

if TYPE_CHECKING:
    from torch import Tensor

PIXELS_AT_ONCE = 1 << 24


def run_lengths(masks: "Tensor", to_picture: "Callable[[Tensor], Tensor]", size: tuple[int, int]) -> list[Rle]:
    """Each of ``masks`` [instances, h, w] as the RLE of a picture of ``size`` (height, width).

    ``to_picture`` enlarges some of them to bool [instances, height, width]; it is given as many as memory bears.
    """
    at_once = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    encoded: list[Rle] = []
    for start in range(0, len(masks), at_once):
        full = to_picture(masks[start : start + at_once]).cpu().numpy()
        encoded += [geometry.encode_mask(mask) for mask in full]
    return encoded


def with_masks(instances: Sequence[PartInstance], masks: Sequence[Rle]) -> tuple[PartInstance, ...]:
    """``instances``, each with its mask."""
    pairs = zip(instances, masks, strict=True)
    return tuple(instance.model_copy(update={"mask": mask}) for instance, mask in pairs)
