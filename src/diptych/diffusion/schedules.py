"""Schedules: how much image and how much noise there is at each time, x_t = alpha_t x_0 + sigma_t eps.

Everything else works with the noise level sigma_t / alpha_t, the noise of x_t / alpha_t: it is all that two
schedules differ by (Karras et al., 2022, arXiv:2206.00364, appendix B), so that a network trained on one can
be sampled along another. At pure noise the level is infinite; it is cut at LARGEST.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diptych.diffusion.betas import (
    BETAS,
    Function,
    T,
    at_times,
    betas_of,
    interpolated,
    like,
    mixture,
    real,
    whole,
    without_the_last_signal,
)
from diptych.diffusion.settled import Settled
from diptych.errors import WrongUse, did_you_mean
from diptych.saveable import saveable

LARGEST = 1e5  # a level from which on x_t / sqrt(alpha_t^2 + sigma_t^2) is noise to five digits
PURE = 100.0  # one at which it is noise to one part in 10^4
ZERO_SNR = "zero-snr"  # in a schedule's name: its last step is noise alone


class Schedule(Settled, ABC):
    """Image and noise at times from 0, a clean image or nearly so, to 1, noise or nearly so."""

    exact: tuple[float, ...] = ()  # the levels of its steps, rising; none where time is continuous

    @abstractmethod
    def level(self, t: Tensor) -> Tensor:
        """sigma_t / alpha_t at times t of any shape, at most LARGEST."""

    @abstractmethod
    def time(self, level: Tensor) -> Tensor:
        """The inverse of `level`; the nearest end for levels outside."""

    @abstractmethod
    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma where sigma / alpha is `level`."""

    def told(self, t: Tensor) -> Tensor:
        """What a network that counts steps is told at time t, about 0 to 1000: 999 t (EDM, table 1)."""
        return (T - 1) * t

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t."""
        return self.coefficients(self.level(t))

    def ends(self) -> tuple[float, float]:
        """The smallest and the largest level."""
        levels = self.exact or self.level(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        return levels[0], levels[-1]


def variance_preserving(level: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma with alpha^2 + sigma^2 = 1."""
    alpha = (1 + level.square()).rsqrt()
    return alpha, level * alpha


