"""Noise levels for a model of one's own: few steps, placed where this model's images are decided.

From the trajectories of some seeds with many steps, dynamic programming finds the levels between which the
errors of single steps add up to least, as GITS does (Chen et al., 2024, arXiv:2405.11326), here for the
sampler's own kind of step; in the spirit of Align Your Steps (Sabour et al., 2024, arXiv:2404.14507) what
counts in the end is the difference from the model's own fine solution, measured on other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diptych.diffusion.levels import noise_levels
from diptych.diffusion.model import DiffusionModel
from diptych.diffusion.samplers import SAMPLERS
from diptych.diffusion.sight import Sight
from diptych.errors import WrongUse
from diptych.model import Condition, Noise

Array = NDArray[np.float64]
# the grids that the found one must beat, as options; trailing has the schedule's own ends
USUAL: dict[str, dict[str, Any]] = {
    "karras": {"grid": "karras", "sigmas": ()},
    "trailing": {"grid": "trailing", "sigmas": (), "sigma_min": 0.0, "sigma_max": 0.0},
}


@dataclass(frozen=True)
class Tuned:
    """Levels that were found, and how far from the fine solution each grid ends."""

    model: DiffusionModel  # with the best of the grids
    sigmas: tuple[float, ...]  # that were found
    errors: dict[str, Tensor] = field(repr=False)  # by grid, "found" first: root mean square an image, (N,)

    @property
    def best(self) -> str:
        """The grid with the least mean error."""
        return min(self.errors, key=lambda name: self.errors[name].mean().item())

    def mean(self, grid: str) -> tuple[float, float]:
        """The mean error of a grid and its standard error."""
        return mean(self.errors[grid])

    def gain(self) -> tuple[float, float]:
        """How much less the found grid's error is than the next best's, and the standard error of that."""
        others = {name: error for name, error in self.errors.items() if name != "found"}
        near = min(others.values(), key=lambda error: error.mean().item())
        return mean(near - self.errors["found"])


def mean(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


@torch.inference_mode()
def tune(
    model: DiffusionModel,
    steps: int,
    *,
    seeds: Sequence[int] = range(32),
    others: Sequence[int] = range(1000, 1032),
    fine: int = 48,
    rounds: int = 3,
    batch: int = 16,
) -> Tuned:
    """Levels for so many steps of the model's own sampler and guidance.

    seeds: what they are found on; others: what they are measured on; fine: steps of the fine solution, whose
    levels are the candidates; rounds: how often each level is then moved to see whether that is better;
    batch: images at once. Raises WrongUse where the sampler draws noise.
    """
    check(model, steps, fine)
    if len(seeds) < 2 or len(others) < 2:
        raise WrongUse(f"{min(len(seeds), len(others))} seeds have no spread", "take 2 or more on each side")
    if set(seeds) & set(others):
        raise WrongUse("the levels must be measured on other seeds than they are found on")
    levels = candidates(model, fine)
    practice = [Case(model, levels, seeds[i : i + batch]) for i in range(0, len(seeds), batch)]
    grids = [[levels[i] for i in path] + [0.0] for path in paths(practice, levels, steps)]
    found = moved(practice, grids + [usual(model, name, steps) for name in USUAL], rounds)
    for case in practice:
        case.seen = None
    exam = [Case(model, levels, others[i : i + batch]) for i in range(0, len(others), batch)]
    compared = {"found": found} | {name: usual(model, name, steps) for name in USUAL}
    errors = {name: difference(exam, grid) for name, grid in compared.items()}
    tuned = Tuned(model, tuple(found), errors)
    better = {"sigmas": tuned.sigmas} if tuned.best == "found" else USUAL[tuned.best]
    return Tuned(model.using(steps=steps, **better), tuned.sigmas, errors)


def check(model: DiffusionModel, steps: int, fine: int) -> None:
    """Raises WrongUse for what cannot be tuned."""
    kind = SAMPLERS[model.options.sampler]
    if not kind.deterministic or model.options.eta:
        able = [s.name for s in SAMPLERS.values() if s.deterministic]
        raise WrongUse(
            f"sampler {kind.name} draws noise, so that there is no solution to come near to",
            f"these can be tuned: {', '.join(able)}",
        )
    if not 2 <= steps <= fine // 2:
        raise WrongUse(f"steps must be from 2 to half of the fine solution's {fine}, not {steps}")


def usual(model: DiffusionModel, name: str, steps: int) -> list[float]:
    """The levels of a grid, as the model would visit them."""
    options = replace(model.options, **{"steps": steps, **USUAL[name]})
    return list(noise_levels(options, model.denoiser.schedule))


def candidates(model: DiffusionModel, fine: int) -> list[float]:
    """Levels that lie closely by every usual measure, falling, without the 0 at the end."""
    most = len(model.denoiser.schedule.exact) or fine
    both = {s for name in USUAL for s in usual(model, name, min(fine // 2 + 1, most)) if s > 0}
    kept: list[float] = []
    for sigma in sorted(both, reverse=True):
        if not kept or sigma < 0.98 * kept[-1]:
            kept.append(sigma)
    return kept


class Case:
    """Some seeds: their noise, the denoiser under their labels, and what the fine solution sees and finds."""

    def __init__(self, model: DiffusionModel, levels: Sequence[float], seeds: Sequence[int]) -> None:
        device = model.device
        self.options, self.level = model.options, levels[0]
        noise = Noise(seeds, device).normal(*model.image_shape)
        self.noise = noise.contiguous(memory_format=torch.channels_last)
        self.denoise = Sight(model.guided(), Condition(label=model.labels_for(seeds)).to(device))
        seen: list[tuple[Tensor, Tensor]] = []

        def watched(x: Tensor, sigma: float) -> Tensor:
            clean = self.denoise(x, sigma)
            seen.append((clean, (x - clean) / sigma))
            return clean

        start = levels[0] * self.noise
        self.solution = SAMPLERS["flow-heun"](watched, start, [*levels, 0.0], Noise(()))
        cleans, noises = zip(*seen[::2], strict=True)  # every second call is at an image that is left again
        self.seen: Tensor | None = torch.stack([*cleans, *noises])  # (2 N, B, C, H, W)

    def error(self, sigmas: Sequence[float]) -> Tensor:
        """How far from the fine solution the model's sampler ends: root mean square, (B,)."""
        sampler, options = SAMPLERS[self.options.sampler], self.options.of_sampler()
        end = sampler(self.denoise, sigmas[0] * self.noise, sigmas, Noise(()), **options)
        return (end - self.solution).square().mean((1, 2, 3)).sqrt().cpu()


