import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfcvr.errors import DataError
from pfcvr.model import metrics
from pfcvr.model.metrics import (
    chance_average_precision,
    chance_hit,
    feature_metrics,
    label_numbers,
    score_metrics,
    top_rows,
)


def by_sorting(scores, query_labels, gallery_labels, own=None):
    """Every query's ranking written out, relevant items last among equals; means in percent."""
    rows = []
    for query, label in enumerate(query_labels):
        candidates = [g for g in range(len(gallery_labels)) if own is None or g != own[query]]
        ranked = sorted(candidates, key=lambda g: (-scores[query][g], gallery_labels[g] == label))
        hits = [place for place, g in enumerate(ranked, start=1) if gallery_labels[g] == label]
        if not hits:
            continue
        precision = [number / place for number, place in enumerate(hits, start=1)]
        rows.append([hits[0] <= 1, hits[0] <= 5, hits[0] <= 10, np.mean(precision), len(hits) / hits[-1]])
    return 100 * np.mean(np.array(rows, dtype=float), axis=0)


def values(measured):
    return [measured.rank1, measured.rank5, measured.rank10, measured.mAP, measured.mINP]


def test_the_published_test_vector_comes_out() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.9, 0.3, 0.8, 0.2], [0.5, 0.4, 0.3, 0.2, 0.1]], np.float32)
    by_query = score_metrics([scores], np.array([1, 2, 3]), np.array([1, 2, 1, 2, 3]))
    measured = by_query.means()
    assert values(measured) == pytest.approx([200 / 3, 100, 100, 67.7778, 62.2222], abs=1e-4)
    assert measured.trapezoid_mAP == pytest.approx(63.056, abs=1e-3)
    assert by_query.first_hit_rank.tolist() == [1, 1, 5]
    assert by_query.average_precision.tolist() == pytest.approx([(1 + 2 / 3) / 2, 1.0, 1 / 5])
    assert by_query.inverse_negative_penalty.tolist() == pytest.approx([2 / 3, 1.0, 1 / 5])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 14), st.booleans())
def test_counting_gives_what_sorting_gives_also_with_ties(seed, queries, gallery, leave_out) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (queries, gallery)).astype(np.float32)
    query_labels, gallery_labels = rng.integers(0, 3, queries), rng.integers(0, 3, gallery)
    own = rng.integers(0, gallery, queries) if leave_out else None
    has_relevant = [
        any(gallery_labels[g] == label and (own is None or g != own[q]) for g in range(gallery))
        for q, label in enumerate(query_labels)
    ]
    blocks = np.array_split(scores, min(3, queries))
    if not any(has_relevant):
        with pytest.raises(DataError, match="none of the .* queries has an image of its identity"):
            score_metrics(blocks, query_labels, gallery_labels, own).means()
        return
    by_query = score_metrics(blocks, query_labels, gallery_labels, own)
    assert ((by_query.relevant > 0) == has_relevant).all()
    measured = by_query.means()
    assert values(measured) == pytest.approx(by_sorting(scores, query_labels, gallery_labels, own))
    assert (measured.queries, measured.skipped) == (sum(has_relevant), queries - sum(has_relevant))


def test_features_are_ranked_by_cosine_in_blocks_of_any_size(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    queries, gallery = (rng.standard_normal((count, 16)).astype(np.float32) for count in (37, 53))
    query_labels, gallery_labels = rng.integers(0, 8, 37), rng.integers(0, 8, 53)
    cosines = (queries @ gallery.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(gallery, axis=1)
    expected = by_sorting(cosines, query_labels, gallery_labels)
    for block in (1, 200, 1 << 21):
        monkeypatch.setattr(metrics, "BLOCK_SCORES", block)
        assert values(feature_metrics(queries, gallery, query_labels, gallery_labels).means()) == pytest.approx(
            expected
        )


def test_a_model_that_gives_everything_the_same_feature_gets_the_worst_rank() -> None:
    """Rounding in a matrix product depends on the position; equal features must tie all the same."""
    feature = np.random.default_rng(0).standard_normal((1, 67)).astype(np.float32)
    labels = np.repeat(np.arange(30), 2)
    repeated = np.repeat(feature, 60, axis=0)
    measured = feature_metrics(repeated, repeated, labels, labels).means()
    assert (measured.rank1, measured.rank10) == (0, 0)
    assert measured.mINP == pytest.approx(100 * 2 / 60)


def test_order_of_gallery_and_queries_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 5, (20, 30)).astype(np.float32)
    query_labels, gallery_labels = rng.integers(0, 6, 20), rng.integers(0, 6, 30)
    expected = score_metrics([scores], query_labels, gallery_labels).means()
    q, g = rng.permutation(20), rng.permutation(30)
    mixed = score_metrics([scores[q][:, g]], query_labels[q], gallery_labels[g]).means()
    assert values(mixed) == pytest.approx(values(expected))


def test_chance_is_what_all_orders_give_on_average() -> None:
    relevant, size = 3, 6
    orders = {order for order in itertools.permutations([1] * relevant + [0] * (size - relevant))}
    expected = []
    for order in orders:
        places = np.flatnonzero(order) + 1
        expected.append(np.mean(np.arange(1, relevant + 1) / places))
    assert chance_average_precision(np.array([relevant]), size)[0] == pytest.approx(np.mean(expected))
    assert chance_average_precision(np.array([1]), 1)[0] == pytest.approx(1.0)

    scores = np.random.default_rng(0).random((3, 6), dtype=np.float32)
    measured = score_metrics([scores], np.array([0, 0, 1]), np.array([0, 0, 0, 1, 2, 2])).means()
    assert measured.chance_rank1 == pytest.approx(100 * (3 / 6 + 3 / 6 + 1 / 6) / 3)
    assert measured.chance_rank5 == pytest.approx(100 * (1 + 1 + 5 / 6) / 3)
    assert measured.chance_rank10 == 100  # the gallery has six


@pytest.mark.parametrize(("relevant", "size", "rank"), [(1, 7, 5), (2, 7, 5), (2, 6, 1), (6, 6, 5), (1, 3, 5)])
def test_chance_at_a_rank_is_the_share_of_draws_with_a_hit(relevant: int, size: int, rank: int) -> None:
    draws = list(itertools.combinations(range(size), min(rank, size)))
    share = np.mean([min(draw) < relevant for draw in draws])
    assert chance_hit(np.array([relevant]), size, rank)[0] == pytest.approx(share)


def test_memory_does_not_grow_with_queries_times_gallery() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6000, 8)).astype(np.float32)
    labels = rng.integers(0, 500, 6000)
    tracemalloc.start()
    feature_metrics(features, features, labels, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 4 / 6


def test_features_that_are_not_numbers_are_refused() -> None:
    features = np.ones((3, 4), dtype=np.float32)
    broken = features.copy()
    broken[1, 2] = np.nan
    for queries, gallery in ((features, broken), (broken, features)):
        with pytest.raises(
            DataError, match="a feature is not a finite number; the weights are damaged, train the model"
        ):
            feature_metrics(queries, gallery, np.zeros(3, int), np.zeros(3, int))


def test_top_rows_are_best_first_and_the_first_of_equals_leads() -> None:
    assert top_rows(np.array([0.1, 0.5, 0.5, 0.9], np.float32), 3).tolist() == [3, 1, 2]


def test_equal_names_get_equal_numbers_across_lists() -> None:
    known: dict[str, int] = {}
    assert label_numbers(["b", "a", "b"], known).tolist() == [0, 1, 0]
    assert label_numbers(["a", "c"], known).tolist() == [1, 2]
