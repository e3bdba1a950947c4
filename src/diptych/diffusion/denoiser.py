"""The one view of every diffusion network: a Denoiser says which clean image it sees in a noisy one.

Noisy images are x = x_0 + sigma eps, whatever the schedule: x_t / alpha_t, at the level sigma_t / alpha_t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from diptych.diffusion.schedules import VE, Schedule
from diptych.errors import NotMeasurable, WrongUse, did_you_mean
from diptych.model import Condition
from diptych.saveable import saveable


class Denoiser(nn.Module, ABC):
    """An estimate of E[x_0 | x] for x = x_0 + sigma * normal noise."""

    image_shape: tuple[int, int, int]
    classes: int
    schedule: Schedule  # its own: the noise levels that it knows, and how they run in time

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); returns clean images (B, C, H, W)."""

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
        self.image_shape, self.classes = denoiser.image_shape, denoiser.classes


class NetworkDenoiser(Denoiser):
    """A denoiser that is one network, D(x) = c_skip x + c_out F(c_in x): it can be trained."""

    network: nn.Module

    @abstractmethod
    def c_out(self, sigma: Tensor) -> Tensor:
        """How far the clean image moves when the network's output does, in absolute value; sigma's shape."""


@saveable
class EDMDenoiser(NetworkDenoiser):
    """A network behind EDM's preconditioning (Karras et al., 2022, arXiv:2206.00364, equation 7, table 1)."""

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network, self.sigma_data, self.schedule = network, sigma_data, VE()
        self.image_shape, self.classes = network.image_shape, network.classes  # type: ignore[assignment]

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); returns clean images (B, C, H, W)."""
        s = self.sigma_data
        total = sigma**2 + s**2
        F: Tensor = self.network(each(total.rsqrt()) * x, sigma.log() / 4, condition.label)
        return torch.addcmul(each(s**2 / total) * x, each(self.c_out(sigma)), F.float())

    def c_out(self, sigma: Tensor) -> Tensor:
        """sigma s / sqrt(sigma^2 + s^2)."""
        return sigma * self.sigma_data * (sigma**2 + self.sigma_data**2).rsqrt()


Target = Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]

# what a network may predict, a x_0 + b eps, as (a, b) of alpha and sigma
TARGETS: dict[str, Target] = {
    "eps": lambda alpha, sigma: (0.0, 1.0),
    "x0": lambda alpha, sigma: (1.0, 0.0),
    "v": lambda alpha, sigma: (-sigma, alpha),  # Salimans and Ho, 2022, arXiv:2202.00512
    "flow": lambda alpha, sigma: (-1.0, 1.0),  # the velocity from image to noise (Liu et al., 2022)
}


@saveable
class ScheduleDenoiser(NetworkDenoiser):
    """A network trained on a schedule: it reads x_t = alpha_t x_0 + sigma_t eps and predicts one of TARGETS.

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
    ) -> None:
        super().__init__()
        for what, name, known in (
            ("target", target, list(TARGETS)),
            ("way to tell", told, ["time", "level"]),
        ):
            if name not in known:
                raise WrongUse(f"there is no {what} called {name}", did_you_mean(name, known))
        self.network, self.schedule, self.target = network, schedule, TARGETS[target]
        self.tells_time, self.learned_variance = told == "time", learned_variance
        self.image_shape, self.classes = network.image_shape, network.classes  # type: ignore[assignment]

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); returns clean images (B, C, H, W)."""
        return self._clean(x, sigma, self._seen(x, sigma, condition)[:, : x.shape[1]])

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The clean image and the learned variance, 0 to 1. Raises NotMeasurable where none was learned."""
        if not self.learned_variance:
            return super().moments(x, sigma, condition)
        F, fraction = self._seen(x, sigma, condition).chunk(2, 1)
        return self._clean(x, sigma, F), (fraction + 1) / 2

    def c_out(self, sigma: Tensor) -> Tensor:
        """sigma / |b - a sigma|."""
        a, b = self.target(*self.schedule.coefficients(sigma))
        return sigma / (b - a * sigma).abs()

    def _seen(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        alpha = self.schedule.coefficients(sigma)[0]
        told = self.schedule.told(self.schedule.time(sigma)) if self.tells_time else sigma.log() / 4
        F: Tensor = self.network(each(alpha) * x, told, condition.label)
        return F.float()

    def _clean(self, x: Tensor, sigma: Tensor, F: Tensor) -> Tensor:
        """F = a x_0 + b eps and x = x_0 + sigma eps, solved for x_0."""
        a, b = self.target(*self.schedule.coefficients(sigma))
        below = b - a * sigma
        return torch.addcmul(each(b / below) * x, each(-sigma / below), F)


def each(value: Tensor) -> Tensor:
    """One value an image, (B,), as (B, 1, 1, 1)."""
    return value.view(-1, 1, 1, 1)


def no_label(label: Tensor, classes: int) -> Tensor:
    """The label that stands for none: `classes` for each class, not-a-number for each continuous one."""
    return torch.full_like(label, float("nan") if label.is_floating_point() else classes)


def without_labels(condition: Condition, classes: int, probability: float) -> Condition:
    """Forgets each image's label with this probability, so that one network learns both densities."""
    label = condition.label
    if label is None or probability == 0:
        return condition
    forgotten = torch.rand(label.shape[0], device=label.device) < probability
    forgotten = forgotten.view(-1, *[1] * (label.ndim - 1))
    return replace(condition, label=torch.where(forgotten, no_label(label, classes), label))
