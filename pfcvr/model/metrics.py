"""Exact Rank-k, mAP and mINP of a ranking, from features or from blocks of scores, and what chance would reach.

The protocol of the field (methods: IRRA's evaluator): every query ranks the whole gallery by score; a gallery item is
relevant when it shows the query's identity. AP is the standard, not interpolated, one (paper eq. 14). Ties count
against the query: among equal scores the relevant items come last, so a model that gives everything the same score
gets nothing. Nothing is sorted but the few relevant items of a query: the rank of each is one plus the number of items
scored better, which is counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pfcvr.errors import DataError

RANKS = (1, 5, 10)
BLOCK_SCORES = 1 << 21  # scores held at a time, 8 MiB: a block is counted while it is still in the processor's cache
COSINE_TIE = 1e-6  # float32 cosines of equal vectors differ by less, depending on where in a block they stand

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class RetrievalMetrics:
    """Means over the queries that have a relevant item in the gallery, in percent; ``skipped`` have none."""

    rank1: float
    rank5: float
    rank10: float
    mAP: float  # noqa: N815 - the field's spelling
    mINP: float  # noqa: N815
    trapezoid_mAP: float  # noqa: N815
    queries: int
    skipped: int
    chance_rank1: float
    chance_rank5: float
    chance_rank10: float
    chance_mAP: float  # noqa: N815


@dataclass(frozen=True)
class QueryMetrics:
    """What each query [Q] reached in a gallery of ``gallery_size`` images; fractions, and 0 where nothing is relevant.

    ``trapezoid_precision`` is the average precision of Market-1501's evaluator: at each hit the mean of the precision
    just before it (1 at rank 1) and at it, which some of the published rows use.
    """

    relevant: NDArray[np.int64]
    first_hit_rank: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    trapezoid_precision: NDArray[np.float64]
    gallery_size: int

    def means(self) -> RetrievalMetrics:
        """Means over the queries that have a relevant item; raises DataError when none has."""
        answerable = self.relevant > 0
        if not answerable.any():
            raise DataError(
                f"none of the {len(self.relevant)} queries has an image of its identity in the gallery of "
                f"{self.gallery_size}; evaluate on a split that holds both"
            )
        counts, first = self.relevant[answerable], self.first_hit_rank[answerable]
        rank1, rank5, rank10 = (_percent(first <= rank) for rank in RANKS)
        chances = (_percent(chance_hit(counts, self.gallery_size, rank)) for rank in RANKS)
        chance_rank1, chance_rank5, chance_rank10 = chances
        return RetrievalMetrics(
            rank1=rank1,
            rank5=rank5,
            rank10=rank10,
            mAP=_percent(self.average_precision[answerable]),
            mINP=_percent(self.inverse_negative_penalty[answerable]),
            trapezoid_mAP=_percent(self.trapezoid_precision[answerable]),
            queries=len(counts),
            skipped=int((~answerable).sum()),
            chance_rank1=chance_rank1,
            chance_rank5=chance_rank5,
            chance_rank10=chance_rank10,
            chance_mAP=_percent(chance_average_precision(counts, self.gallery_size)),
        )


def feature_metrics(
    queries: Scores, gallery: Scores, query_labels: Labels, gallery_labels: Labels, own: Labels | None = None
) -> QueryMetrics:
    """Metrics of cosine scores between ``queries`` [Q, D] and ``gallery`` [G, D]; features need not be normalised.

    ``own`` [Q] names one gallery row per query that is left out of that query's gallery (the described image itself).
    Cosines that differ by less than ``COSINE_TIE`` are ties. Extra memory does not depend on Q x G.

    Raises:
        DataError: a feature is not a finite number.
    """
    blocks = cosine_blocks(queries, gallery)
    return score_metrics(blocks, query_labels, gallery_labels, own, tie=COSINE_TIE)


def cosine_blocks(queries: Scores, gallery: Scores) -> Iterator[Scores]:
    """Cosines of successive queries with the whole gallery, [b, G] at a time; a block is overwritten by the next."""
    normalised = unit_features(gallery).T
    rows = max(1, BLOCK_SCORES // max(1, len(gallery)))
    buffer = np.empty((min(rows, len(queries)), len(gallery)), dtype=np.float32)
    for start in range(0, len(queries), rows):
        block = unit_features(queries[start : start + rows])
        yield np.matmul(block, normalised, out=buffer[: len(block)])


def score_metrics(
    blocks: Iterable[Scores],
    query_labels: Labels,
    gallery_labels: Labels,
    own: Labels | None = None,
    tie: float = 0.0,
) -> QueryMetrics:
    """Metrics of scores that come as blocks of rows [b, G], one row a query in the order of ``query_labels``.

    ``own``: as in ``feature_metrics``. Scores that differ by at most ``tie`` count as equal; scores must be finite.
    """
    relevant_of = _rows_by_label(gallery_labels)
    counts = np.zeros((2, len(query_labels)), dtype=np.int64)
    fractions = np.zeros((3, len(query_labels)))
    for query, scores in enumerate(scores for block in blocks for scores in block):
        relevant = relevant_of.get(int(query_labels[query]), _NO_ROWS)
        if own is not None:
            relevant = relevant[relevant != own[query]]
        if len(relevant):
            ranks = _ranks(scores, relevant, None if own is None else int(own[query]), tie)
            counts[:, query] = len(ranks), ranks[0]
            fractions[:, query] = _precisions(ranks)
    gallery_size = len(gallery_labels) - (own is not None)
    return QueryMetrics(counts[0], counts[1], fractions[0], fractions[1], fractions[2], gallery_size)


def chance_hit(relevant: NDArray[np.int64], gallery_size: int, rank: int) -> NDArray[np.float64]:
    """Probability that a random ranking has one of ``relevant`` hits among its first ``rank`` of ``gallery_size``.

    ``1 - C(G-m, k) / C(G, k)``: the first k are all wrong where the second is wrong too, after the first, and so on.
    """
    missed = np.ones(len(relevant))
    for place in range(min(rank, gallery_size)):
        missed *= np.maximum(gallery_size - relevant - place, 0) / (gallery_size - place)
    hit: NDArray[np.float64] = 1 - missed
    return hit


def chance_average_precision(relevant: NDArray[np.int64], gallery_size: int) -> NDArray[np.float64]:
    """Expected AP of a random ranking with ``relevant`` hits among ``gallery_size`` items.

    The expected precision at rank k given a hit there is ``(1 + (k-1) (m-1) / (G-1)) / k``, and every rank is equally
    likely for a hit: ``(H_G + (m-1) / (G-1) (G - H_G)) / G`` with the harmonic number ``H_G``.
    """
    harmonic = float(np.sum(1 / np.arange(1, gallery_size + 1)))
    others = (relevant - 1) / max(gallery_size - 1, 1)
    expected: NDArray[np.float64] = (harmonic + others * (gallery_size - harmonic)) / gallery_size
    return expected


def top_rows(scores: Scores, k: int) -> NDArray[np.int64]:
    """The ``k`` best rows of ``scores`` [G], best first; the first of equals comes first."""
    best: NDArray[np.int64] = np.argsort(-scores, kind="stable")[:k]
    return best


_NO_ROWS = np.zeros(0, dtype=np.int64)


def _ranks(scores: Scores, relevant: Labels, own: int | None, tie: float) -> NDArray[np.int64]:
    """1-based ranks of the ``relevant`` rows, ascending; row ``own`` is not in the gallery."""
    hits = np.sort(scores[relevant])[::-1]
    thresholds = hits - np.float32(tie)
    # count_nonzero of one comparison is the fastest exact count there is: no sort, no temporary of more than G bytes.
    ahead = np.array([np.count_nonzero(scores >= threshold) for threshold in thresholds])
    ahead -= np.array([np.count_nonzero(hits >= threshold) for threshold in thresholds])
    if own is not None:
        ahead -= scores[own] >= thresholds
    ranks: NDArray[np.int64] = ahead + np.arange(1, len(hits) + 1)
    return ranks


def _precisions(ranks: NDArray[np.int64]) -> tuple[float, float, float]:
    """AP, INP and trapezoid AP of one query from its relevant ranks, as fractions."""
    found = np.arange(1, len(ranks) + 1)
    precision = found / ranks
    before = np.where(ranks > 1, (found - 1) / np.maximum(ranks - 1, 1), 1.0)
    return float(precision.mean()), float(precision[-1]), float((before + precision).mean() / 2)


def _percent(fractions: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    return float(100 * np.mean(fractions))


def _rows_by_label(labels: Labels) -> dict[int, Labels]:
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))


def unit_features(features: Scores) -> Scores:
    """``features`` [G, D] scaled to unit length; a row of zeros stays.

    Raises:
        DataError: a feature is not a finite number.
    """
    if not np.isfinite(features).all():
        raise DataError("a feature is not a finite number; the weights are damaged, train the model again")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Scores = (features / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32, copy=False)
    return unit


def label_numbers(names: Sequence[str], known: dict[str, int] | None = None) -> Labels:
    """``names`` as numbers; equal names get equal numbers. ``known`` is extended, so that two lists share numbers."""
    numbers = {} if known is None else known
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def tied_top(scores: Scores, relevant: NDArray[np.bool_], tie: float = COSINE_TIE) -> bool:
    """Whether the best of ``scores`` is relevant; an irrelevant item within ``tie`` of it counts as better."""
    best = float(scores[relevant].max(initial=-np.inf))
    return bool(best - tie > scores[~relevant].max(initial=-np.inf))
