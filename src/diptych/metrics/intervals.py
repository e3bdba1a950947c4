"""Standard errors, replicates and 95 % intervals that several metrics share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.errors import NotMeasurable

Z = 1.959964  # the normal distribution's 97.5 % point
REPEATS = 100  # replicates of a score


def wilson(share: float, n: float) -> tuple[float, float]:
    """Of a proportion seen in n cases (Wilson, 1927)."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def normal(value: float, error: float) -> tuple[float, float]:
    """Of an estimate with this standard error."""
    return value - Z * error, value + Z * error


def corrected(value: float, spread: Spread) -> tuple[float, float]:
    """Of an estimate whose influence values may be skewed: by the transformation of Hall (1992, JRSS B 54).

    A few images that weigh much make an estimate low and sure more often than high. No end comes nearer.
    """
    low, high = normal(value, spread.error)
    a = max(-1.0, min(1.0, spread.skew))
    if abs(a) < 1e-6:
        return low, high
    below, above = (3 / a * float(np.cbrt(1 + a * (z - a / 6)) - 1) for z in (Z, -Z))
    return min(low, value - spread.error * below), max(high, value - spread.error * above)


def proportion(share: float, n: int, error: float) -> tuple[float, float]:
    """Of a share of n with this standard error: Wilson's, for as many independent cases as that tells."""
    # a share of 0 or 1 says little of its variance: two cases of each kind are added (Agresti, Coull, 1998)
    likely = (share * n + 2) / (n + 4)
    cases = likely * (1 - likely) / error**2 if error else n
    return wilson(share, min(n, max(1.0, cases)))


def rate(value: float, unit: float, error: float, most: float) -> tuple[float, float]:
    """Of a mean of counts with this standard error, to which each count adds `unit`: a score interval.

    Counts come in clusters: as large as the error tells, or of `most` where nothing was counted.
    """
    counts = value / unit
    cluster = max(1.0, (error / unit) ** 2 / counts) if counts else most
    cases = counts / cluster
    half = Z * math.sqrt(cases + Z**2 / 4)
    low, high = (unit * cluster * max(0.0, cases + Z**2 / 2 + side * half) for side in (-1, 1))
    return low, high


class Spread(NamedTuple):
    """How a score moves when the images are drawn anew."""

    error: float  # standard error
    replicates: tuple[float, ...] = ()  # (REPEATS,) deviations, see Estimate
    skew: float = 0.0  # skewness of the estimate, where it is known


def from_influence(real: Tensor | None, fake: Tensor | None) -> Spread:
    """Of a score that is about the truth plus the means of these influence values, (N,) and (M,).

    The error is exact; the replicates are a multiplier bootstrap with fixed signs.
    """
    variance, third, replicates = 0.0, 0.0, np.zeros(REPEATS)
    for side, influence in enumerate((real, fake)):
        if influence is not None:
            values = influence.double().cpu().numpy()
            centred = (values - values.mean()) * math.sqrt(1 / max(1, len(values) - 1) / len(values))
            variance += float((centred**2).sum())
            third += float((centred**3).sum())
            replicates += _signs(len(values), side) @ centred
    return Spread(math.sqrt(variance), rounded(replicates), third / variance**1.5 if variance else 0.0)


def from_subsets(
    statistic: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor, most: int = 1000
) -> list[Spread]:
    """Of each of a statistic's values (S,), over the images of both sets (N, D) and (M, D).

    The delete-d jackknife (Shao and Wu, 1989). A bootstrap would repeat images, which are then their own
    nearest neighbours.
    """
    pairs, scale = subsets(len(real), len(fake), most)
    return spreads(torch.stack([statistic(real[a], fake[b]).double().cpu() for a, b in pairs]), scale)


def subsets(n: int, m: int, most: int = 1000) -> tuple[list[tuple[Tensor, Tensor]], float]:
    """REPEATS pairs of rows of n reals and m fakes: half of each, or fewer so that neither has over `most`.

    The same ones always.

    Also what the spread of a statistic over them is multiplied by to be that over whole sets.
    """
    share = min(0.5, most / max(n, m))
    reals, fakes = max(1, int(share * n)), max(1, int(share * m))
    pairs = [(_rows(n, reals, repeat, 0), _rows(m, fakes, repeat, 1)) for repeat in range(REPEATS)]
    return pairs, math.sqrt(share / (1 - share))


def spreads(values: Tensor, scale: float) -> list[Spread]:
    """Of each column of a statistic's values over subsets (REPEATS, S)."""
    deviations = (values - values.mean(0)).numpy() * scale
    errors = deviations.std(0, ddof=1)
    return [Spread(float(e), rounded(d)) for e, d in zip(errors, deviations.T, strict=True)]


def rounded(replicates: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Four digits are enough for a standard error, and reports stay short."""
    return tuple(float(f"{value:.4g}") for value in replicates)


@lru_cache(maxsize=4)
def _signs(n: int, side: int) -> npt.NDArray[np.float64]:
    # from the raw stream, which NumPy never changes: reports of different versions stay comparable
    words = np.random.PCG64([n, side]).random_raw(REPEATS * -(-n // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8)).reshape(REPEATS, -1)
    return bits[:, :n].astype(np.float64) * 2 - 1


def _rows(n: int, size: int, repeat: int, side: int) -> Tensor:
    order = np.argsort(np.random.PCG64([n, repeat, side]).random_raw(n), kind="stable")
    return torch.from_numpy(np.sort(order[:size]))


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
