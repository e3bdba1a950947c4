"""UniPC: a multistep predictor, corrected by the next call at no cost
(Zhao et al., 2023, arXiv:2302.04867)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from torch import Tensor

from diptych.checking import between
from diptych.diffusion.samplers.adams import integrals
from diptych.diffusion.samplers.sampler import Denoise, sampler
from diptych.model import Noise

Order = Annotated[int, between(1, 3, "2 is best at 10 steps; 3 is unipc3")]


@sampler("unipc", order=3)
def unipc(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, order: Order = 2) -> Tensor:
    """UniPC-p of order p = 1 to 3 with B_2(h), of the clean image: very good at 10 steps."""
    return predict_and_correct(denoise, x, sigmas, order)


@sampler("unipc3", order=3)
def unipc3(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """UniPC-3."""
    return predict_and_correct(denoise, x, sigmas, 3)


def predict_and_correct(denoise: Denoise, x: Tensor, sigmas: Sequence[float], order: int) -> Tensor:
    """Predicts the next image, sees it, corrects the step with what is seen, and goes on from there."""
    seen: list[Tensor] = []  # newest first, and the levels where
    levels: list[float] = []
    start, used = x, 0  # where the last step began, and its order
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        clean = denoise(x, sigma)
        if used:
            x = moved(start, [clean, *seen[:used]], [sigma, *levels[:used]], levels[0], sigma)
        seen, levels = [clean, *seen[: order - 1]], [sigma, *levels[: order - 1]]
        if not following:
            return clean
        left = len(sigmas) - 1 - step if sigmas[-1] == 0 else order  # the last steps to 0 are of lower order
        used = min(order, len(seen), left)
        start, x = x, moved(x, seen[:used], levels[:used], sigma, following)
    return x


def moved(
    x: Tensor, seen: Sequence[Tensor], levels: Sequence[float], sigma: float, following: float
) -> Tensor:
    """x from `sigma` to `following`, the clean image between them a polynomial through what was seen where.

    Of two, the mean in the place of the integral (B_2(h) with rho = 1/2), as the paper has it.
    """
    kept = following / sigma
    if len(seen) == 1:
        return seen[0].lerp(x, kept)
    if len(seen) == 2:
        h = math.log(sigma / following)
        (near, other), (first, second) = seen, levels
        if first == sigma:  # a predictor: the slope from the past
            return other.lerp(near, 1 + h / (2 * math.log(second / first))).lerp(x, kept)
        return other.lerp(near, 0.5).lerp(x, kept)
    places = tuple(-math.log(level) for level in levels)
    weights = integrals(places, -math.log(sigma), -math.log(following), 1.0)
    found = x * kept
    for weight, clean in zip(weights, seen, strict=True):
        found = found.add(clean, alpha=weight)
    return found
