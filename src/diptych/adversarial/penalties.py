"""What is added to a critic's loss so that training converges: slopes, consistency, running means."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from diptych.adversarial.look import Look
from diptych.errors import WrongUse
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
    """The same weight all the time. Raises WrongUse for a number that is no weight."""
    checked_weight(weight)
    return lambda clock: weight


def checked_weight(weight: float, what: str = "a penalty's weight", hint: str = "1, say; 0 is none") -> float:
    """The weight. Raises WrongUse where it is negative or not finite."""
    if not 0 <= weight < math.inf:
        raise WrongUse(f"{what} is at least 0 and finite, not {weight}", hint)
    return weight


class Penalty(nn.Module, ABC):
    """A term of the critic's loss; its state, where it has one, is saved with the method.

    every: 1: together with the loss, on the same logits; k: a phase of its own at each k-th step, k times
    as heavy ("lazy", Karras et al., 2020, arXiv:1912.04958, appendix B).
    """

    name: str
    every: int = 1
    firmness: float = 1.0  # the term is taken so many times; see `firmer`

    @abstractmethod
    def forward(self, look: Look, clock: Clock) -> Loss:
        """The weighted term, a scalar, and its unweighted size under its name."""

    @property
    def heavy(self) -> bool:
        """Whether the weight is ever above 0."""
        weight = getattr(self, "weight", 1.0)
        if isinstance(weight, nn.Module):  # it tunes itself
            return True
        weights = [weight(Clock(images, 4, images)) for images in range(5)] if callable(weight) else [weight]
        return max(weights) > 0

    def firmer(self, factor: float) -> None:
        """So many times as heavy from now on. A weight that tunes itself is told, or it would undo that."""
        weight = getattr(self, "weight", 1.0)
        if isinstance(weight, nn.Module):
            weight.firmer(factor)  # type: ignore[operator]
        else:
            self.firmness *= factor


def weighed(weight: Weight, sizes: Mapping[str, Tensor], look: Look, clock: Clock, every: int) -> Loss:
    """Half of the weight times all of these, and what to log. A weight that observes is told first."""
    logs = {name: size.detach() for name, size in sizes.items()}
    if isinstance(weight, nn.Module):
        weight.observe(look, clock, every)  # type: ignore[operator]
    gamma = weight(clock)
    if isinstance(gamma, Tensor):
        logs["gamma"] = gamma
    return gamma / 2 * torch.stack(list(sizes.values())).sum(), logs


class SlopePenalty(Penalty):
    """weight / 2 times the mean squared slope at some images: R1, R2, both."""

    def __init__(self, weight: Weight, *, real: bool = True, fake: bool = False, every: int = 1) -> None:
        super().__init__()
        self.weight, self.at_real, self.at_fake, self.every = weight, real, fake, every
        self.name = "r1" if real and not fake else "r2" if fake and not real else "r1r2"

    def forward(self, look: Look, clock: Clock) -> Loss:
        """gamma / 2 (R1 + R2) (Mescheder et al., 2018, equation 9; R3GAN, equation 3)."""
        sizes = {}
        if self.at_real:
            sizes["r1"] = gradient_penalty(look.real_logit, look.real)
        if self.at_fake:
            sizes["r2"] = gradient_penalty(look.fake_logit, look.fake)
        return weighed(self.weight, sizes, look, clock, self.every)


def r1(weight: float | Weight, every: int = 1) -> SlopePenalty:
    """On reals."""
    return SlopePenalty(weight if callable(weight) else of(weight), every=every)


def r2(weight: float | Weight, every: int = 1) -> SlopePenalty:
    """On fakes."""
    return SlopePenalty(weight if callable(weight) else of(weight), real=False, fake=True, every=every)


def r1_r2(weight: float | Weight, every: int = 1) -> SlopePenalty:
    """On reals and on fakes, with one weight."""
    return SlopePenalty(weight if callable(weight) else of(weight), fake=True, every=every)


class ApproximateSlopePenalty(Penalty):
    """SlopePenalty by finite differences, for critics that cannot be differentiated twice (APT, Lin et al.,
    2025, arXiv:2501.08316): the squared change under noise of deviation sigma, over sigma^2."""

    def __init__(
        self, weight: Weight, sigma: float = 0.01, *, real: bool = True, fake: bool = True, every: int = 1
    ) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise WrongUse(f"sigma is above 0 and finite, not {sigma}", "0.01, as in the paper")
        self.weight, self.sigma, self.at_real, self.at_fake, self.every = weight, sigma, real, fake, every
        self.name = "r1" if real and not fake else "r2" if fake and not real else "r1r2"

    def forward(self, look: Look, clock: Clock) -> Loss:
        """gamma / 2 (R1 + R2), each right on average to first order in sigma."""
        sizes = {}
        if self.at_real:
            sizes["r1"] = self.change(look, look.real)
        if self.at_fake:
            sizes["r2"] = self.change(look, look.fake)
        return weighed(self.weight, sizes, look, clock, self.every)

    def change(self, look: Look, image: Tensor) -> Tensor:
        """Mean over the batch of (D(x + sigma eps) - D(x))^2 / sigma^2, both seen by the same luck: what the
        critic draws itself, augmentation and noise, would else be most of the difference."""
        image = image.detach()
        eps, seed = torch.randn_like(image), int(torch.randint(2**62, ()))
        torch.manual_seed(seed)
        logit = look.judge(image, look.label)
        torch.manual_seed(seed)
        noisy = look.judge(image + self.sigma * eps, look.label)
        return ((noisy - logit) / self.sigma).square().mean()


class LipschitzPenalty(Penalty):
    """weight (||d D / d x|| - 1)^2 on lines between reals and fakes (WGAN-GP, Gulrajani et al., 2017,
    arXiv:1704.00028, equation 3), or only above 1 (`one_sided`)."""

    name = "gradient_penalty"

    def __init__(self, weight: float = 10.0, *, one_sided: bool = False, every: int = 1) -> None:
        super().__init__()
        self.weight, self.one_sided, self.every = checked_weight(weight), one_sided, every

    def forward(self, look: Look, clock: Clock) -> Loss:
        """At one point of each pair's line."""
        real, fake = look.real.detach(), look.fake.detach()
        if fake.shape[1] > real.shape[1]:  # a stack of levels: a critic takes a real for each of them
            real = real.repeat(1, fake.shape[1] // real.shape[1], 1, 1)
        share = torch.rand_like(real[:, :1, :1, :1])
        between = torch.lerp(real, fake, share).requires_grad_()
        excess = norm(slope_square(look.judge(between, look.label), between)) - 1
        size = (excess.clamp(min=0) if self.one_sided else excess).square().mean()
        return self.weight * size, {self.name: size.detach()}


class Dragan(Penalty):
    """weight (||d D / d x|| - 1)^2 around reals (Kodali et al., 2017, arXiv:1705.07215).

    Points lie at x + alpha * spread * std(x) * u as in its code: u is uniform in [0, 1] for each value, alpha
    for each image, a place on the line from the real to its perturbed twin.
    """

    name = "dragan"

    def __init__(self, weight: float = 10.0, spread: float = 0.5, every: int = 1) -> None:
        super().__init__()
        spread = checked_weight(spread, "spread", "0.5 as in its code")
        self.weight, self.spread, self.every = checked_weight(weight), spread, every

    def forward(self, look: Look, clock: Clock) -> Loss:
        """At one point near each real."""
        real = look.real.detach()
        share = torch.rand_like(real[:, :1, :1, :1])
        near = (real + share * self.spread * real.std() * torch.rand_like(real)).requires_grad_()
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
        self.augment, self.weight, self.at_fake, self.every = augment, checked_weight(weight), fake, every

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
    starts_anew = True  # logits of other images say nothing of these
    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self, weight: float = 0.3, decay: float = 0.99, every: int = 1) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise WrongUse(f"decay is at least 0 and below 1, not {decay}", "0.99, say, of what is kept")
        self.weight, self.decay, self.every = checked_weight(weight), decay, every
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))

    def forward(self, look: Look, clock: Clock) -> Loss:
        """||D(x) - mean of fakes||^2 + ||D(G(z)) - mean of reals||^2."""
        real, fake = look.real_logit, look.fake_logit
        self.real_mean.lerp_(real.detach().mean().float(), 1 - self.decay)
        self.fake_mean.lerp_(fake.detach().mean().float(), 1 - self.decay)
        # copies, for a later microbatch moves the means before this graph is differentiated
        apart = (real - self.fake_mean.clone()).square().mean()
        size = apart + (fake - self.real_mean.clone()).square().mean()
        return self.weight * size, {self.name: size.detach()}


class Drift(Penalty):
    """weight D(x)^2 on reals: logits of a Wasserstein critic stay near 0 (progressive growing, Karras et al.,
    2017, arXiv:1710.10196, appendix A.1)."""

    name = "drift"

    def __init__(self, weight: float = 1e-3, every: int = 1) -> None:
        super().__init__()
        self.weight, self.every = checked_weight(weight), every

    def forward(self, look: Look, clock: Clock) -> Loss:
        """On the logits of the loss itself."""
        size = look.real_logit.square().mean()
        return self.weight * size, {self.name: size.detach()}
