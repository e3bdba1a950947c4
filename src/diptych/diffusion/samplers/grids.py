"""Grids: the noise levels that a sampler visits, falling, the last of them 0."""

from __future__ import annotations

from collections.abc import Callable

import torch

from diptych.diffusion.schedules import Schedule, Table

Grid = Callable[[int, float, float, Schedule], list[float]]  # steps, the ends, a schedule -> steps + 1 levels


def karras(
    steps: int, sigma_min: float, sigma_max: float, schedule: Schedule | None = None, rho: float = 7.0
) -> list[float]:
    """Levels from sigma_max to sigma_min, then 0 (Karras et al., 2022, equation 5)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + i / max(1, steps - 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


def geometric(
    steps: int, sigma_min: float, sigma_max: float, schedule: Schedule | None = None
) -> list[float]:
    """Levels spaced evenly in log sigma from sigma_max towards sigma_min, which is left out, then 0."""
    return [sigma_max * (sigma_min / sigma_max) ** (i / steps) for i in range(steps)] + [0.0]


def trailing(steps: int, sigma_min: float, sigma_max: float, schedule: Schedule) -> list[float]:
    """The schedule's own time in equal steps from its end (Lin et al., 2023, arXiv:2305.08891)."""
    if isinstance(schedule, Table):
        n = len(schedule.exact)
        return [schedule.exact[round(n - i * n / steps) - 1] for i in range(steps)] + [0.0]
    times = torch.tensor([1 - i / steps for i in range(steps)], dtype=torch.float64)
    return [*schedule.level(times).tolist(), 0.0]


GRIDS: dict[str, Grid] = {"karras": karras, "geometric": geometric, "trailing": trailing}
