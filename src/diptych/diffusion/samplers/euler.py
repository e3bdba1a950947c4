"""First order: Euler along the probability-flow ODE, with fresh noise or without."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.options import Eta
from diptych.diffusion.samplers.sampler import Denoise, ancestral, renoised, sampler, straight
from diptych.model import Noise


@sampler("euler", order=1)
def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """dx/dsigma = (x - D(x)) / sigma; equals DDIM with eta = 0."""
    return towards(denoise, x, sigmas, noise, 0.0)


@sampler("ddim", order=1)
def ddim(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: Eta = 0.0) -> Tensor:
    """DDIM (Song et al., 2021, arXiv:2010.02502, equation 12); eta = 1 is DDPM with the small variance."""
    return towards(denoise, x, sigmas, noise, eta)


@sampler("euler-ancestral", order=0)
def euler_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: Eta = 1.0
) -> Tensor:
    """Euler to below the next level, then noise up to it: DDIM by the name and default of k-diffusion."""
    return towards(denoise, x, sigmas, noise, eta)


def towards(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float) -> Tensor:
    """Steps straight to the clean image, and noise of eta times the posterior's deviation."""
    for sigma, following in pairwise(sigmas):
        down, up = ancestral(sigma, following, eta)
        x = renoised(straight(denoise, x, sigma, down / sigma), noise, up)
    return x
