"""DDPM's own sampler: the reverse of each noising step, drawn anew (Ho et al., 2020, arXiv:2006.11239)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor

from diptych.diffusion.samplers.sampler import Denoise, Moments, renoised, sampler, straight
from diptych.errors import WrongUse
from diptych.model import Noise

Variance = Literal["small", "large", "learned"]
VARIANCES = get_args(Variance)


@sampler("ddpm", order=0)
def ddpm(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, variance: Variance = "small"
) -> Tensor:
    """Ancestral sampling (algorithm 2), of any steps of the schedule.

    variance: "small", the posterior's given a clean image; "large", beta; "learned", between the two in log
    where the network says (improved DDPM, Nichol and Dhariwal, 2021, arXiv:2102.09672, equation 15).
    """
    if variance == "learned":
        return learned(denoise, x, sigmas, noise)
    for sigma, following in pairwise(sigmas):
        deviation = bounds(sigma, following)[variance == "large"] if following else 0.0
        x = renoised(straight(denoise, x, sigma, (following / sigma) ** 2), noise, deviation)
    return x


def learned(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Ancestral sampling with the network's own variances."""
    if not isinstance(denoise, Moments):
        raise WrongUse("this denoiser has learned no variances", "use variance small or large")
    for sigma, following in pairwise(sigmas):
        clean, fraction = denoise.moments(x, sigma)
        x = clean.lerp(x, (following / sigma) ** 2)
        if following:
            small, large = bounds(sigma, following)
            deviation = fraction.mul(math.log(large / small)).exp()
            x = x.addcmul(deviation, noise.normal(*x.shape[1:]), value=small)
    return x


def bounds(sigma: float, following: float) -> tuple[float, float]:
    """The deviations of a step backwards if the data were one point, and if they were normal.

    sqrt(beta tilde) and sqrt(beta) of a variance-preserving process, divided by the next step's alpha.
    """
    root = math.sqrt((sigma - following) * (sigma + following))
    return following / sigma * root, math.sqrt((1 + following**2) / (1 + sigma**2)) * root
