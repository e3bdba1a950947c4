"""Samplers as pure functions of a denoiser, a start, a list of noise levels and a stream of noise.

Noise levels are Python floats, so that a whole sampler exports as one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from diptych.model import Noise

Denoise = Callable[[Tensor, float], Tensor]  # a noisy batch and its level -> a clean batch
Sampler = Callable[[Denoise, Tensor, Sequence[float], Noise], Tensor]
Grid = Callable[[int, float, float], list[float]]


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """Levels from sigma_max to sigma_min, then 0 (Karras et al., 2022, equation 5). `steps` + 1 values."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + i / max(1, steps - 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


def geometric(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Levels spaced evenly in log sigma from sigma_max towards sigma_min, which is left out, then 0."""
    return [sigma_max * (sigma_min / sigma_max) ** (i / steps) for i in range(steps)] + [0.0]


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """First order along the probability-flow ODE dx/dsigma = (x - D(x)) / sigma; equals DDIM with eta = 0."""
    for sigma, following in pairwise(sigmas):
        x = denoise(x, sigma).lerp(x, following / sigma)
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Second order, two evaluations a step but for the last (Karras et al., 2022, algorithm 1)."""
    for sigma, following in pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        reached = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (reached - denoise(reached, following)) / following) / 2
            reached = x + (following - sigma) * slope
        x = reached
    return x


def consistency(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Jump to a clean image, add noise of the next level, jump again (Song et al., 2023, algorithm 1)."""
    for sigma, following in pairwise(sigmas):
        x = denoise(x, sigma)
        if following > 0:
            x = x + following * noise.normal(*x.shape[1:])
    return x


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "consistency": consistency}
GRIDS: dict[str, Grid] = {"karras": karras, "geometric": geometric}
