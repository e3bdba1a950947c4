"""DPM-Solver++, singlestep (Lu et al., 2022, arXiv:2211.01095): nothing is remembered from step to step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.options import Eta
from diptych.diffusion.samplers.sampler import Denoise, ancestral, renoised, sampler
from diptych.model import Noise


@sampler("dpm++2s", order=2, calls=2)
def dpm_pp_2s(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: Eta = 0.0
) -> Tensor:
    """DPM-Solver++(2S) with r = 1/2 (algorithm 1); eta = 1 is k-diffusion's 2S ancestral."""
    for sigma, following in pairwise(sigmas):
        down, up = ancestral(sigma, following, eta)
        clean = denoise(x, sigma)
        if down:
            middle = math.sqrt(sigma * down)
            clean = denoise(clean.lerp(x, middle / sigma), middle)
        x = renoised(clean.lerp(x, down / sigma), noise, up)
    return x


@sampler("dpm++sde", order=0, calls=2)
def dpm_pp_sde(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: Eta = 1.0
) -> Tensor:
    """The same for the reverse SDE (k-diffusion's dpmpp_sde): the middle is reached with noise, too."""
    for sigma, following in pairwise(sigmas):
        clean = denoise(x, sigma)
        if not following:
            return clean
        middle = math.sqrt(sigma * following)
        (down_1, up_1), (down, up) = (ancestral(sigma, end, eta) for end in (middle, following))
        first, second = noise.normal(*x.shape[1:]), noise.normal(*x.shape[1:])
        clean = denoise(clean.lerp(x, down_1 / sigma).add(first, alpha=up_1), middle)
        # the noise until the middle is a part of the whole step's: the share that comes through to its end
        share = min(up, up_1 * down / down_1) if down_1 else 0.0
        rest = math.sqrt((up - share) * (up + share))
        x = clean.lerp(x, down / sigma).add(first, alpha=share).add(second, alpha=rest)
    return x


@sampler("dpm++3s", order=3, calls=3)
def dpm_pp_3s(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """DPM-Solver++(3S) with r_1 = 1/3, r_2 = 2/3."""
    for sigma, following in pairwise(sigmas):
        clean = denoise(x, sigma)
        reached = clean.lerp(x, following / sigma)
        if following:
            h = math.log(sigma / following)
            first, second = sigma * math.exp(-h / 3), sigma * math.exp(-2 * h / 3)
            early = denoise(clean.lerp(x, first / sigma), first) - clean
            a = 2 * (1 + math.expm1(-2 * h / 3) / (2 * h / 3))
            b = 1.5 * (1 + math.expm1(-h) / h)
            late = denoise(clean.lerp(x, second / sigma).add(early, alpha=a), second) - clean
            reached = reached.add(late, alpha=b)
        x = reached
    return x
