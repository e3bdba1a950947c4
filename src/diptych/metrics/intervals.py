"""95 % intervals that several metrics share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diptych.errors import NotMeasurable

Z = 1.959964  # the normal distribution's 97.5 % point


def wilson(share: float, n: float) -> tuple[float, float]:
    """Of a proportion seen in n cases (Wilson, 1927)."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def normal(value: float, error: float) -> tuple[float, float]:
    """Of an estimate with this standard error."""
    return value - Z * error, value + Z * error


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values (N,)."""
    return float(values.double().std() / math.sqrt(len(values)))


def proportion(share: float, n: int, error: float) -> tuple[float, float]:
    """Of a share of n with this standard error: Wilson's, for as many independent cases as that tells."""
    cases = share * (1 - share) / error**2 if error else n
    return wilson(share, min(n, max(1.0, cases)))


def subset_errors(
    statistic: Callable[[Tensor, Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    repeats: int = 24,
    most: int = 1000,
) -> Tensor:
    """Standard errors of a statistic's values (S,) over the images of both sets (N, D) and (M, D).

    The delete-d jackknife (Shao and Wu, 1989): from subsets of half of each set, or of `most`. A bootstrap
    would repeat images, which are then their own nearest neighbours.
    """
    stream = torch.Generator().manual_seed(0)
    half = max(1, min(most, len(real) // 2, len(fake) // 2))

    def subset(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=stream)[:half]]

    values = torch.stack([statistic(subset(real), subset(fake)).double() for _ in range(repeats)])
    smaller = min(len(real), len(fake))
    return values.std(0) * math.sqrt(half / (smaller - half))


def enough(what: str, needed: int, *samples: Tensor) -> None:
    """Raises NotMeasurable where a sample has fewer than `needed` rows."""
    smallest = min(map(len, samples))
    if smallest < needed:
        raise NotMeasurable(
            f"{what} needs {needed} real and {needed} fake images or more; there are {smallest}"
        )


def rank_interval(n: int, quantile: float) -> tuple[int, int]:
    """Places (from 0) in n sorted values that enclose a quantile with 95 % probability, as far as n allows.

    The number of values below the quantile is binomial; no distribution is assumed.
    """
    k = torch.arange(n + 1, dtype=torch.float64)
    choose = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    below = (choose + k * math.log(quantile) + (n - k) * math.log1p(-quantile)).exp().cumsum(0)
    low = int((below <= 0.025).sum()) - 1
    high = int((below < 0.975).sum())
    return max(low, 0), min(high, n - 1)
