"""Linear multistep methods: a polynomial through what the last calls saw, integrated over the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated

import numpy as np
from torch import Tensor

from diptych.checking import at_least
from diptych.diffusion.samplers.sampler import Denoise, sampler
from diptych.model import Noise

NODES, WEIGHTS = (tuple(values.tolist()) for values in np.polynomial.legendre.leggauss(32))
Order = Annotated[int, at_least(1, "3 and 4 are usual; 1 is euler")]
Weights = Callable[[Sequence[float], float], Sequence[float]]  # the last levels, the next: of each noise


@lru_cache(maxsize=4096)
def integrals(nodes: tuple[float, ...], begin: float, end: float, rate: float = 0.0) -> tuple[float, ...]:
    """Of each Lagrange polynomial on the nodes, times exp(rate (t - end)), over t from begin to end."""
    found = [0.0] * len(nodes)
    for place, weight in zip(NODES, WEIGHTS, strict=True):
        t = begin + (end - begin) * (place + 1) / 2
        scale = weight * (end - begin) / 2 * math.exp(rate * (t - end))
        for j, own in enumerate(nodes):
            others = (other for k, other in enumerate(nodes) if k != j)
            found[j] += scale * math.prod((t - other) / (own - other) for other in others)
    return tuple(found)


def multistep(denoise: Denoise, x: Tensor, sigmas: Sequence[float], order: int, weights: Weights) -> Tensor:
    """x' = x + sum_j w_j eps_j over the last `order` calls, eps = (x - D(x)) / sigma."""
    levels: list[float] = []
    before: list[Tensor] = []  # sigma eps of the earlier calls, newest first
    for sigma, following in pairwise(sigmas):
        clean = denoise(x, sigma)
        levels = [sigma, *levels[: order - 1]]
        first, *rest = (w / s for w, s in zip(weights(levels, following), levels, strict=True))
        moved = clean.lerp(x, 1 + first)
        for weight, noise in zip(rest, before, strict=True):
            moved = moved.add(noise, alpha=weight)
        if order > 1:
            before = [x - clean, *before[: order - 2]]
        x = moved
    return x


@sampler("lms", order=2)
def lms(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, order: Order = 4) -> Tensor:
    """Adams-Bashforth in sigma (k-diffusion's LMS)."""

    def weights(levels: Sequence[float], following: float) -> Sequence[float]:
        return integrals(tuple(levels), levels[0], following)

    return multistep(denoise, x, sigmas, order, weights)


@sampler("deis", order=2)
def deis(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, order: Order = 3) -> Tensor:
    """Adams-Bashforth in log sigma: tAB-DEIS (Zhang and Chen, 2023, arXiv:2204.13902)."""

    def weights(levels: Sequence[float], following: float) -> Sequence[float]:
        if not following:  # log sigma never gets there: straight to the clean image
            return [-levels[0], *[0.0] * (len(levels) - 1)]
        logs = tuple(map(math.log, levels))
        return [following * w for w in integrals(logs, logs[0], math.log(following), 1.0)]

    return multistep(denoise, x, sigmas, order, weights)


@sampler("ipndm", order=2)
def ipndm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, order: Order = 4) -> Tensor:
    """Adams-Bashforth with the weights of equal steps, whatever the levels: improved PNDM
    (Liu et al., 2022, arXiv:2202.09778; Zhang and Chen, 2023, arXiv:2204.13902, appendix)."""

    def weights(levels: Sequence[float], following: float) -> Sequence[float]:
        equal = integrals(tuple(-float(k) for k in range(len(levels))), 0.0, 1.0)
        return [(following - levels[0]) * w for w in equal]

    return multistep(denoise, x, sigmas, order, weights)
