"""Second order: Heun's method along the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.sampler import Denoise, sampler
from diptych.model import Noise


@sampler("heun", order=2, calls=2)
def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Two evaluations a step but for the last (Karras et al., 2022, algorithm 1)."""
    for sigma, following in pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        reached = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (reached - denoise(reached, following)) / following) / 2
            reached = x + (following - sigma) * slope
        x = reached
    return x
