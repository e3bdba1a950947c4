"""First order: Euler along the probability-flow ODE, which is DDIM with eta = 0."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.sampler import Denoise, sampler
from diptych.model import Noise


@sampler("euler", order=1)
def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """dx/dsigma = (x - D(x)) / sigma; equals DDIM with eta = 0."""
    for sigma, following in pairwise(sigmas):
        x = denoise(x, sigma).lerp(x, following / sigma)
    return x
