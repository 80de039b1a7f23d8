"""Bootstrap intervals and paired tests for metrics that are means over queries.

The queries of one vehicle depend on each other: they share its images, and a vehicle that is hard to find is hard for
all of its captions. So whole identities are drawn by default (cluster bootstrap); drawing single queries treats them as
independent and gives intervals that are too narrow wherever a vehicle has several. Shape letters: Q queries, M metrics,
U units that are drawn (identities or queries).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pfcvr.config import ResampledUnit

DRAWS = 10_000
DRAWS_AT_ONCE = 200
LEVEL = 0.95
EXACT_UNITS = 14  # up to so many units all sign patterns are enumerated, 16,384 of them
ROUNDING = 1e-9  # two sums of the same numbers in another order are equal

Values = NDArray[np.float64]


@dataclass(frozen=True)
class UnitSums:
    """Values of queries added up by unit: ``sums`` [U, M] and the number of queries of each unit ``counts`` [U]."""

    sums: Values
    counts: Values

    @property
    def means(self) -> Values:
        """Mean over the queries, [M]."""
        means: Values = self.sums.sum(axis=0) / self.counts.sum()
        return means


@dataclass(frozen=True)
class PairedTest:
    """A difference of two means [M] with its interval, and the two-sided p-value of no difference."""

    difference: Values
    low: Values
    high: Values
    p_value: Values


def unit_sums(values: Values, identities: Sequence[str], unit: ResampledUnit) -> UnitSums:
    """``values`` [Q, M] added up by identity, or left as they are where each query is a unit."""
    if unit == "queries":
        return UnitSums(values, np.ones(len(values)))
    _, number = np.unique(np.asarray(identities), return_inverse=True)
    sums = np.zeros((int(number.max()) + 1, values.shape[1]))
    np.add.at(sums, number, values)
    return UnitSums(sums, np.bincount(number).astype(np.float64))


def bootstrap_interval(units: UnitSums, seed: int, draws: int = DRAWS) -> tuple[Values, Values]:
    """Percentile interval at LEVEL of the means [M]: units are drawn with replacement, ``draws`` times."""
    means = np.concatenate(
        [w @ units.sums / (w @ units.counts)[:, None] for w in _drawn(len(units.counts), seed, draws)]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def paired_test(first: UnitSums, other: UnitSums, seed: int, draws: int = DRAWS) -> PairedTest:
    """``other`` minus ``first``, measured on the same queries.

    The interval is a paired bootstrap. The p-value is a permutation test: if neither is better, the two may be
    exchanged within any unit, which turns the sign of that unit's difference. All sign patterns are taken where there
    are few units; otherwise ``draws`` random ones, with the observed one counted among them.
    """
    changed = UnitSums(other.sums - first.sums, first.counts)
    low, high = bootstrap_interval(changed, seed, draws)
    observed = np.abs(changed.sums.sum(axis=0)) - ROUNDING
    if len(changed.counts) <= EXACT_UNITS:
        extreme = (np.abs(_all_signs(len(changed.counts)) @ changed.sums) >= observed).mean(axis=0)
    else:
        hits = sum(
            (np.abs(signs @ changed.sums) >= observed).sum(axis=0) for signs in _signs(len(changed.counts), seed, draws)
        )
        extreme = (1 + hits) / (1 + draws)
    return PairedTest(changed.means, low, high, np.asarray(extreme, dtype=np.float64))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the sample standard deviation where there are at least two values."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _drawn(units: int, seed: int, draws: int) -> Iterator[Values]:
    """How often each unit was drawn, [b, U] at a time."""
    rng = np.random.default_rng((seed, 0))
    for size in _blocks(draws):
        numbers = rng.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        yield np.bincount(numbers.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def _signs(units: int, seed: int, draws: int) -> Iterator[Values]:
    rng = np.random.default_rng((seed, 1))
    for size in _blocks(draws):
        yield rng.choice(np.array([-1.0, 1.0]), size=(size, units))


def _all_signs(units: int) -> Values:
    patterns = (np.arange(1 << units)[:, None] >> np.arange(units)) & 1
    signs: Values = np.where(patterns, -1.0, 1.0)
    return signs


def _blocks(draws: int) -> list[int]:
    full, rest = divmod(draws, DRAWS_AT_ONCE)
    return [DRAWS_AT_ONCE] * full + ([rest] if rest else [])
