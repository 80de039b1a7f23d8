"""What one training step sees: a batch of image-caption pairs as named tensors.

Shape letters of this folder: ``B`` pairs, ``L`` caption tokens, ``N`` image patches (row by row), ``P`` parts in the
order of ``pfcvr.records.PARTS``, ``D`` embedding width, ``K`` train identities, ``V`` vocabulary, ``M`` masked tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pfcvr.model.clip import Pixels

IGNORED_LABEL = -100
"""Label of a token that was not masked: torch's own ``ignore_index``, so no vocabulary entry is lost to it."""


@dataclass(frozen=True)
class Batch:
    """Pairs of an image and its caption. Padding in ``token_ids`` is whatever follows the first end token.

    The last three need not be given. ``masked_positions`` is derived from ``masked_labels``: derive it where the batch
    is put together, on the CPU, since finding the masked tokens on an accelerator makes every step wait for the device.
    """

    images: Pixels
    """RGB pixels 0..255 as they are loaded, or normalised, which the model does first of all."""
    token_ids: Int[Tensor, "B L"]
    """Start, caption, end, padding."""
    masked_token_ids: Int[Tensor, "B L"]
    """``token_ids`` with some words replaced for masked language modelling."""
    masked_labels: Int[Tensor, "B L"]
    """Original id where a word was chosen, ``IGNORED_LABEL`` elsewhere."""
    part_grids: Bool[Tensor, "B P N"]
    """Patches a part covers, after the same augmentation as the image; an absent part has none."""
    identities: Int[Tensor, " B"]
    """Train label 0..K-1."""
    masked_positions: Int[Tensor, " M"] = None  # type: ignore[assignment]
    """Places of the chosen words in ``masked_labels.flatten()``, ascending."""
    part_token_ids: Int[Tensor, "B P T"] | None = None
    """What is said of each part, as ``token_ids``; none where parts are called by their names alone."""
    patch_draws: Float[Tensor, "B N"] = None  # type: ignore[assignment]
    """A uniform draw in [0, 1) for each patch, which decides which are removed; drawn here where none is given."""
    pairs_on_processes: tuple[int, ...] = ()
    """How many pairs each training process has of this batch, in rank order; empty where one process has them all. A
    process that has none computes with a pair that counts for nothing."""

    def __post_init__(self) -> None:
        if self.masked_positions is None:
            positions = torch.nonzero(self.masked_labels.flatten() != IGNORED_LABEL).squeeze(1)
            object.__setattr__(self, "masked_positions", positions)
        if self.patch_draws is None:
            pairs, _, patches = self.part_grids.shape
            object.__setattr__(self, "patch_draws", torch.rand(pairs, patches, device=self.part_grids.device))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; ``torch.utils.data.DataLoader`` calls this by name."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)
