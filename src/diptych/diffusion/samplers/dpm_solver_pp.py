"""DPM-Solver++: the clean image taken as a polynomial of log sigma, the rest solved exactly
(Lu et al., 2022, arXiv:2211.01095). Here: one network call a step, the last ones remembered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diptych.diffusion.samplers.options import Eta
from diptych.diffusion.samplers.sampler import Denoise, renoised, sampler
from diptych.model import Noise


@sampler("dpm++2m", order=2)
def dpm_pp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """DPM-Solver++(2M) (algorithm 2): the safe choice for 10 to 30 calls."""
    return two_steps(denoise, x, sigmas, noise, 0.0)


@sampler("dpm++2m-sde", order=0)
def dpm_pp_2m_sde(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: Eta = 1.0
) -> Tensor:
    """SDE-DPM-Solver++(2M): the same for the reverse SDE; eta as in k-diffusion, 0: dpm++2m."""
    return two_steps(denoise, x, sigmas, noise, eta)


def two_steps(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float) -> Tensor:
    """Extrapolates the clean image to the middle of the step from this level and the one before."""
    before, h_before = None, 0.0
    for sigma, following in pairwise(sigmas):
        clean = denoise(x, sigma)
        if not following:
            return clean
        h, kept = math.log(sigma / following), following / sigma
        if before is None:
            x = clean.lerp(x, kept ** (1 + eta))
        else:
            x = before.lerp(clean, 1 + h / (2 * h_before)).lerp_(x, kept ** (1 + eta))
        x = renoised(x, noise, following * math.sqrt(1 - kept ** (2 * eta)))
        before, h_before = clean, h
    return x


@sampler("dpm++3m", order=2)
def dpm_pp_3m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """The multistep DPM-Solver++ that remembers two calls, as its authors, diffusers and k-diffusion have it.

    Their weight of the second derivative is half of the integral's, so that it converges at second order,
    with a smaller error than dpm++2m; unipc3 has the integral's.
    """
    seen: list[Tensor] = []
    hs: list[float] = []
    for sigma, following in pairwise(sigmas):
        seen = [denoise(x, sigma), *seen[:2]]
        if not following:
            return seen[0]
        h, kept = math.log(sigma / following), following / sigma
        if len(seen) == 3:
            phi_2 = 1 + math.expm1(-h) / h
            phi_3 = phi_2 / h - 0.5
            r_0, r_1 = hs[0] / h, hs[1] / h
            # d_0 and d_1 are the slopes over the last step and the one before
            of_d_0, of_d_1 = phi_2 * (1 + r_0 / (r_0 + r_1)), -phi_2 * r_0 / (r_0 + r_1)
            of_d_0, of_d_1 = of_d_0 - phi_3 / (r_0 + r_1), of_d_1 + phi_3 / (r_0 + r_1)
            x = seen[0].lerp(x, kept).add(seen[0] - seen[1], alpha=of_d_0 / r_0)
            x = x.add(seen[1] - seen[2], alpha=of_d_1 / r_1)
        else:
            middle = seen[0] if len(seen) == 1 else seen[1].lerp(seen[0], 1 + h / (2 * hs[0]))
            x = middle.lerp(x, kept)
        hs = [h, *hs[:1]]
    return x
