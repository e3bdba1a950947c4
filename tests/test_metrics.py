"""Intervals that several metrics share, against SciPy and repetitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from diptych.metrics import intervals
from diptych.metrics.intervals import proportion, rank_interval, wilson


def test_wilson_equals_scipy() -> None:
    for hits, n in ((0, 20), (7, 20), (20, 20), (450, 1000)):
        low, high = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert wilson(hits / n, n) == pytest.approx((low, high), abs=1e-6)


def test_proportion_falls_back_to_the_binomial() -> None:
    assert proportion(0.3, 100, math.sqrt(0.3 * 0.7 / 100)) == pytest.approx(wilson(0.3, 100))
    assert proportion(1.0, 100, 0.0) == wilson(1.0, 100)
    low, high = proportion(0.3, 100, 0.2)
    assert high - low > 0.5


@pytest.mark.parametrize(("n", "q"), [(100, 0.5), (300, 0.95)])
def test_rank_interval_holds_the_quantile(n: int, q: float) -> None:
    low, high = rank_interval(n, q)
    inside = scipy.stats.binom.cdf(high, n, q) - scipy.stats.binom.cdf(low, n, q)
    assert 0.94 <= inside <= 0.98
    values = np.sort(np.random.default_rng(0).random((2000, n)), axis=1)
    assert np.mean((values[:, low] <= q) & (q <= values[:, high])) >= 0.94


def test_rank_interval_of_few_values_is_all_of_them() -> None:
    assert rank_interval(5, 0.5) == (0, 4)
    assert rank_interval(1, 0.95) == (0, 0)


def test_intervals_of_skewed_influences_reach_farther_up() -> None:
    """Means of lognormal values: the corrected interval covers more often than the normal one, and enough."""
    rng, covered, plainly = np.random.default_rng(0), 0, 0
    truth = math.exp(0.5)
    for _ in range(400):
        values = torch.from_numpy(rng.lognormal(size=60))
        value, spread = float(values.mean()), intervals.from_influence(None, values)
        low, high = intervals.corrected(value, spread)
        below, above = intervals.normal(value, spread.error)
        assert low <= below < above < high
        covered += low <= truth <= high
        plainly += below <= truth <= above
    assert plainly / 400 < 0.90 < covered / 400
    even = intervals.Spread(1.0, (), 0.0)
    assert intervals.corrected(0.0, even) == intervals.normal(0.0, 1.0)


def test_intervals_of_rare_counts() -> None:
    """Poisson counts: the score interval covers where the normal one has no width; clusters widen it."""
    rng = np.random.default_rng(0)
    for expected in (1.0, 5.0, 40.0):
        inside = 0
        for count in rng.poisson(expected, 500):
            low, high = intervals.rate(float(count), 1.0, math.sqrt(count), 1.0)
            inside += low <= expected <= high
        assert 0.9 < inside / 500 <= 1
    assert intervals.rate(0.0, 1.0, 0.0, 5.0)[1] == 5 * intervals.rate(0.0, 1.0, 0.0, 1.0)[1]
    # many counts: as the normal interval
    low, high = intervals.rate(1000.0, 1.0, 60.0, 1.0)
    assert (high - low) / 2 == pytest.approx(1.96 * 60, rel=0.01)


def test_shares_near_zero_and_one_have_sensible_intervals() -> None:
    low, high = intervals.proportion(0.0, 300, 0.004)
    assert low == pytest.approx(0, abs=1e-12)
    assert 0.005 < high < 0.05
    low, high = intervals.proportion(1.0, 300, 0.004)
    assert high == 1
    assert 0.95 < low < 0.995
