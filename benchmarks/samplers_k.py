"""k-diffusion's samplers beside ours, for the table of samplers.py: same network, noise and levels."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from diptych.diffusion.samplers.grids import karras, log_snr
from diptych.diffusion.samplers.sampler import ancestral
from paired import let_torchvision_load
from sampler_peers import N, after_start, begin, clean, ours

SIGMAS = karras(N, 0.01, 80)


def network(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
    """The denoiser as k-diffusion calls it."""
    return clean(x, sigma.flatten()[0].item())


def fresh() -> Callable[..., Tensor]:
    """The noise that ours draw, for whatever k-diffusion asks with."""
    noise = after_start()
    return lambda *_: noise.normal(3, 8, 8).double()


def sde_noise() -> Callable[[Tensor, Tensor], Tensor]:
    """Ours for dpm++sde: the second of a step contains the first, as a Brownian path would have it."""
    noise, first = after_start(), list[Tensor]()

    def draw(sigma: Tensor, following: Tensor) -> Tensor:
        if not first:
            first.extend(noise.normal(3, 8, 8).double() for _ in range(2))
            return first[0]
        high, low = float(sigma), float(following)
        middle = math.sqrt(high * low)
        (down_1, up_1), (down, up) = ancestral(high, middle, 1.0), ancestral(high, low, 1.0)
        share = up_1 * down / down_1 / up
        both = share * first[0] + math.sqrt(1 - share**2) * first[1]
        first.clear()
        return both

    return draw


def solver_3(sampling: Any) -> tuple[Tensor, Tensor]:
    """DPM-Solver-3 step by step."""
    levels = log_snr(8, 0.02, 80)[:-1]
    solver, x = sampling.DPMSolver(network), begin(80.0)
    for start, end in pairwise(torch.tensor(levels, dtype=torch.float64)):
        x = solver.dpm_solver_3_step(x, -start.log(), -end.log())[0]
    return ours("dpm-solver-3", levels), x


def sampling_module() -> Any:
    """k_diffusion.sampling alone: the package itself asks for all that its training needs."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or found.submodule_search_locations is None:
        return None
    package = ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    let_torchvision_load()
    with patch.dict(sys.modules, {"k_diffusion": package}):
        try:
            return importlib.import_module("k_diffusion.sampling")
        except ImportError as error:
            print(f"k-diffusion is left out: {error}", file=sys.stderr)
            return None


def differences() -> dict[str, float]:
    """The largest difference by sampler; nothing where k-diffusion is not installed."""
    sampling = sampling_module()
    if sampling is None:
        return {}
    levels = torch.tensor(SIGMAS, dtype=torch.float64)
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "euler": ("sample_euler", {}),
        "ddim": ("sample_euler", {}),
        "euler-ancestral": ("sample_euler_ancestral", {"noise_sampler": fresh()}),
        "heun": ("sample_heun", {}),
        "edm-stochastic": (
            "sample_heun",
            {"s_churn": 40, "s_tmin": 0.05, "s_tmax": 50, "s_noise": 1.003},
        ),
        "dpm2": ("sample_dpm_2", {}),
        "dpm-solver-2": ("sample_dpm_2", {}),
        "dpm2-ancestral": ("sample_dpm_2_ancestral", {"noise_sampler": fresh()}),
        "lms": ("sample_lms", {}),
        "dpm++2m": ("sample_dpmpp_2m", {}),
        "dpm++2m-sde": ("sample_dpmpp_2m_sde", {"noise_sampler": fresh()}),
        "dpm++sde": ("sample_dpmpp_sde", {"noise_sampler": sde_noise()}),
        "dpm++2s": ("sample_dpmpp_2s_ancestral", {"eta": 0.0, "noise_sampler": fresh()}),
    }
    found = {}
    for name, (function, options) in calls.items():
        draw = drawn_where_used() if name == "edm-stochastic" else fresh()
        with patch.object(torch, "randn_like", draw):
            theirs = getattr(sampling, function)(network, begin(SIGMAS[0]), levels, disable=True, **options)
        found[name] = (ours(name, SIGMAS) - theirs).abs().max().item()
    mine, theirs = solver_3(sampling)
    return found | {"dpm-solver-3": (mine - theirs).abs().max().item()}


def drawn_where_used() -> Callable[..., Tensor]:
    """k-diffusion's Heun draws at every level; ours only where S_tmin and S_tmax let it."""
    noise, levels = after_start(), iter(SIGMAS)

    def draw(x: Tensor) -> Tensor:
        return noise.normal(3, 8, 8).double() if 0.05 <= next(levels) <= 50 else torch.zeros_like(x)

    return draw
