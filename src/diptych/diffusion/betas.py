"""The betas of discrete schedules, the variances of the noise that each step adds (Ho et al., 2020,
arXiv:2006.11239, equation 2): functions from the number of steps to float64 (steps,)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

T = 1000  # steps of which the literature's constants speak


def linear_betas(steps: int) -> Tensor:
    """From 1e-4 to 0.02 at 1000 steps; for other numbers scaled so that the last image is as noisy."""
    scale = T / steps
    return torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp_max(0.999)


def scaled_linear_betas(steps: int) -> Tensor:
    """Linear in sqrt(beta), from 0.00085 to 0.012."""
    scale = T / steps
    root = torch.linspace((8.5e-4 * scale) ** 0.5, (0.012 * scale) ** 0.5, steps, dtype=torch.float64)
    return root.square().clamp_max(0.999)


def cosine_betas(steps: int) -> Tensor:
    """alpha_bar = cos^2((t + 0.008) / 1.008 pi / 2), betas at most 0.999 (improved DDPM, equation 17)."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999)


def sigmoid_betas(steps: int) -> Tensor:
    """A sigmoid from -6 to 6, stretched to 1e-4 to 0.02."""
    scale = T / steps
    s = torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()
    return (s * (0.02 - 1e-4) * scale + 1e-4 * scale).clamp_max(0.999)


BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "scaled-linear": scaled_linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
}


def without_the_last_signal(alpha_bar: Tensor) -> Tensor:
    """sqrt(alpha_bar) shifted and scaled so that it ends at 0 and begins where it did."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
