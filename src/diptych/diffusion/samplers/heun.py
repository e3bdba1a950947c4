"""Second order: Heun's method along the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.sampler import NOISE_ALONE, Denoise, sampler
from diptych.model import Noise


@sampler("heun", order=2, calls=2)
def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Two evaluations a step but for the last (EDM, Karras et al., 2022, arXiv:2206.00364, algorithm 1)."""
    for sigma, following in pairwise(sigmas):
        x = heun_step(denoise, x, sigma, following)
    return x


@sampler("flow-heun", order=2, calls=2)
def flow_heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Heun where rectified flows are straight, in y = x / (1 + sigma) over t = sigma / (1 + sigma).

    Of second order from pure noise on, where sigma is infinite and t is 1.
    """
    for sigma, following in pairwise(sigmas):
        x = heun_step(denoise, x, sigma, following, (1 + following) / (1 + sigma))
    return x


def heun_step(
    denoise: Denoise, x: Tensor, sigma: float, following: float, stretch: float | None = None
) -> Tensor:
    """Euler's step, and half of what the clean image changes by until its end: 1/2 (slope' - slope) dsigma.

    stretch: of the second term in other coordinates than x and sigma; Euler's step is the same in all. In
    sigma a step from noise alone is left to Euler: there it is exact, and the second slope magnified.
    """
    clean = denoise(x, sigma)
    reached = clean.lerp(x, following / sigma)
    if not following or (stretch is None and sigma > NOISE_ALONE):
        return reached
    stretch = 1.0 if stretch is None else stretch
    # (reached - D') / sigma' - (x - D) / sigma = (D - D') / sigma', because reached lies on the first line
    change = denoise(reached, following) - clean
    return reached.add(change, alpha=stretch * (sigma - following) / (2 * following))
