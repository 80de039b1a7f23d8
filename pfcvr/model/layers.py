"""Transformer pieces that the part and reconstruction modules share. Shape letters: see ``pfcvr.model.batch``.

Weights start as CLIP's do (official code): the deeper a stack, the smaller what each layer first adds to its input.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """CLIP's activation, ``x * sigmoid(1.702 x)``."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head attention of queries over a context, ``heads`` of ``head_width`` (default: width / heads)."""

    def __init__(self, width: int, heads: int, depth: int, head_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width if head_width else width
        # As released: the patch decoder's wider heads have no input biases, CLIP-like attention has.
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=head_width is None) for _ in range(3))
        self.out = nn.Linear(inner, width)
        for projection in (self.query, self.key, self.value):
            nn.init.normal_(projection.weight, std=width**-0.5)
        nn.init.normal_(self.out.weight, std=width**-0.5 * (2 * depth) ** -0.5)

    def forward(
        self,
        queries: Float[Tensor, "B Q D"],
        context: Float[Tensor, "B S D"],
        padding: Bool[Tensor, "B S"] | Bool[Tensor, "B Q S"] | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """``padding`` marks context tokens that no query, or that one query, may attend to; each must keep one."""
        query, key, value = self.query(queries), self.key(context), self.value(context)
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        allowed = None
        if padding is not None:
            allowed = ~(padding[:, None, None] if padding.ndim == 2 else padding[:, None])
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)  # B heads Q width
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers of which the inner is four times as wide, QuickGELU between them."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.rise, self.fall = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = QuickGELU()
        nn.init.normal_(self.rise.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.fall.weight, std=width**-0.5 * (2 * depth) ** -0.5)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        return self.fall(self.activation(self.rise(x)))


class GatedFeedForward(nn.Module):
    """GEGLU: ``W_out (a * GELU(b))`` with ``[a, b] = W_in x``, both four times as wide (official code)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.rise, self.fall = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)
        nn.init.normal_(self.rise.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.fall.weight, std=width**-0.5 * (2 * depth) ** -0.5)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        value, gate = self.rise(x).chunk(2, dim=2)
        return self.fall(value * F.gelu(gate))


class Block(nn.Module):
    """CLIP's pre-norm block: self-attention, then feed-forward, both with residuals."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, depth)
        self.feed_forward = FeedForward(width, depth)

    def forward(self, x: Float[Tensor, "B S D"], padding: Bool[Tensor, "B S"] | None = None) -> Float[Tensor, "B S D"]:
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, padding)
        return x + self.feed_forward(self.feed_forward_norm(x))


class CrossBlock(nn.Module):
    """Pre-norm self-attention, cross-attention over a context, and GEGLU feed-forward, all with residuals."""

    def __init__(self, width: int, heads: int, depth: int, head_width: int) -> None:
        super().__init__()
        self.self_norm, self.cross_norm, self.feed_forward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = Attention(width, heads, depth, head_width)
        self.cross_attention = Attention(width, heads, depth, head_width)
        self.feed_forward = GatedFeedForward(width, depth)

    def forward(
        self, x: Float[Tensor, "B S D"], context: Float[Tensor, "B C D"], padding: Bool[Tensor, "B C"] | None = None
    ) -> Float[Tensor, "B S D"]:
        normed = self.self_norm(x)
        x = x + self.self_attention(normed, normed)
        x = x + self.cross_attention(self.cross_norm(x), context, padding)
        return x + self.feed_forward(self.feed_forward_norm(x))