def difference(cases: Sequence[Case], sigmas: Sequence[float]) -> Tensor:
    """How far from the fine solution these levels end, an image, (N,)."""
    return torch.cat([case.error(sigmas) for case in cases])


def moved(cases: Sequence[Case], grids: Sequence[Sequence[float]], rounds: int) -> list[float]:
    """The best of these grids, then each of its levels in turn a little up or down where that is better."""

    def error(sigmas: Sequence[float]) -> float:
        return difference(cases, sigmas).mean().item()

    least, best = min((error(grid), place) for place, grid in enumerate(grids))
    found = list(grids[best])
    for turn in range(rounds):
        for i in range(1, len(found) - 1):
            for side in (i - 1, i + 1):
                there = found[side] or found[i] / 4
                tried = [*found]
                tried[i] = found[i] * (there / found[i]) ** (0.4 / 2**turn)
                if (now := error(tried)) < least:
                    found, least = tried, now
    return found


def paths(cases: Sequence[Case], levels: Sequence[float], steps: int) -> list[list[int]]:
    """The best choices of levels, as places in `levels`, by several ways to see a step and to add errors."""
    products = np.zeros((2 * len(levels), 2 * len(levels)))
    spread = torch.cat([case.solution for case in cases]).var(0).mean().item()
    for case in cases:
        assert case.seen is not None
        flat = case.seen.flatten(1).cpu().double()
        products += (flat @ flat.T).numpy() / flat.shape[1] / len(cases)
    found = []
    for kind in ("euler", "two", "trapezoid"):
        errors = step_errors(products, levels, kind) * reaches_the_end(levels, math.sqrt(spread))
        found += [shortest(errors**power, steps) for power in (1.0, 2.0)]
    return found


