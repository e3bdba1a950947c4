"""Student's t, of however few values. No torch."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

MANY = 1000  # degrees of freedom beyond which Wallace's formula has eight digits


@lru_cache(1024)
def quantile(probability: float, freedom: int) -> float:
    """A quantile of Student's t, by inverting its distribution function; probability above one half."""
    if freedom > MANY:
        z = NormalDist().inv_cdf(probability) * (8 * freedom + 3) / (8 * freedom + 1)
        return math.sqrt(freedom * math.expm1(z * z / freedom))
    low, high = 0.0, 1.0
    while cdf(high, freedom) < probability and high < 1e12:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle, freedom) < probability else (low, middle)
    return high


def cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0 and whole degrees of freedom, in closed form (Abramowitz and Stegun, 26.7.3-4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    even = freedom % 2 == 0
    term, total = (1.0, 1.0) if even else (cosine, cosine if freedom > 1 else 0.0)
    for k in range(2 if even else 3, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    between = sine * total if even else 2 / math.pi * (angle + sine * total)
    return (1 + between) / 2


def two_sided(t: float, degrees: int) -> float:
    """The p-value of Student's t: by the normal that it is close to (Wallace, 1959; 3 digits from 10 on).

    >>> round(two_sided(2.0, 99), 4)
    0.0482
    """
    z = math.sqrt(degrees * math.log1p(t * t / degrees)) * (8 * degrees + 1) / (8 * degrees + 3)
    return math.erfc(z / math.sqrt(2))
