"""95 % intervals of squared distances, whose first order vanishes where the truth is zero."""

from __future__ import annotations

import math

from diptych.metrics.intervals import Z


def squared_interval(value: float, plain: float, first: float, second: float) -> tuple[float, float]:
    """Of a squared distance without bias, from its plain (biased) value and variances.

    `first` is the delta method's variance, which grows with the truth as first / plain. `second` is the
    variance that is left where the truth is 0. As in Wilson's interval, those truths t are taken for which
    (value - t)² <= Z² (second + t first / plain).
    """
    slope = first / plain if plain > 0 else 0.0
    centre = value + Z**2 * slope / 2
    half = math.sqrt(max(0.0, Z**2 * (second + slope * value) + (Z**2 * slope / 2) ** 2))
    return max(0.0, centre - half), max(centre + half, Z * math.sqrt(second))
