"""Grids: the noise levels that a sampler visits, falling, the last of them 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from diptych.diffusion.samplers.sampler import NOISE_ALONE
from diptych.diffusion.schedules import PURE, Schedule
from diptych.errors import WrongUse

LOWEST, HIGHEST = 0.002, PURE  # an image to a quarter of an 8-bit level; noise

Grid = Callable[[int, float, float, Schedule], list[float]]  # steps, the ends, a schedule -> steps + 1 levels


def karras(
    steps: int, sigma_min: float, sigma_max: float, schedule: Schedule | None = None, rho: float = 7.0
) -> list[float]:
    """Levels from sigma_max to sigma_min, then 0 (Karras et al., 2022, equation 5)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + i / max(1, steps - 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


def linear(steps: int, sigma_min: float, sigma_max: float, schedule: Schedule | None = None) -> list[float]:
    """Equal steps of sigma from sigma_max to sigma_min, then 0."""
    return karras(steps, sigma_min, sigma_max, rho=1.0)


def log_snr(steps: int, sigma_min: float, sigma_max: float, schedule: Schedule | None = None) -> list[float]:
    """Equal steps of log sigma from sigma_max to sigma_min, then 0: k-diffusion's "exponential"."""
    return [sigma_max * (sigma_min / sigma_max) ** (i / max(1, steps - 1)) for i in range(steps)] + [0.0]


def geometric(
    steps: int, sigma_min: float, sigma_max: float, schedule: Schedule | None = None
) -> list[float]:
    """Levels spaced evenly in log sigma from sigma_max towards sigma_min, which is left out, then 0."""
    return [sigma_max * (sigma_min / sigma_max) ** (i / steps) for i in range(steps)] + [0.0]


def beta(steps: int, sigma_min: float, sigma_max: float, schedule: Schedule) -> list[float]:
    """Times of the schedule at equal quantiles of Beta(0.6, 0.6): most steps at both ends
    (Lee et al., 2024, arXiv:2407.12173)."""
    ends = schedule.time(torch.tensor([sigma_min, sigma_max], dtype=torch.float64)).tolist()
    times = [ends[0] + (ends[1] - ends[0]) * q for q in quantiles(steps)]
    levels = schedule.level(torch.tensor(times, dtype=torch.float64)).tolist()
    return falling([sigma_max, *levels[1:]], schedule)


def beta_sigma(
    steps: int, sigma_min: float, sigma_max: float, schedule: Schedule | None = None
) -> list[float]:
    """The same quantiles of sigma itself, as `use_beta_sigmas` of diffusers' discrete schedulers has it."""
    return [sigma_min + (sigma_max - sigma_min) * q for q in quantiles(steps)] + [0.0]


def quantiles(steps: int) -> list[float]:
    """Of Beta(0.6, 0.6), from 1 to 0."""
    from scipy.stats import beta as distribution

    places = [1 - i / max(1, steps - 1) for i in range(steps)]
    return [float(q) for q in distribution.ppf(places, 0.6, 0.6)]


def trailing(steps: int, sigma_min: float, sigma_max: float, schedule: Schedule) -> list[float]:
    """The schedule's own time in equal steps from its end (Lin et al., 2023, arXiv:2305.08891, table 2)."""
    check(steps, sigma_min, sigma_max, schedule)
    n = len(schedule.exact)
    rows = (np.arange(n, 0, -n / steps).round().astype(int) - 1).tolist()[:steps] if n else ()
    return follow(schedule, rows, [1 - i / steps for i in range(steps)])


def leading(steps: int, sigma_min: float, sigma_max: float, schedule: Schedule) -> list[float]:
    """The schedule's own time in equal steps down to its beginning: the noisiest step is left out (DDIM)."""
    check(steps, sigma_min, sigma_max, schedule)
    n = len(schedule.exact)
    rows = [i * (n // steps) for i in reversed(range(steps))]
    return follow(schedule, rows, [i / steps for i in reversed(range(steps))])


def linspace(steps: int, sigma_min: float, sigma_max: float, schedule: Schedule) -> list[float]:
    """The schedule's own time in equal steps from its end to its beginning, both included."""
    check(steps, sigma_min, sigma_max, schedule)
    n = len(schedule.exact)
    rows = np.linspace(0, n - 1, steps).round().astype(int).tolist()[::-1]
    return follow(schedule, rows, np.linspace(1, 0, steps).tolist())


def check(steps: int, sigma_min: float, sigma_max: float, schedule: Schedule) -> None:
    """Raises WrongUse where a schedule is asked for more steps than it has, or for other ends."""
    low, high = schedule.ends()
    if not (math.isclose(low, sigma_min, rel_tol=1e-4) and math.isclose(high, sigma_max, rel_tol=1e-4)):
        raise WrongUse(
            "this grid takes its ends from the schedule, not from sigma_min and sigma_max",
            "karras, linear and log-snr run between any two levels",
        )
    if schedule.exact and steps > len(schedule.exact):
        raise WrongUse(
            f"the schedule has {len(schedule.exact)} steps, fewer than {steps}",
            f"take at most {len(schedule.exact)} steps, or the grid karras",
        )


def follow(schedule: Schedule, rows: Sequence[int], times: Sequence[float]) -> list[float]:
    """The levels of these steps where the schedule has steps, else of these times; then 0."""
    if len(times) == 1:  # the only step must be the noisiest: what diffusers takes is the cleanest
        return [schedule.ends()[1], 0.0]
    if schedule.exact:
        return falling([schedule.exact[row] for row in rows], schedule)
    return falling(schedule.level(torch.tensor(times, dtype=torch.float64)).tolist(), schedule)


def falling(levels: list[float], schedule: Schedule) -> list[float]:
    """The levels and 0. Raises WrongUse where two of them are the same."""
    if any(a <= b for a, b in pairwise(levels)):
        raise WrongUse(
            f"two of {len(levels)} steps have the same noise level on this schedule",
            "take fewer steps, or the grid karras",
        )
    return [*levels, 0.0]


def useful(schedule: Schedule) -> tuple[float, float]:
    """The ends of a grid that does not follow the schedule: its own, unless it begins at noise alone.

    There its ends are where an infinite level and 0 are cut, and most of the levels between them would be
    wasted on nothing but noise and on nothing but image.
    """
    low, high = schedule.ends()
    return (max(low, LOWEST), HIGHEST) if high > NOISE_ALONE else (low, high)


FOLLOWING = frozenset({"beta", "trailing", "leading", "linspace"})  # the grids that run in a schedule's time
GRIDS: dict[str, Grid] = {
    "karras": karras,
    "linear": linear,
    "log-snr": log_snr,
    "exponential": log_snr,
    "geometric": geometric,
    "beta": beta,
    "beta-sigma": beta_sigma,
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
}
