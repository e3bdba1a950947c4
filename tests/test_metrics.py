"""Intervals that several metrics share, against SciPy and repetitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

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
