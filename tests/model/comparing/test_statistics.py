from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from pfcvr.model import statistics
from pfcvr.model.statistics import (
    UnitSums,
    bootstrap_interval,
    mean_and_deviation,
    paired_test,
    unit_sums,
)


def vehicles(number: int, rng: np.random.Generator, spread: float) -> tuple[np.ndarray, list[str]]:
    """Queries of ``number`` vehicles, 1 to 8 each, hit with a probability that is the vehicle's own; [Q, 1]."""
    counts = rng.integers(1, 9, number)
    ease = np.clip(rng.normal(0.5, spread, number), 0, 1)
    values = np.concatenate([rng.random(count) < p for count, p in zip(counts, ease, strict=True)])
    return values[:, None].astype(float), [f"{v:03d}" for v, count in enumerate(counts) for _ in range(count)]


def covered(unit: str, repeats: int) -> float:
    """How often the interval of a sample of 60 vehicles holds the true mean, which is one half."""
    hits = 0
    for repeat in range(repeats):
        values, names = vehicles(60, np.random.default_rng(repeat), spread=0.35)
        low, high = bootstrap_interval(unit_sums(values, names, unit), seed=0, draws=400)
        hits += bool(low[0] <= 0.5 <= high[0])
    return hits / repeats


def test_the_interval_over_identities_holds_the_truth_about_as_often_as_it_says() -> None:
    assert 0.915 <= covered("identities", 600) <= 0.975  # standard error of this share: 0.009


def test_the_interval_over_queries_is_too_narrow_where_the_queries_of_a_vehicle_agree() -> None:
    assert covered("queries", 300) < 0.85


def test_where_every_vehicle_has_one_query_both_units_give_the_same_interval() -> None:
    values = np.random.default_rng(0).random((40, 3))
    names = [f"{number:02d}" for number in range(40)]
    one, other = (bootstrap_interval(unit_sums(values, names, unit), seed=5) for unit in ("identities", "queries"))
    assert np.allclose(one, other)


def test_means_weigh_every_query_the_same_whatever_the_unit() -> None:
    values = np.array([[1.0, 0.0], [0.0, 0.5], [1.0, 1.0]])
    for unit in ("identities", "queries"):
        assert unit_sums(values, ["a", "a", "b"], unit).means == pytest.approx([2 / 3, 0.5])


def test_the_same_seed_gives_the_same_interval_and_another_one_a_close_one() -> None:
    values, names = vehicles(80, np.random.default_rng(1), spread=0.2)
    units = unit_sums(values, names, "identities")
    first, again, other = (bootstrap_interval(units, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.allclose(first, other, atol=0.01)


def enumerated(first: Sequence[float], other: Sequence[float], groups: Sequence[Sequence[int]]) -> float:
    """The p-value by swapping the two systems in every subset of the groups, one after another."""
    observed = abs(sum(b - a for a, b in zip(first, other, strict=True)))
    extreme = 0
    for swaps in product([False, True], repeat=len(groups)):
        total = 0.0
        for group, swap in zip(groups, swaps, strict=True):
            for query in group:
                total += first[query] - other[query] if swap else other[query] - first[query]
        extreme += abs(total) >= observed - 1e-9
    return extreme / 2 ** len(groups)


FIRST = [0, 1, 0, 0, 1, 0, 1, 0, 0, 0.5, 0.2, 0.1]
OTHER = [1, 1, 1, 0, 1, 1, 0, 1, 0, 0.9, 0.1, 0.4]
NAMES = list("aabbcddeefgh")
GROUPS = [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9], [10], [11]]


def columns(values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_the_p_value_of_few_vehicles_is_that_of_all_exchanges() -> None:
    found = paired_test(*(unit_sums(columns(v), NAMES, "identities") for v in (FIRST, OTHER)), seed=0)
    assert found.p_value[0] == pytest.approx(enumerated(FIRST, OTHER, GROUPS))
    assert found.difference[0] == pytest.approx((sum(OTHER) - sum(FIRST)) / 12)


def test_random_exchanges_come_close_to_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "EXACT_UNITS", 0)
    found = paired_test(*(unit_sums(columns(v), NAMES, "identities") for v in (FIRST, OTHER)), seed=0)
    assert found.p_value[0] == pytest.approx(enumerated(FIRST, OTHER, GROUPS), abs=0.02)


def test_two_equal_systems_do_not_differ() -> None:
    units = unit_sums(columns(FIRST), NAMES, "identities")
    found = paired_test(units, units, seed=0)
    assert (found.difference[0], found.low[0], found.high[0], found.p_value[0]) == (0, 0, 0, 1)


def test_without_a_difference_small_p_values_are_rare_and_with_one_they_are_common() -> None:
    null, real = [], []
    for repeat in range(200):
        rng = np.random.default_rng((7, repeat))
        hard, names = vehicles(60, rng, spread=0.3)
        base = unit_sums(hard, names, "identities")
        null.append(paired_test(base, unit_sums(shaken(hard, 0.1, 0.1, rng), names, "identities"), 0, 300).p_value[0])
        real.append(paired_test(base, unit_sums(shaken(hard, 0.2, 0.02, rng), names, "identities"), 0, 300).p_value[0])
    assert np.mean(np.array(null) <= 0.05) <= 0.1
    assert np.mean(np.array(real) <= 0.05) >= 0.5


def shaken(values: np.ndarray, up: float, down: float, rng: np.random.Generator) -> np.ndarray:
    """Misses become hits with probability ``up``, hits become misses with ``down``; half of all are hits."""
    flips = rng.random(values.shape) < np.where(values == 0, up, down)
    return np.where(flips, 1 - values, values)


def test_the_sign_of_the_difference_is_other_minus_first() -> None:
    worse, better = UnitSums(np.zeros((30, 1)), np.ones(30)), UnitSums(np.ones((30, 1)), np.ones(30))
    found = paired_test(worse, better, seed=0)
    assert (found.difference[0], found.low[0], found.high[0]) == (1, 1, 1)
    assert found.p_value[0] < 0.001


def test_one_value_has_no_deviation() -> None:
    assert mean_and_deviation([3.0]) == (3.0, None)
    assert mean_and_deviation([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1.0))