def step_errors(products: Array, levels: Sequence[float], kind: str) -> Array:
    """Root mean square of the error of a step from level j to k, i the one before: (N + 1, N + 1, N + 1).

    Level N is 0. products: mean products of the trajectory's clean images and noises, (2 N, 2 N). kind: what
    is taken for the clean image within a step: "euler", that of its beginning; "two", extrapolated from i and
    j; "trapezoid", the mean of both ends. A step is a linear combination of what is in `products`:
    x' - x_k = sigma_k (eps_j - eps_k) + w D_j + (1 - w) (a D_i + b D_j + c D_k) - D_k, w = sigma_k / sigma_j.
    """
    n = len(levels)
    rows = np.append(np.arange(n), n - 1)  # at 0 stands what was last seen
    DD, De, ee = (products[np.ix_(rows + first, rows + second)] for first, second in ((0, 0), (0, n), (n, n)))
    sigma = np.append(np.asarray(levels), 0.0)
    i, j, k = np.ogrid[: n + 1, : n + 1, : n + 1]
    with np.errstate(all="ignore"):  # of impossible steps, which come out infinite
        w, logs = sigma[k] / sigma[j], np.log(sigma)
        a, c = np.zeros((2, n + 1, n + 1, n + 1))
        if kind == "two":  # the first step and the last do not extrapolate
            a = np.where((k < n) & (i < j), (logs[j] - logs[k]) / (2 * (logs[j] - logs[i])), 0.0)
        if kind == "trapezoid":
            c = np.where(k < n, 0.5, 0.0) + a
        cleans = (((1 - w) * a, i), (w + (1 - w) * (1 - a - c), j), ((1 - w) * c - 1, k))
        noises = ((sigma[k], j), (-sigma[k], k))
        total = sum(p * q * DD[u, v] for p, u in cleans for q, v in cleans)
        total = total + 2 * sum(p * q * De[u, v] for p, u in cleans for q, v in noises)
        total = total + sum(p * q * ee[u, v] for p, u in noises for q, v in noises)
    return np.sqrt(np.where((j < k) & (i <= j), np.maximum(total, 0), np.inf))


def reaches_the_end(levels: Sequence[float], spread: float) -> Array:
    """What comes through of an error at level k, for normal data of this deviation: (N + 1)."""
    sigma = np.append(np.asarray(levels), 0.0)
    return spread / np.sqrt(spread**2 + sigma**2)


def shortest(errors: Array, steps: int) -> list[int]:
    """The path of so many steps from level 0 to the last with the least sum of errors[i, j, k].

    i is where the step before began; of the first step i = j. Returns all places but the last.
    """
    last = len(errors) - 1
    total = np.full((last + 1, last + 1), np.inf)
    total[0] = errors[0, 0]
    before: list[NDArray[np.intp]] = []
    apart = errors.copy()
    apart[np.arange(last + 1), np.arange(last + 1)] = np.inf  # i < j from the second step on
    for _ in range(steps - 1):
        through = total[:, :, None] + apart
        before.append(through.argmin(0))
        total = through.min(0)
    j, k = int(total[:, last].argmin()), last
    path = [j]
    for chosen in reversed(before):
        i = int(chosen[j, k])
        path, j, k = [i, *path], i, j
    return path
