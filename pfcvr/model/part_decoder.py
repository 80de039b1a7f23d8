"""The part decoder of the released code: DETR's, with the part texts as the set it looks at.

Shape letters: see ``pfcvr.model.batch``. The paper describes one cross-attention instead, ``parts.PartQueries``.
"""

from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pfcvr.records import PARTS

FEED_FORWARD_FACTOR = 4  # official code: 512 -> 2048 -> 512


class DetrLayer(nn.Module):
    """Post-norm self-attention, cross-attention and feed-forward with ReLU; ``queries`` join before each attention.

    The memory has no positions, so it is a set.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention, self.cross_attention = (
            nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True) for _ in range(2)
        )
        self.self_norm, self.cross_norm, self.feed_forward_norm = (nn.LayerNorm(width) for _ in range(3))
        inner = FEED_FORWARD_FACTOR * width
        self.feed_forward = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B P D"],
        queries: Float[Tensor, "B P D"],
        memory: Float[Tensor, "B S D"],
        padding: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "B P D"]:
        x = self._among_queries(x, queries)
        found = self.cross_attention(x + queries, memory, memory, key_padding_mask=padding, need_weights=False)[0]
        x = self.cross_norm(x + self.dropout(found))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))

    def attention(
        self,
        x: Float[Tensor, "B P D"],
        queries: Float[Tensor, "B P D"],
        memory: Float[Tensor, "B S D"],
        padding: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "B P S"]:
        """How much each query attends to each row of the memory, mean of the heads."""
        x = self._among_queries(x, queries)
        return self.cross_attention(x + queries, memory, memory, key_padding_mask=padding)[1]

    def _among_queries(self, x: Float[Tensor, "B P D"], queries: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        place = x + queries
        return self.self_norm(x + self.dropout(self.self_attention(place, place, x, need_weights=False)[0]))


class DetrPartDecoder(nn.Module):
    """Six learned queries that look at one memory together; its content alone tells a query which row is its part.

    All matrices start Xavier-uniform, the queries standard normal (official code).
    """

    def __init__(self, width: int, heads: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DetrLayer(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.queries = nn.Parameter(torch.randn(len(PARTS), width))

    def forward(
        self,
        part_text: Float[Tensor, "#B P T D"],
        part_padding: Bool[Tensor, "B P T"],
        context: Float[Tensor, "B S D"],
        context_padding: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "B P D"]:
        """Part queries of each image; the memory is the rows of all its parts and the ``context`` rows (may be none).

        A row all of whose memory is padding gets some finite answer, which no loss may use.
        """
        memory, padding = self._memory(part_text, part_padding, context, context_padding)
        queries = self.queries.expand(len(context), -1, -1)
        x = torch.zeros_like(queries)
        for layer in self.layers:
            x = layer(x, queries, memory, padding)
        return self.norm(x)

    def attention(
        self,
        part_text: Float[Tensor, "#B P T D"],
        part_padding: Bool[Tensor, "B P T"],
        context: Float[Tensor, "B S D"],
        context_padding: Bool[Tensor, "B S"],
    ) -> tuple[Float[Tensor, "B P P T"], Float[Tensor, "B P S"]]:
        """How much each query attends to the rows of each part and to the context in the last layer, mean of the heads.

        The arguments are those of ``forward``.
        """
        memory, padding = self._memory(part_text, part_padding, context, context_padding)
        queries = self.queries.expand(len(context), -1, -1)
        x = torch.zeros_like(queries)
        for layer in cast(Iterable[DetrLayer], self.layers):
            weights = layer.attention(x, queries, memory, padding)
            x = layer(x, queries, memory, padding)
        parts, rows = part_text.shape[1:3]
        on_parts, on_context = weights.split([parts * rows, context.shape[1]], dim=2)
        return on_parts.unflatten(2, (parts, rows)), on_context

    def _memory(
        self,
        part_text: Float[Tensor, "#B P T D"],
        part_padding: Bool[Tensor, "B P T"],
        context: Float[Tensor, "B S D"],
        context_padding: Bool[Tensor, "B S"],
    ) -> tuple[Float[Tensor, "B rows D"], Bool[Tensor, "B rows"]]:
        memory = torch.cat([part_text.expand(len(context), -1, -1, -1).flatten(1, 2), context], dim=1)
        padding = torch.cat([part_padding.flatten(1), context_padding], dim=1)
        return memory, padding & ~padding.all(dim=1, keepdim=True)
