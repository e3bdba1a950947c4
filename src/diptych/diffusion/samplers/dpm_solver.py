"""DPM-Solver: the noise in the image taken as a polynomial of log sigma, the rest solved exactly
(Lu et al., 2022, arXiv:2206.00927)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.options import Eta
from diptych.diffusion.samplers.sampler import NOISE_ALONE, Denoise, ancestral, renoised, sampler
from diptych.model import Noise


@sampler("dpm2", order=2, calls=2)
def dpm2(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: Eta = 0.0) -> Tensor:
    """The midpoint rule in log sigma, by k-diffusion's name."""
    return midpoint(denoise, x, sigmas, noise, eta)


@sampler("dpm2-ancestral", order=0, calls=2)
def dpm2_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: Eta = 1.0
) -> Tensor:
    """The midpoint rule to below the next level, then noise up to it (k-diffusion)."""
    return midpoint(denoise, x, sigmas, noise, eta)


@sampler("dpm-solver-2", order=2, calls=2)
def dpm_solver_2(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """DPM-Solver-2 with r = 1/2 (algorithm 1): in these coordinates dpm2 itself."""
    return midpoint(denoise, x, sigmas, noise, 0.0)


def midpoint(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float) -> Tensor:
    """The whole step with the slope of its geometric middle."""
    for sigma, following in pairwise(sigmas):
        down, up = ancestral(sigma, following, eta)
        clean = denoise(x, sigma)
        reached = clean.lerp(x, down / sigma)
        if down and sigma <= NOISE_ALONE:
            middle = math.sqrt(sigma * down)
            change = denoise(clean.lerp(x, middle / sigma), middle) - clean
            reached = reached.add(change, alpha=(sigma - down) / middle)
        x = renoised(reached, noise, up)
    return x


@sampler("dpm-solver-3", order=3, calls=3)
def dpm_solver_3(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """DPM-Solver-3 with r_1 = 1/3, r_2 = 2/3 (algorithm 2)."""
    for sigma, following in pairwise(sigmas):
        clean = denoise(x, sigma)
        reached = clean.lerp(x, following / sigma)
        if following and sigma <= NOISE_ALONE:
            h = math.log(sigma / following)
            first, second = sigma * math.exp(-h / 3), sigma * math.exp(-2 * h / 3)
            early = denoise(clean.lerp(x, first / sigma), first) - clean
            a = 2 * second / first * (math.expm1(2 * h / 3) / (2 * h / 3) - 1)
            b = 1.5 * following / second * (math.expm1(h) / h - 1)
            late = denoise(clean.lerp(x, second / sigma).add(early, alpha=a), second) - clean
            reached = reached.add(late, alpha=b).add(early, alpha=-a * b)
        x = reached
    return x