class Table(Schedule):
    """A schedule known at equally spaced times; between them the logarithm of the level is linear in time."""

    log_level: Tensor

    def __init__(self, level: Tensor) -> None:
        super().__init__()
        rising = level.double().clamp(1e-8, LARGEST).log()
        if not rising.isfinite().all() or (rising.diff() < 0).any() or not rising.diff().sum() > 0:
            raise WrongUse("a schedule's noise level must rise with time", "alpha falls and sigma rises")
        self.register_buffer("log_level", rising.float(), persistent=False)
        self.exact = tuple(rising.exp().tolist())

    def level(self, t: Tensor) -> Tensor:
        """sigma_t / alpha_t, interpolated."""
        return interpolated(self.log_level, t).exp()

    def time(self, level: Tensor) -> Tensor:
        """The inverse of `level`."""
        table, wanted = like(self.log_level, level), level.clamp(1e-8, LARGEST).log()
        # counts rather than searches: the same values, and it exports
        below = (table <= wanted[..., None]).sum(-1).sub(1).clamp(0, len(table) - 2)
        low, high = table[below], table[below + 1]
        inside = ((wanted - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
        return (below + inside) / (len(table) - 1)

    def told(self, t: Tensor) -> Tensor:
        """The step's number, from 0; between two steps a fraction."""
        return t * (len(self.log_level) - 1)


@saveable
class Discrete(Table):
    """Some number of steps, the betas "linear" (DDPM, arXiv:2006.11239), "scaled-linear" (latent diffusion,
    arXiv:2112.10752), "cosine" (improved DDPM, arXiv:2102.09672) or "sigmoid" (GeoDiff, arXiv:2203.02923).
    zero_snr: the last step is noise alone (Lin et al., 2023, arXiv:2305.08891, algorithm 1). beta_start,
    beta_end: the first and the last beta, whatever the steps; else the published ones, scaled for other steps
    than 1000.
    """

    def __init__(
        self,
        betas: str = "linear",
        steps: int = T,
        zero_snr: bool = False,
        beta_start: float | None = None,
        beta_end: float | None = None,
    ) -> None:
        if str(betas) not in BETAS:
            raise WrongUse(f"there are no betas called {betas}", did_you_mean(str(betas), list(BETAS)))
        if not whole(steps) or steps < 2:
            raise WrongUse(f"a schedule needs at least 2 steps, not {steps!r}", f"{T} are usual")
        alpha_bar = (1 - betas_of(betas, steps, beta_start, beta_end)).cumprod(0)
        if zero_snr:
            alpha_bar = without_the_last_signal(alpha_bar)
        super().__init__(((1 - alpha_bar) / alpha_bar.clamp_min(1e-30)).sqrt())

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar)."""
        return variance_preserving(level)


@saveable
class Tabulated(Table):
    """A schedule of the user's own, as values at equally spaced times from 0 to 1."""

    size: Tensor

    def __init__(self, alphas: Sequence[float], sigmas: Sequence[float]) -> None:
        alpha, sigma, size = mixture(alphas, sigmas)
        super().__init__(sigma / alpha.clamp_min(1e-30))
        self.register_buffer("size", size.float(), persistent=False)

    @classmethod
    def of(cls, alpha: Function, sigma: Function, n: int = 1001) -> Tabulated:
        """That of two functions of time, float or tensor, at `n` times: files hold numbers, not functions."""
        if not whole(n) or n < 2:
            raise WrongUse(f"a schedule is kept at 2 times or more, not at n={n!r}", "1001 are usual")
        times = [i / (n - 1) for i in range(n)]
        return cls(at_times("alpha", alpha, times), at_times("sigma", sigma, times))

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma where their ratio is `level`, as large together as the user's are there."""
        alpha, sigma = variance_preserving(level)
        size = interpolated(self.size, self.time(level))
        return size * alpha, size * sigma


def check_range(least: str, low: Any, most: str, high: Any, hint: str) -> None:
    """Raises WrongUse where 0 < low < high are not finite numbers."""
    if not (real(low) and real(high) and 0 < low < high < math.inf):
        raise WrongUse(f"{least} {low!r} must lie between 0 and {most} {high!r}", hint)


@saveable
class VP(Schedule):
    """The variance-preserving SDE, continuous DDPM (Song et al., 2021, arXiv:2011.13456, equation 33)."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        check_range("beta_min", beta_min, "beta_max", beta_max, "0.1 and 20 are the paper's")
        self.beta_min, self.slope = beta_min, beta_max - beta_min

    def level(self, t: Tensor) -> Tensor:
        """sqrt(1 / alpha_t^2 - 1) with -2 log alpha_t = t^2 (beta_max - beta_min) / 2 + t beta_min."""
        t = t.clamp(1e-5, 1.0)
        return (t * (t * self.slope / 2 + self.beta_min)).expm1().sqrt()

    def time(self, level: Tensor) -> Tensor:
        """The inverse of `level` (EDM, table 1)."""
        twice = torch.log1p(level.square())
        t: Tensor = ((self.beta_min**2 + 2 * self.slope * twice).sqrt() - self.beta_min) / self.slope
        return t.clamp(1e-5, 1.0)

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """alpha^2 + sigma^2 = 1."""
        return variance_preserving(level)


@saveable
class VE(Schedule):
    """Noise is added and nothing taken away, evenly in log sigma (Song et al., 2021, section 3.4)."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        super().__init__()
        check_range("sigma_min", sigma_min, "sigma_max", sigma_max, "0.002 and 80 are EDM's")
        self.low, self.span = math.log(sigma_min), math.log(sigma_max / sigma_min)

    def level(self, t: Tensor) -> Tensor:
        """sigma_min (sigma_max / sigma_min)^t."""
        return (self.low + self.span * t).exp()

    def time(self, level: Tensor) -> Tensor:
        """The inverse of `level`."""
        return ((level.log() - self.low) / self.span).clamp(0.0, 1.0)

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """1 and the level."""
        return torch.ones_like(level), level


@saveable
class Cosine(Schedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), continuous (Salimans and Ho, 2022, arXiv:2202.00512)."""

    def __init__(self) -> None:
        super().__init__()

    def level(self, t: Tensor) -> Tensor:
        """tan(pi t / 2)."""
        angle = t.clamp(1e-4, 1.0) * (math.pi / 2)
        return (angle.sin() / angle.cos().clamp_min(1 / LARGEST)).clamp_max(LARGEST)

    def time(self, level: Tensor) -> Tensor:
        """The inverse of `level`."""
        return (level.atan() * (2 / math.pi)).clamp(1e-4, 1.0)

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """alpha^2 + sigma^2 = 1."""
        return variance_preserving(level)


@saveable
class Flow(Schedule):
    """The straight line alpha = 1 - s, sigma = s (rectified flow, Liu et al., 2022, arXiv:2209.03003; flow
    matching, Lipman et al., 2022, arXiv:2210.02747). shift > 1 spends more of the time t in noise, as large
    images need: s = shift t / (1 + (shift - 1) t) (Esser et al., 2024, arXiv:2403.03206, equation 23).
    """

    def __init__(self, shift: float = 1.0) -> None:
        super().__init__()
        if not (real(shift) and 0 < shift < math.inf):
            raise WrongUse(f"shift must be a number above 0, not {shift!r}", "3 is for large images, 1 none")
        self.shift = shift

    def level(self, t: Tensor) -> Tensor:
        """s / (1 - s)."""
        s = self.line(t.clamp(1e-5, 1.0))
        return (s / (1 - s).clamp_min(1 / LARGEST)).clamp_max(LARGEST)

    def line(self, t: Tensor) -> Tensor:
        """s, the place on the straight line, at time t."""
        return self.shift * t / (1 + (self.shift - 1) * t)

    def time(self, level: Tensor) -> Tensor:
        """The inverse of `level`."""
        s = level / (1 + level)
        return (s / (self.shift - (self.shift - 1) * s)).clamp(1e-5, 1.0)

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """1 / (1 + level) and level / (1 + level)."""
        alpha = 1 / (1 + level)
        return alpha, level * alpha

    def told(self, t: Tensor) -> Tensor:
        """1000 s: the network knows the line, not how time runs along it."""
        return T * self.line(t)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    **{name: partial(Discrete, name) for name in BETAS},
    "vp": VP,
    "ve": VE,
    "cosine-continuous": Cosine,
    "flow": Flow,
}


def schedule(name: str) -> Schedule:
    """The schedule of this name, "cosine"; shifted, "flow:3"; or ending in noise alone, "cosine:zero-snr".

    Raises WrongUse with the nearest name where there is none, or for a setting that it does not have.
    """
    kind, colon, setting = name.partition(":")
    if kind not in SCHEDULES:
        raise WrongUse(f"there is no schedule called {kind}", did_you_mean(kind, list(SCHEDULES)))
    if not colon:
        return SCHEDULES[kind]()
    if kind == "flow" and setting != ZERO_SNR:
        return Flow(shift_in(name, setting))
    if setting != ZERO_SNR:
        known = f"did you mean {kind}:{ZERO_SNR}?" if kind in BETAS else f"leave it out: {kind}"
        raise WrongUse(f"the schedule {kind} has no setting {setting!r}", known)
    if kind not in BETAS:
        raise WrongUse(no_zero_snr(kind), f"leave {ZERO_SNR} out; these can be made so: {', '.join(BETAS)}")
    return Discrete(kind, zero_snr=True)


def shift_in(name: str, setting: str) -> float:
    """The number in a shifted flow's name. Raises WrongUse where it is none."""
    try:
        return float(setting)
    except ValueError:
        raise WrongUse(
            f"the shift in {name} is not a number", "flow:3 spends more of the time in noise than flow"
        ) from None


def no_zero_snr(kind: str) -> str:
    """Why a continuous schedule cannot be made to end in noise alone."""
    if SCHEDULES[kind]().ends()[1] > LARGEST / 2:
        return f"{kind} ends in pure noise already"
    return f"{kind} is continuous: it has no last step that could be noise alone"
