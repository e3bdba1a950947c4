"""What is added to a critic's loss so that training converges: slopes, consistency, running means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diptych.adversarial.look import Look
from diptych.method import Clock, Loss

Weight = Callable[[Clock], float | Tensor]  # a constant, a schedule, or a controller's state


def slope_square(logit: Tensor, image: Tensor) -> Tensor:
    """||d logit / d image||^2 for each image (B,), differentiable; image (B, C, H, W), logit (B,)."""
    (slope,) = torch.autograd.grad(logit.sum(), image, create_graph=True)
    return slope.square().sum((1, 2, 3))


def gradient_penalty(logit: Tensor, image: Tensor) -> Tensor:
    """Mean over the batch of ||d logit / d image||^2, differentiable: R1 on reals, R2 on fakes.

    Mescheder et al., 2018, arXiv:1801.04406. `image` (B, C, H, W) must require gradients; `logit` is (B,).
    """
    return slope_square(logit, image).mean()


def of(weight: float) -> Weight:
    """The same weight all the time."""
    return lambda clock: weight


class Penalty(nn.Module, ABC):
    """A term of the critic's loss; its state, where it has one, is saved with the method.

    every: 1: together with the loss, on the same logits; k: a phase of its own at each k-th step, k times
    as heavy ("lazy", Karras et al., 2020, arXiv:1912.04958, appendix B).
    """

    name: str
    every: int = 1

    @abstractmethod
    def forward(self, look: Look, clock: Clock) -> Loss:
        """The weighted term, a scalar, and its unweighted size under its name."""


class SlopePenalty(Penalty):
    """weight / 2 times the mean squared slope at some images: R1, R2, both."""

    def __init__(self, weight: Weight, *, real: bool = True, fake: bool = False, every: int = 1) -> None:
        super().__init__()
        self.weight, self.at_real, self.at_fake, self.every = weight, real, fake, every
        self.name = "r1" if real and not fake else "r2" if fake and not real else "r1r2"

    def forward(self, look: Look, clock: Clock) -> Loss:
        """gamma / 2 (R1 + R2) (Mescheder et al., 2018, equation 9; R3GAN, equation 3)."""
        logs = {}
        if self.at_real:
            logs["r1"] = gradient_penalty(look.real_logit, look.real)
        if self.at_fake:
            logs["r2"] = gradient_penalty(look.fake_logit, look.fake)
        total = torch.stack(list(logs.values())).sum()
        return self.weight(clock) / 2 * total, {name: size.detach() for name, size in logs.items()}


def r1(weight: float | Weight, every: int = 1) -> SlopePenalty:
    """On reals."""
    return SlopePenalty(weight if callable(weight) else of(weight), every=every)


def r2(weight: float | Weight, every: int = 1) -> SlopePenalty:
    """On fakes."""
    return SlopePenalty(weight if callable(weight) else of(weight), real=False, fake=True, every=every)


def r1_r2(weight: float | Weight, every: int = 1) -> SlopePenalty:
    """On reals and on fakes, with one weight."""
    return SlopePenalty(weight if callable(weight) else of(weight), fake=True, every=every)


class LipschitzPenalty(Penalty):
    """weight (||d D / d x|| - 1)^2 on lines between reals and fakes (WGAN-GP, Gulrajani et al., 2017,
    arXiv:1704.00028, equation 3), or only above 1 (`one_sided`)."""

    name = "gradient_penalty"

    def __init__(self, weight: float = 10.0, *, one_sided: bool = False, every: int = 1) -> None:
        super().__init__()
        self.weight, self.one_sided, self.every = weight, one_sided, every

    def forward(self, look: Look, clock: Clock) -> Loss:
        """At one point of each pair's line."""
        share = torch.rand(look.real.shape[0], 1, 1, 1, device=look.real.device)
        between = torch.lerp(look.real.detach(), look.fake.detach(), share).requires_grad_()
        excess = norm(slope_square(look.judge(between, look.label), between)) - 1
        size = (excess.clamp(min=0) if self.one_sided else excess).square().mean()
        return self.weight * size, {self.name: size.detach()}


class Dragan(Penalty):
    """weight (||d D / d x|| - 1)^2 around reals (Kodali et al., 2017, arXiv:1705.07215).

    Points lie at x + spread * std(x) * u, with u uniform in [0, 1] for each value, as in its code.
    """

    name = "dragan"

    def __init__(self, weight: float = 10.0, spread: float = 0.5, every: int = 1) -> None:
        super().__init__()
        self.weight, self.spread, self.every = weight, spread, every

    def forward(self, look: Look, clock: Clock) -> Loss:
        """At one point near each real."""
        real = look.real.detach()
        near = (real + self.spread * real.std() * torch.rand_like(real)).requires_grad_()
        size = (norm(slope_square(look.judge(near, look.label), near)) - 1).square().mean()
        return self.weight * size, {self.name: size.detach()}


def norm(square: Tensor) -> Tensor:
    """The root, with a finite derivative at 0."""
    return (square + 1e-12).sqrt()


class Consistency(Penalty):
    """The critic answers the same for an image and its augmented twin (CR: Zhang et al., 2020,
    arXiv:1910.12027; on fakes too, bCR: Zhao et al., 2020, arXiv:2002.04724)."""

    name = "consistency"

    def __init__(
        self, augment: Callable[[Tensor], Tensor], weight: float = 10.0, *, fake: bool = True, every: int = 1
    ) -> None:
        super().__init__()
        self.augment, self.weight, self.at_fake, self.every = augment, weight, fake, every

    def forward(self, look: Look, clock: Clock) -> Loss:
        """weight ||D(x) - D(T(x))||^2."""
        twin = look.judge(self.augment(look.real.detach()), look.label)
        size = (look.real_logit - twin).square().mean()
        if self.at_fake:
            twin = look.judge(self.augment(look.fake.detach()), look.label)
            size = size + (look.fake_logit - twin).square().mean()
        return self.weight * size, {self.name: size.detach()}


class LeCam(Penalty):
    """Logits stay near the running mean of the other kind's (Tseng et al., 2021, arXiv:2104.03310, eq. 4)."""

    name = "lecam"
    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self, weight: float = 0.3, decay: float = 0.99, every: int = 1) -> None:
        super().__init__()
        self.weight, self.decay, self.every = weight, decay, every
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))

    def forward(self, look: Look, clock: Clock) -> Loss:
        """||D(x) - mean of fakes||^2 + ||D(G(z)) - mean of reals||^2."""
        with torch.no_grad():
            self.real_mean.lerp_(look.real_logit.detach().mean().float(), 1 - self.decay)
            self.fake_mean.lerp_(look.fake_logit.detach().mean().float(), 1 - self.decay)
        # copies, for a later microbatch moves the means before this graph is differentiated
        apart = (look.real_logit - self.fake_mean.clone()).square().mean()
        size = apart + (look.fake_logit - self.real_mean.clone()).square().mean()
        return self.weight * size, {self.name: size.detach()}
