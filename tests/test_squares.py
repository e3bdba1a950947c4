"""Intervals of squared distances: they cover where the truth is zero, near it and far from it."""

from __future__ import annotations

import math

import pytest
import torch

from diptych.metrics.squares import squared_interval


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, 10.0])
@pytest.mark.parametrize("dim", [1, 5, 50])
def test_they_cover_the_square_of_a_normal_mean(shift: float, dim: int) -> None:
    # |shift + noise|² over dim dimensions: less its bias, the truth is shift²
    draws = torch.randn(1000, dim, generator=torch.Generator().manual_seed(0)).double()
    draws[:, 0] += shift
    plain = draws.square().sum(1)
    ends = [squared_interval(float(p) - dim, float(p), 4 * float(p), 2 * dim) for p in plain]
    covered = sum(low <= shift**2 <= high for low, high in ends)
    assert 925 <= covered <= 995


def test_far_from_zero_it_is_the_normal_interval() -> None:
    low, high = squared_interval(100.0, 100.0, 1e-4, 0.0)
    assert (low, high) == pytest.approx((100 - 1.96 * 1e-2, 100 + 1.96 * 1e-2), rel=1e-5)


def test_nothing_at_all_still_has_an_upper_end() -> None:
    assert squared_interval(-1.0, 0.0, 0.0, 2.0) == pytest.approx((0.0, 1.96 * math.sqrt(2)), rel=1e-3)
