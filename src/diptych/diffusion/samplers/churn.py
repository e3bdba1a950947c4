"""Heun's method with noise added on the way, which lets later steps correct what earlier ones did wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.grids import karras
from diptych.diffusion.samplers.heun import heun_step
from diptych.diffusion.samplers.sampler import Denoise, renoised, sampler
from diptych.errors import WrongUse
from diptych.model import Noise


@sampler("edm-stochastic", order=0, calls=2)
def edm_stochastic(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    churn: float = 40.0,
    S_tmin: float = 0.05,
    S_tmax: float = 50.0,
    S_noise: float = 1.003,
    whole: Sequence[float] = (),
) -> Tensor:
    """EDM's stochastic sampler (Karras et al., 2022, arXiv:2206.00364, algorithm 2, its values for ImageNet).

    churn: S_churn, how much noise is renewed in all; S_tmin, S_tmax: where; S_noise: its deviation; whole:
    the levels of which `sigmas` is a stretch, where it is not all.
    """
    gamma = min(churn / (len(whole or sigmas) - 1), math.sqrt(2) - 1)
    for sigma, following in pairwise(sigmas):
        higher = sigma * (1 + gamma) if S_tmin <= sigma <= S_tmax else sigma
        x = renoised(x, noise, S_noise * math.sqrt(higher**2 - sigma**2))
        x = heun_step(denoise, x, higher, following)
    return x


@sampler("restart", order=0, calls=2)
def restart(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    restarts: int = 2,
    restart_steps: int = 3,
    restart_low: float = 0.06,
    restart_high: float = 0.3,
    whole: Sequence[float] = (),
) -> Tensor:
    """Restart (Xu et al., 2023, arXiv:2306.14878, algorithm 1): Heun, and at one level back up, some times.

    restarts: how often (K); restart_steps: levels of each way down, both ends counted; restart_low, high:
    the levels between which it goes back and forth; the lower one is the nearest of `whole`, the levels of
    which `sigmas` is a stretch, where it is not all.
    """
    if restarts < 0 or restart_steps < 2 or not 0 < restart_low < restart_high:
        raise WrongUse(
            "restart needs restarts >= 0, restart_steps >= 2 and levels 0 < restart_low < restart_high"
        )
    inner = [sigma for sigma in (whole or sigmas)[1:] if 0 < sigma < restart_high]
    low = min(inner, key=lambda sigma: abs(math.log(sigma / restart_low)), default=0.0)
    again = karras(restart_steps, low, restart_high)[:-1] if low else []
    for sigma, following in pairwise(sigmas):
        x = heun_step(denoise, x, sigma, following)
        for _ in range(restarts if again and following == low else 0):
            x = renoised(x, noise, math.sqrt(restart_high**2 - low**2))
            for start, end in pairwise(again):
                x = heun_step(denoise, x, start, end)
    return x
