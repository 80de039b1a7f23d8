"""PLFA, part-level local fine-grained alignment (paper section III-B). Shape letters: see ``pfcvr.model.batch``.

A learned query per part gathers what the part's name and the whole caption say about it; the patches that the part
covers, pooled, are what it looks like. ``losses.part_contrastive_loss`` brings the two together.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pfcvr.model.batch import IGNORED_LABEL
from pfcvr.model.tokenizer import CaptionTokenizer
from pfcvr.records import PARTS

PART_PROMPT = "car {part}"
"""Official code; lower-cased by the tokenizer."""


def part_prompts() -> list[str]:
    """The text that names each part, in the order of ``PARTS``."""
    return [PART_PROMPT.format(part=part) for part in PARTS]


def masked_part_names(tokenizer: CaptionTokenizer) -> tuple[Int[Tensor, "P T"], Int[Tensor, "P T"]]:
    """The part prompts with every token of the part's name masked, cut to the longest, and the labels of those tokens.

    Labels are as in ``Batch.masked_labels``.
    """
    ids, frame = tokenizer.encode(part_prompts()).ids, PART_PROMPT.format(part="")
    before = int((tokenizer.encode([frame]).ids[0] == tokenizer.end_id).int().argmax())
    ends = (ids == tokenizer.end_id).int().argmax(dim=1)
    ids = ids[:, : int(ends.max()) + 1]
    places = torch.arange(ids.shape[1])
    of_name = (places >= before) & (places < ends[:, None])
    return torch.where(of_name, tokenizer.mask_id, ids), torch.where(of_name, ids, IGNORED_LABEL)


class PartQueries(nn.Module):
    """One learned query per part, contextualised by cross-attention (paper eq. 1).

    ``q^_n = LN(q_n + MCA(W_Q q_n, [t_n ; T], [t_n ; T]))``, the tokens of part text ``t_n`` and of caption ``T``
    concatenated along the sequence. Residual and LayerNorm are ours: the paper mentions neither. Keys and values of
    the caption are computed once, not once per part, which gives the same sum.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(len(PARTS), width) * width**-0.5)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(
        self,
        part_text: Float[Tensor, "#B P T D"],
        part_padding: Bool[Tensor, "#B P T"],
        context: Float[Tensor, "B S D"],
        context_padding: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "B P D"]:
        """Part queries in the light of each ``context``, the caption in the paper; it may have no rows.

        ``part_text`` may be one for the whole batch or one per image.
        """
        part_value, shared_value = self._split(self.value(part_text)), self._split(self.value(context))
        on_part, on_shared = self._weights(part_text, part_padding, context, context_padding)
        of_part = part_value.expand(len(context), -1, -1, -1, -1)
        mixed = torch.einsum("bhpt,bpthw->bphw", on_part.to(part_value.dtype), of_part)
        mixed = mixed + torch.einsum("bhps,bshw->bphw", on_shared.to(part_value.dtype), shared_value)
        return self.norm(self.queries + self.out(mixed.flatten(2)))

    def attention(
        self,
        part_text: Float[Tensor, "#B P T D"],
        part_padding: Bool[Tensor, "#B P T"],
        context: Float[Tensor, "B S D"],
        context_padding: Bool[Tensor, "B S"],
    ) -> tuple[Float[Tensor, "B P P T"], Float[Tensor, "B P S"]]:
        """How much each query attends to the rows of each part (to none but its own) and to the context; mean of the
        heads. The arguments are those of ``forward``."""
        on_part, on_shared = (w.mean(dim=1) for w in self._weights(part_text, part_padding, context, context_padding))
        return torch.diag_embed(on_part.transpose(1, 2), dim1=1, dim2=2), on_shared

    def _weights(
        self,
        part_text: Float[Tensor, "#B P T D"],
        part_padding: Bool[Tensor, "#B P T"],
        context: Float[Tensor, "B S D"],
        context_padding: Bool[Tensor, "B S"],
    ) -> tuple[Float[Tensor, "B heads P T"], Float[Tensor, "B heads P S"]]:
        """Attention of each query to the rows of its part and to the context, together 1."""
        pairs = len(context)
        query = self._split(self.query(self.queries))  # P h w
        part_key, shared_key = self._split(self.key(part_text)), self._split(self.key(context))
        of_part = torch.einsum("phw,gpthw->ghpt", query, part_key).expand(pairs, -1, -1, -1)
        of_shared = torch.einsum("phw,bshw->bhps", query, shared_key)
        scores = torch.cat([of_part, of_shared], dim=3) * query.shape[-1] ** -0.5  # B h P T+S
        padding = torch.cat(
            [part_padding.expand(pairs, -1, -1), context_padding[:, None].expand(-1, len(self.queries), -1)], dim=2
        )
        weights = scores.masked_fill(padding[:, None], torch.finfo(scores.dtype).min).softmax(dim=3)
        on_part, on_shared = weights.split([part_text.shape[2], context.shape[1]], dim=3)
        return on_part, on_shared

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


def pool_parts(
    patches: Float[Tensor, "B N D"], part_grids: Bool[Tensor, "B P N"]
) -> tuple[Float[Tensor, "B P D"], Bool[Tensor, "B P"]]:
    """Mean of the patches each part covers (paper eq. 2, where the pooling is not given), and which parts are present.

    An absent part is a row of zeros and marked absent.
    """
    covered = part_grids.to(patches.dtype)
    sums = torch.einsum("bpn,bnd->bpd", covered, patches)
    sizes = part_grids.sum(dim=2)
    return sums / sizes.clamp(min=1)[:, :, None], sizes > 0


class PositionPool(nn.Module):
    """``w . (M_n X) + b`` with one learned weight per patch position, whatever the part's size (official code).

    The released code writes it as a convolution from N channels to 1; weights start as its do.
    """

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(patches).uniform_(-1, 1) * patches**-0.5)
        self.bias = nn.Parameter(torch.empty(()).uniform_(-1, 1) * patches**-0.5)

    def forward(
        self, patches: Float[Tensor, "B N D"], part_grids: Bool[Tensor, "B P N"]
    ) -> tuple[Float[Tensor, "B P D"], Bool[Tensor, "B P"]]:
        """As ``pool_parts``, but an absent part is a row of ``b``."""
        return (part_grids * self.weights) @ patches + self.bias, part_grids.any(dim=2)
