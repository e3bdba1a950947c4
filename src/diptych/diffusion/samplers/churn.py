"""Heun's method with noise added on the way, which lets later steps correct what earlier ones did wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from torch import Tensor

from diptych.checking import Within, at_least, between
from diptych.diffusion.samplers.grids import karras
from diptych.diffusion.samplers.heun import heun_step
from diptych.diffusion.samplers.sampler import Denoise, renoised, sampler
from diptych.errors import WrongUse
from diptych.model import Noise

Churn = Annotated[
    float,
    between(0, 1000, "40 is EDM's for ImageNet; 0.41 times the steps is the most that has an effect"),
]
Deviation = Annotated[float, at_least(0, "1 is the noise itself; 1.003 and 1.007 are EDM's")]
Level = Annotated[float, at_least(0, "it is a noise level: 0.05 and 50 are EDM's for ImageNet")]
Restarts = Annotated[int, at_least(0, "0 is heun")]
RestartSteps = Annotated[int, at_least(2, "both ends are counted")]
RestartLevel = Annotated[float, Within(lambda value: value > 0, "above 0", "it is a noise level")]


def span(*, S_tmin: float, S_tmax: float, **others: object) -> None:
    """Raises WrongUse where noise would be renewed nowhere."""
    if S_tmin > S_tmax:
        raise WrongUse(
            f"S_tmin {S_tmin:g} must not be above S_tmax {S_tmax:g}",
            "they are the noise levels between which noise is renewed",
        )


def way_back(*, restart_low: float, restart_high: float, **others: object) -> None:
    """Raises WrongUse where there is nothing between the level to restart at and the one to go back to."""
    if restart_low >= restart_high:
        raise WrongUse(
            f"restart_low {restart_low:g} must be below restart_high {restart_high:g}",
            "they are the noise levels between which it goes back and forth",
        )


@sampler("edm-stochastic", order=0, calls=2, check=span)
def edm_stochastic(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    churn: Churn = 40.0,
    S_tmin: Level = 0.05,
    S_tmax: Level = 50.0,
    S_noise: Deviation = 1.003,
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


@sampler("restart", order=0, calls=2, check=way_back)
def restart(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    restarts: Restarts = 2,
    restart_steps: RestartSteps = 3,
    restart_low: RestartLevel = 0.06,
    restart_high: RestartLevel = 0.3,
    whole: Sequence[float] = (),
) -> Tensor:
    """Restart (Xu et al., 2023, arXiv:2306.14878, algorithm 1): Heun, and at one level back up, some times.

    restarts: how often (K); restart_steps: levels of each way down, both ends counted; restart_low, high:
    the levels between which it goes back and forth; the lower one is the nearest of `whole`, the levels of
    which `sigmas` is a stretch, where it is not all.
    """
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
