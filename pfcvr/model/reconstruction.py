"""BMRIA, bidirectional mask recovery implicit alignment (paper section III-C): each modality restores the other.

Shape letters: see ``pfcvr.model.batch``; ``R`` patches removed, ``S`` kept. Pixels of a patch lie in the order row in
patch, column in patch, channel.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pfcvr.model.clip import IMAGE_MEAN, IMAGE_STD
from pfcvr.model.layers import Attention, Block, CrossBlock, QuickGELU


class WordDecoder(nn.Module):
    """Text branch (paper eq. 3): masked words from the image, ``H = FFN(MSA(MCA(F_t, F_v, F_v)))``, vocabulary head.

    As in IRRA, the cross-attention has no residual, and queries and context are normalised first. ``text_padding`` are
    the positions that the self-attention leaves out; with none it reads them all, as the released code does.
    """

    def __init__(self, width: int, heads: int, depth: int, vocabulary_size: int) -> None:
        super().__init__()
        self.text_norm, self.image_norm, self.out_norm = (nn.LayerNorm(width) for _ in range(3))
        self.cross_attention = Attention(width, heads, depth)
        self.blocks = nn.ModuleList(Block(width, heads, depth) for _ in range(depth))
        dense, to_vocabulary = nn.Linear(width, width), nn.Linear(width, vocabulary_size)
        nn.init.normal_(dense.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(to_vocabulary.weight, std=width**-0.5 * (2 * depth) ** -0.5)
        self.head = nn.Sequential(dense, QuickGELU(), nn.LayerNorm(width), to_vocabulary)

    def forward(
        self,
        masked_text: Float[Tensor, "B L D"],
        text_padding: Bool[Tensor, "B L"] | None,
        image: Float[Tensor, "B S D"],
        positions: Int[Tensor, " M"],
    ) -> Float[Tensor, "M V"]:
        """Logits of the masked words alone; ``positions`` are their places in the flattened captions."""
        hidden = self.cross_attention(self.text_norm(masked_text), self.image_norm(image))
        return self._words(hidden, text_padding, positions)

    def part_names(
        self,
        masked_names: Float[Tensor, "P T D"],
        padding: Bool[Tensor, "P T"],
        patches: Float[Tensor, "B N D"],
        part_grids: Bool[Tensor, "B P N"],
        positions: Int[Tensor, " M"],
    ) -> Float[Tensor, "B M V"]:
        """Logits of the masked words of part names, each from the patches of its part (paper, section V-D, Part MLM).

        ``positions`` are their places in the flattened names. What is said of an absent part is finite and means
        nothing: it looks at the whole image, since attention over nothing is not a number.
        """
        pairs, (parts, length) = len(patches), padding.shape
        elsewhere = ~part_grids & part_grids.any(dim=2, keepdim=True)
        names = self.text_norm(masked_names).flatten(0, 1).expand(pairs, -1, -1)
        hidden = self.cross_attention(names, self.image_norm(patches), elsewhere.repeat_interleave(length, dim=1))
        first_places = parts * length * torch.arange(pairs, device=positions.device)
        places = (first_places[:, None] + positions).flatten()
        logits = self._words(hidden.reshape(pairs * parts, length, -1), padding.repeat(pairs, 1), places)
        return logits.unflatten(0, (pairs, len(positions)))

    def _words(
        self, hidden: Float[Tensor, "B L D"], padding: Bool[Tensor, "B L"] | None, positions: Int[Tensor, " M"]
    ) -> Float[Tensor, "M V"]:
        for block in self.blocks:
            hidden = block(hidden, padding)
        return self.head(self.out_norm(hidden.flatten(0, 1).index_select(0, positions)))


class PixelDecoder(nn.Module):
    """What both image branches share: positions, blocks that listen to a guide, and the way back to pixels.

    The guide is the caption's tokens, or its global feature.
    """

    def __init__(self, width: int, heads: int, head_width: int, depth: int, patches: int, pixels: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1 + patches, width) * width**-0.5)
        self.blocks = nn.ModuleList(CrossBlock(width, heads, depth, head_width) for _ in range(depth))
        self.head = nn.Linear(width, pixels)

    def _decode(
        self, x: Float[Tensor, "B S D"], guide: Float[Tensor, "B L D"], padding: Bool[Tensor, "B L"] | None
    ) -> Float[Tensor, "B S D"]:
        for block in self.blocks:
            x = block(x, guide, padding)
        return x


class PatchDecoder(PixelDecoder):
    """Image branch (paper eq. 4): pixels of the removed patches from the kept ones, which alone were encoded."""

    def __init__(self, width: int, heads: int, head_width: int, depth: int, patches: int, pixels: int) -> None:
        super().__init__(width, heads, head_width, depth, patches, pixels)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)

    def forward(
        self,
        visible: Float[Tensor, "B visible D"],
        kept: Int[Tensor, "B S"],
        removed: Int[Tensor, "B R"],
        guide: Float[Tensor, "B L D"],
        guide_padding: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B R pixels"]:
        """``visible`` is the encoder's output for CLS and the ``kept`` patches.

        Mask tokens follow the visible ones instead of standing between them: every token carries its position, so the
        order in the sequence means nothing.
        """
        patch_positions = self.positions[1:]
        seen = visible[:, 1:] + patch_positions[kept]
        hidden = self.mask_token + patch_positions[removed]
        x = torch.cat([visible[:, :1] + self.positions[0], seen, hidden.to(seen.dtype)], dim=1)
        return self.head(self._decode(x, guide, guide_padding)[:, 1 + kept.shape[1] :])


class BlackPatchDecoder(PixelDecoder):
    """Image branch (paper, section III-A): pixels of all patches of an image that was encoded with some black."""

    def forward(
        self,
        seen: Float[Tensor, "B seen D"],
        guide: Float[Tensor, "B L D"],
        guide_padding: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B N pixels"]:
        """``seen`` is the encoder's output for CLS and every patch."""
        return self.head(self._decode(seen + self.positions, guide, guide_padding)[:, 1:])


def choose_removed_patches(
    part_grids: Bool[Tensor, "B P N"], removed: int, draws: Float[Tensor, "B N"]
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B R"]]:
    """Which patches stay and which are removed: patches of parts first, then others, larger ``draws`` (0..1) first."""
    order = (draws + 2 * part_grids.any(dim=1)).argsort(dim=1, descending=True)
    return order[:, removed:], order[:, :removed]


def patch_pixels(images: Float[Tensor, "B 3 H W"], patch_size: int) -> Float[Tensor, "B N pixels"]:
    """Pixels of each patch, patches row by row."""
    rows = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # B 3 rows r cols c
    return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def black_image(like: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "1 3 H W"]:
    """Black pixels of the size of ``like``, normalised as its are."""
    mean, std = (like.new_tensor(values)[None, :, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (-mean / std).expand(1, *like.shape[1:])
