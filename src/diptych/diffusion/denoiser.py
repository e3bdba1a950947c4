"""The one view of every diffusion network: a Denoiser says which clean image it sees in a noisy one.

Noisy images are x = x_0 + sigma eps, whatever the schedule: x_t / alpha_t, at the level sigma_t / alpha_t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diptych.diffusion.schedules import PURE, VE, Schedule
from diptych.errors import NotMeasurable, WrongUse, did_you_mean
from diptych.model import Condition, takes_after
from diptych.saveable import saveable


class Denoiser(nn.Module, ABC):
    """An estimate of E[x_0 | x] for x = x_0 + sigma * normal noise."""

    image_shape: tuple[int, int, int]
    classes: int
    attributes: int = 0  # how many continuous labels it knows, their names, and some that images had
    attribute_names: tuple[str, ...] = ()
    examples: tuple[tuple[float, ...], ...] = ()
    schedule: Schedule  # its own: the noise levels that it knows, and how they run in time
    learned_variance: bool = False  # whether `moments` can be asked for
    jumps: bool = False  # trained for consistency: one call leads to the end of the ODE, and is no mean
    unlabelled: bool = True  # whether it may be asked for no label: False where each image came with one

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); returns clean images (B, C, H, W)."""

    def towards(self, x: Tensor, sigma: Tensor, condition: Condition, kept: float) -> Tensor:
        """kept x + (1 - kept) D(x): a step straight to the clean image."""
        return self(x, sigma, condition).lerp(x, kept)  # type: ignore[no-any-return]

    def score(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The slope of the log density of noisy images, (D(x) - x) / sigma^2 (EDM, equation 3)."""
        return (self(x, sigma, condition) - x) / each(sigma).square()  # type: ignore[no-any-return]

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The clean image and the learned variance: where it lies from 0, the smallest, to 1, the largest.

        Raises NotMeasurable where none was learned.
        """
        raise NotMeasurable(
            f"{type(self).__name__} has learned no variances", "train iddpm or adm, or use --variance small"
        )


class Wrapper(Denoiser):
    """A denoiser around another one: guidance, editing. It knows what the other knows."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.learned_variance, self.jumps = denoiser.learned_variance, denoiser.jumps
        self.unlabelled = denoiser.unlabelled
        takes_after(self, denoiser)


class Coefficients(NamedTuple):
    """D(x) = c_skip x + c_out F(c_in x, told), each (B, 1, 1, 1) or (1, 1, 1, 1); told is (B,) or (1,)."""

    c_in: Tensor
    c_skip: Tensor | None  # None: 1
    c_out: Tensor
    told: Tensor

    def towards(self, kept: float) -> Coefficients:
        """Those of kept x + (1 - kept) D(x)."""
        c_skip = None if self.c_skip is None else self.c_skip * (1 - kept) + kept
        return self._replace(c_skip=c_skip, c_out=self.c_out * (1 - kept))


class NetworkDenoiser(Denoiser):
    """A denoiser that is one network, D(x) = c_skip x + c_out F(c_in x): it can be trained."""

    network: nn.Module

    @abstractmethod
    def c_out(self, sigma: Tensor) -> Tensor:
        """How far the clean image moves when the network's output does, in absolute value; sigma's shape."""

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> Coefficients:
        """What the network is told and how its output is read, at noise levels (B,) or (1,)."""

    def preconditioned(self, sigma: Tensor) -> Coefficients:
        """`coefficients`, worked out once for each level that `one_level` gave: samplers come back to it."""
        value = number(sigma)
        if value is None:
            return self.coefficients(sigma)
        known = self._known
        key = (value, sigma.device, sigma.dtype)
        found = known.get(key)
        if found is None:
            if len(known) >= MOST_LEVELS:
                known.clear()
            with torch.inference_mode(False), torch.no_grad():
                found = sigma, self.coefficients(sigma)
            known[key] = found
        return found[1]  # what was found: another thread may have cleared the rest

    @property
    def _known(self) -> dict[Hashable, tuple[Tensor, Coefficients]]:
        found: dict[Hashable, tuple[Tensor, Coefficients]] = vars(self).setdefault("_coefficients", {})
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        """Forgets the coefficients: they may be worked out from what is changed."""
        super().__setattr__(name, value)
        if name != "training":  # which only goes to and fro
            vars(self).pop("_coefficients", None)

    def lasting(self) -> list[object]:
        """The levels and coefficients that were worked out: a captured graph reads their memory."""
        return list(self._known.values())

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition, *done: Tensor) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); returns clean images (B, C, H, W).

        done: in training, how the images were augmented, for networks that hear it.
        """
        c = self.preconditioned(sigma)
        return read(x, c, self.network(c.c_in * x, c.told, self.heard(condition), *done))

    def towards(self, x: Tensor, sigma: Tensor, condition: Condition, kept: float) -> Tensor:
        """The same as Denoiser's, without writing the clean images down."""
        c = self.preconditioned(sigma)
        return read(x, c.towards(kept), self.network(c.c_in * x, c.told, self.heard(condition)))

    def heard(self, condition: Condition) -> Tensor | None:
        """The label that the network is told. Raises WrongUse for none where it never learned that."""
        if condition.label is None and not self.unlabelled:
            raise never_unlabelled("give it a label")
        return condition.label


MOST_LEVELS = 4096  # of which coefficients are kept


def read(x: Tensor, c: Coefficients, F: Tensor) -> Tensor:
    """The clean image from the network's output, in as few passes over the images as torch allows.

    Of a network that says more the first channels are the image's.
    """
    F = F if F.shape[1] == x.shape[1] else F[:, : x.shape[1]]
    if c.c_skip is None:
        return torch.addcmul(x, c.c_out, F.float())
    return (c.c_skip * x).addcmul_(c.c_out, F.float())


@lru_cache(MOST_LEVELS)
def one_level(sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A noise level for a whole batch, (1,), whose `number` is known."""
    with torch.inference_mode(False):
        level = torch.full((1,), sigma, device=device, dtype=dtype)
    level.number = sigma  # type: ignore[attr-defined]
    return level


def number(level: Tensor) -> float | None:
    """The number in what `one_level` made, without asking the device; None for other tensors."""
    return getattr(level, "number", None)


@saveable
class EDMDenoiser(NetworkDenoiser):
    """A network behind EDM's preconditioning (Karras et al., 2022, arXiv:2206.00364, equation 7, table 1)."""

    def __init__(
        self, network: nn.Module, sigma_data: float = 0.5, jumps: bool = False, unlabelled: bool = True
    ) -> None:
        super().__init__()
        self.network, self.sigma_data, self.schedule = network, sigma_data, VE()
        self.jumps, self.unlabelled = jumps, unlabelled
        takes_after(self, network)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """EDM, table 1; the network is told log(sigma) / 4."""
        s = self.sigma_data
        total = sigma**2 + s**2
        c_in, c_skip = each(total.rsqrt()), each(s**2 / total)
        return Coefficients(c_in, c_skip, each(self.c_out(sigma)), level_told(sigma))

    def c_out(self, sigma: Tensor) -> Tensor:
        """sigma s / sqrt(sigma^2 + s^2)."""
        return sigma * self.sigma_data * (sigma**2 + self.sigma_data**2).rsqrt()


SIGMA_DATA = 0.5  # of images in [-1, 1], as EDM has it
Target = Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]


def edm_target(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """F = (x_0 - c_skip x) / c_out of EDM's preconditioning at the level sigma / alpha (EDM, table 1)."""
    total = (sigma.square() + (SIGMA_DATA * alpha).square()).sqrt()
    return sigma / (SIGMA_DATA * total), -SIGMA_DATA * alpha / total


# what a network may predict, a x_0 + b eps, as (a, b) of alpha and sigma
TARGETS: dict[str, Target] = {
    "eps": lambda alpha, sigma: (0.0, 1.0),
    "x0": lambda alpha, sigma: (1.0, 0.0),
    "v": lambda alpha, sigma: (-sigma, alpha),  # Salimans and Ho, 2022, arXiv:2202.00512
    "flow": lambda alpha, sigma: (-1.0, 1.0),  # the velocity from image to noise (Liu et al., 2022)
    "F": edm_target,
}


@saveable
class ScheduleDenoiser(NetworkDenoiser):
    """A network trained on a schedule: it reads x_t = alpha_t x_0 + sigma_t eps and predicts one of TARGETS.
    For EDM's F it reads what EDM's does, x_t scaled to a deviation of 1.

    told: what the network hears of time: "time" (0 to 1000, as DDPM's) or "level" (EDM's
    log(sigma_t / alpha_t) / 4). learned_variance: it has twice the channels, and the second half says where
    the variance of a step backwards lies between its bounds, -1 to 1 (improved DDPM, equation 15).
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        target: str = "eps",
        told: str = "time",
        learned_variance: bool = False,
        jumps: bool = False,
        unlabelled: bool = True,
    ) -> None:
        super().__init__()
        for what, name, known in (
            ("target", target, list(TARGETS)),
            ("way to tell", told, ["time", "level"]),
        ):
            if name not in known:
                raise WrongUse(f"there is no {what} called {name}", did_you_mean(name, known))
        self.network, self.schedule, self.target = network, schedule, target
        self.tells_time, self.learned_variance, self.jumps = told == "time", learned_variance, jumps
        self.unlabelled = unlabelled
        takes_after(self, network)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """F = a x_0 + b eps and x = x_0 + sigma eps, solved for x_0."""
        alpha, noise = self.schedule.coefficients(sigma)
        a, b = TARGETS[self.target](alpha, noise)
        below = b - a * sigma
        c_skip = None if self.target == "eps" else each(b / below)
        told = self.schedule.told(self.schedule.time(sigma)) if self.tells_time else level_told(sigma)
        c_in = (sigma.square() + SIGMA_DATA**2).rsqrt() if self.target == "F" else alpha
        return Coefficients(each(c_in), c_skip, each(-sigma / below), told)

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The clean image and the learned variance, 0 to 1. Raises NotMeasurable where none was learned."""
        if not self.learned_variance:
            return super().moments(x, sigma, condition)
        c = self.preconditioned(sigma)
        F, fraction = self.network(c.c_in * x, c.told, self.heard(condition)).float().chunk(2, 1)
        return read(x, c, F), (fraction + 1) / 2

    def c_out(self, sigma: Tensor) -> Tensor:
        """sigma / |b - a sigma|."""
        a, b = TARGETS[self.target](*self.schedule.coefficients(sigma))
        return sigma / (b - a * sigma).abs()


def level_told(sigma: Tensor) -> Tensor:
    """log(sigma) / 4 (EDM, table 1), of no level beyond PURE: they are noise alone, and training hardly meets
    them, where one-step sampling may begin."""
    return sigma.clamp_max(PURE).log() / 4


def each(value: Tensor) -> Tensor:
    """One value an image, (B,), as (B, 1, 1, 1)."""
    return value.view(-1, 1, 1, 1)


def no_label(label: Tensor, classes: int) -> Tensor:
    """The label that stands for none: `classes` for each class, not-a-number for each continuous one."""
    return torch.full_like(label, float("nan") if label.is_floating_point() else classes)


def never_unlabelled(hint: str) -> WrongUse:
    """Why a model that saw each image with its label cannot be asked for none."""
    return WrongUse(
        "this model was never trained without labels", f"{hint}, or train it with --label-dropout 0.1"
    )


def without_labels(condition: Condition, classes: int, probability: float) -> Condition:
    """Forgets each image's label with this probability, so that one network learns both densities."""
    label = condition.label
    if label is None or probability == 0:
        return condition
    forgotten = torch.rand(label.shape[0], device=label.device) < probability
    forgotten = forgotten.view(-1, *[1] * (label.ndim - 1))
    return replace(condition, label=torch.where(forgotten, no_label(label, classes), label))
