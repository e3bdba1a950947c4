"""For consistency models, whose denoisers jump from any level to the end of the ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.sampler import Denoise, sampler
from diptych.model import Noise


@sampler("consistency", order=0, jumps=True)
def consistency(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Jump to a clean image, add noise of the next level, jump again (Song et al., 2023, algorithm 1)."""
    for sigma, following in pairwise(sigmas):
        x = denoise(x, sigma)
        if following > 0:
            x = x + following * noise.normal(*x.shape[1:])
    return x
