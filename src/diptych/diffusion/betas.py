"""What schedules known at some times are made of: betas, tables, and the values of functions of one's own.

Betas are the variances of the noise that each step adds (Ho et al., 2020, arXiv:2006.11239, equation 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from diptych.errors import WrongUse

T = 1000  # steps of which the literature's constants speak
Function = Callable[[Any], Any]  # of time, as a float or as a tensor, to one number


def linear_betas(steps: int, start: float, end: float) -> Tensor:
    """Equal steps of beta."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def scaled_linear_betas(steps: int, start: float, end: float) -> Tensor:
    """Linear in sqrt(beta)."""
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()


def sigmoid_betas(steps: int, start: float, end: float) -> Tensor:
    """A sigmoid from -6 to 6, stretched."""
    return torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid() * (end - start) + start


def cosine_betas(steps: int) -> Tensor:
    """alpha_bar = cos^2((t + 0.008) / 1.008 pi / 2), betas at most 0.999 (improved DDPM, equation 17)."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999)


# betas between two ends, and those published, at T steps
BETWEEN: dict[str, tuple[Callable[[int, float, float], Tensor], float, float]] = {
    "linear": (linear_betas, 1e-4, 0.02),
    "scaled-linear": (scaled_linear_betas, 8.5e-4, 0.012),
    "sigmoid": (sigmoid_betas, 1e-4, 0.02),
}


def usual_betas(name: str, steps: int) -> Tensor:
    """The published ones; for other numbers of steps than T scaled so that the last image is as noisy."""
    make, start, end = BETWEEN[name]
    return make(steps, start * (T / steps), end * (T / steps)).clamp_max(0.999)


# functions from the number of steps to float64 (steps,)
BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": partial(usual_betas, "linear"),
    "scaled-linear": partial(usual_betas, "scaled-linear"),
    "cosine": cosine_betas,
    "sigmoid": partial(usual_betas, "sigmoid"),
}


def betas_of(name: str, steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """The betas of this name, between two ends where they are given.

    Raises WrongUse for ends that betas cannot have.
    """
    if start is None and end is None:
        return BETAS[name](steps)
    if name not in BETWEEN:
        raise WrongUse(f"the {name} betas have no ends", f"these have: {', '.join(BETWEEN)}")
    make, *published = BETWEEN[name]
    if start is None or end is None or not (real(start) and real(end) and 0 < start <= end < 1):
        raise WrongUse(
            f"betas must rise from beta_start to beta_end below 1, both given, not from {start!r} to {end!r}",
            f"the published {name} ones run from {published[0]:g} to {published[1]:g}",
        )
    return make(steps, float(start), float(end))


def without_the_last_signal(alpha_bar: Tensor) -> Tensor:
    """sqrt(alpha_bar) shifted and scaled so that it ends at 0 and begins where it did."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def like(table: Tensor, t: Tensor) -> Tensor:
    """The table where t is, and of its type: in this order, for not each device has each type."""
    return table.to(t.device).to(t.dtype)


def interpolated(table: Tensor, t: Tensor) -> Tensor:
    """Values of a table at times from 0, its first, to 1, its last."""
    table, place = like(table, t), t.clamp(0.0, 1.0) * (len(table) - 1)
    below = place.floor().long().clamp_max(len(table) - 2)
    return torch.lerp(table[below], table[below + 1], place - below)


def mixture(alphas: Sequence[float], sigmas: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """alpha, sigma and sqrt(alpha^2 + sigma^2), float64 (n,). Raises WrongUse where they mix nothing."""
    alpha, sigma = column("alphas", alphas), column("sigmas", sigmas)
    if len(alpha) != len(sigma) or len(alpha) < 2:
        raise WrongUse(
            f"a schedule needs as many alphas as sigmas and at least 2, not {len(alpha)} and {len(sigma)}",
            "they are values at equally spaced times: Tabulated.of makes them of two functions",
        )
    size = (alpha.square() + sigma.square()).sqrt()
    for right, what, hint in (
        (size.isfinite(), "must be finite numbers", "for noise alone alpha is 0 and sigma 1"),
        ((alpha >= 0) & (sigma >= 0), "must not be negative", "their squares are shares of the variance"),
        (size > 0, "must not both be 0", "there would be neither image nor noise"),
    ):
        if not right.all():
            row = int(right.int().argmin())
            at = f"at time {row / (len(alpha) - 1):g} they are {alpha[row]:g} and {sigma[row]:g}"
            raise WrongUse(f"alpha and sigma {what}: {at}", hint)
    return alpha, sigma, size


def real(value: Any) -> bool:
    """Whether it is a number, numpy's among them."""
    return isinstance(value, Real) and not isinstance(value, bool)


def whole(value: Any) -> bool:
    """Whether it is a whole number, numpy's among them."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def column(name: str, values: Any) -> Tensor:
    """Numbers as float64 (n,). Raises WrongUse where they are none."""
    try:
        found = torch.as_tensor(values, dtype=torch.float64)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WrongUse(f"{name} must be numbers: {error}", f"{name}=[1.0, 0.5, 0.0], say") from error
    if found.ndim != 1:
        raise WrongUse(f"{name} must be a list of numbers, not {found.ndim}-dimensional", "one for each time")
    return found


def at_times(name: str, function: Function, times: Sequence[float]) -> tuple[float, ...]:
    """The function's value at each time. Raises WrongUse where it has none."""
    found = []
    for t in times:
        try:
            try:
                found.append(float(function(t)))
            except (AttributeError, TypeError):  # t.sqrt() or torch.sqrt(t)
                found.append(float(function(torch.tensor(t, dtype=torch.float64))))
        except Exception as error:  # a stranger's function raises anything
            raise WrongUse(
                f"{name} gives no number at time {t:g}: {error}",
                "it is a function of a float, as math.sqrt, or of a tensor, as torch.sqrt",
            ) from error
    return tuple(found)
