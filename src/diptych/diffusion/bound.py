"""The variational bound on the probability of 8-bit images, term by term (Ho et al., 2020, arXiv:2006.11239,
equation 5; Nichol and Dhariwal, 2021, arXiv:2102.09672, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser, each
from diptych.diffusion.likelihood import SIGMA_DATA, seeds
from diptych.diffusion.samplers.ddpm import VARIANCES
from diptych.diffusion.schedules import Schedule, Table, Tabulated
from diptych.diffusion.variational import bounds, discretized_nll, ending, learned, normal_kl
from diptych.errors import WrongUse, did_you_mean
from diptych.model import Condition, Noise

CONTINUOUS = 1000  # steps of a schedule that has none of its own
FINEST = 0.25 / 127.5  # the smallest noise level of such a chain


@dataclass(frozen=True)
class Bound:
    """At most this many nats an image: noise, then every step backwards, then the levels of the pixels."""

    prior: Tensor  # (B,) KL of the noisiest image from what sampling starts from
    steps: Tensor  # (B, K) KL of a step backwards
    which: Tensor  # (B, K) int64: from which level each of them leads, from 2; that from 1 is the decoder's
    weight: Tensor  # (B, K): for how many steps each stands
    decoder: Tensor  # (B,) -log P(pixels | the least noisy image)
    dimensions: int  # of an image

    @property
    def nats(self) -> Tensor:
        """(B,) of a whole image; its mean is unbiased where not all steps were looked at."""
        return self.prior + (self.weight * self.steps).sum(1) + self.decoder

    def bits(self, nats: Tensor) -> Tensor:
        """Nats of an image as bits a dimension."""
        return nats / (self.dimensions * math.log(2))


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    image: Tensor,
    sigmas: Sequence[float],
    condition: Condition = Condition(),
    *,
    variance: str = "small",
    terms: int = 0,
) -> Bound:
    """The bound on -log P of images (B, C, H, W) whose 256 levels lie in [-1, 1].

    sigmas: the chain's noise levels, falling to 0. variance: "small", the posterior's, "large" or "learned".
    terms: how many of the KL terms are looked at; 0: all. What is drawn depends on the image alone.
    """
    if variance not in VARIANCES:
        raise WrongUse(f"there is no variance called {variance}", did_you_mean(variance, list(VARIANCES)))
    if len(sigmas) < 3 or sigmas[-1] != 0:
        raise WrongUse("a bound needs two steps or more, and noise levels that fall to 0")
    if terms < 0:
        raise WrongUse(f"terms must not be negative, and are {terms}", "0 looks at all of them")
    levels = torch.tensor(sigmas[::-1], dtype=torch.float64)
    chain = Chain(denoiser, image, levels, condition, variance, Noise(seeds(image), image.device))
    which, weight = chain.some(terms) if 0 < terms < len(levels) - 2 else chain.all()
    return Bound(
        prior=(image / sigmas[0]).square().flatten(1).sum(1) / 2,
        steps=torch.stack([chain.term(step) for step in which.unbind(1)], 1),
        which=which,
        weight=weight.to(image),
        decoder=chain.term(torch.ones(len(image), dtype=torch.int64)),
        dimensions=math.prod(image.shape[1:]),
    )


@dataclass(frozen=True)
class Chain:
    """Noisy images at rising levels from 0, and the model's steps backwards."""

    denoiser: Denoiser
    image: Tensor  # (B, C, H, W)
    levels: Tensor  # (T + 1,) float64, on the CPU
    condition: Condition
    variance: str
    noise: Noise

    def all(self) -> tuple[Tensor, Tensor]:
        """Every step but the last, for each image, and the weight 1."""
        which = torch.arange(2, len(self.levels)).expand(len(self.image), -1)
        return which, torch.ones(which.shape)

    def some(self, count: int) -> tuple[Tensor, Tensor]:
        """So many steps for each image, and what each stands for.

        They are drawn in proportion to what their terms are for pixels of deviation 1/2, one from each of
        equal parts of the sum.
        """
        sigma, following = self.levels[2:], self.levels[1:-1]
        expected = (sigma / following).square().sub(1) / (SIGMA_DATA**2 + sigma.square())
        share = expected / expected.sum()
        within = torch.special.ndtr(self.noise.normal(count).cpu().double())
        place = torch.searchsorted(share.cumsum(0), (torch.arange(count) + within) / count)
        place = place.clamp_max(len(share) - 1)
        return place + 2, 1 / (count * share[place])

    def term(self, step: Tensor) -> Tensor:
        """Nats (B,) of each image's step backwards from level `step` (B,); that from 1 is the decoder."""
        sigma, following = self.levels[step], self.levels[step - 1]
        x0, level = self.image, sigma.to(self.image)
        x = x0 + each(level) * self.noise.normal(*x0.shape[1:]).to(x0)
        clean, log_variance = self.backwards(x, sigma, following)
        if not following.any():
            return discretized_nll(x0, clean, log_variance.expand_as(x0)).flatten(1).sum(1)
        exact = each(bounds(sigma, following)[0].to(x0))
        moves = each((1 - (following / sigma).square()).to(x0))  # the means differ by so much of x0 - clean
        apart = moves * (x0 - clean)
        return normal_kl(apart, exact, torch.zeros_like(apart), log_variance).flatten(1).sum(1)

    def backwards(self, x: Tensor, sigma: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """The clean image, and the log variance of the step, which broadcasts."""
        last = ending(*self.levels[1:3].tolist())
        small, large = (each(bound.to(x)) for bound in bounds(sigma, following, last))
        if self.variance == "learned":
            clean, fraction = self.denoiser.moments(x, sigma.to(x), self.condition)
            return clean, learned(small, large, fraction)
        clean = self.denoiser(x, sigma.to(x), self.condition)
        return clean, small if self.variance == "small" or not following.any() else large


def chain_of(schedule: Schedule) -> list[float]:
    """A schedule's own steps, falling to 0; of a schedule without steps, CONTINUOUS of them.

    These end at a quarter of a grey level: there the decoder tells grey levels apart, while each finer step
    would magnify errors at noise levels that hardly any training looks at.
    """
    if isinstance(schedule, Tabulated):  # of the user's own, so not made to be a chain; often exact at time 0
        return [*(level for level in schedule.exact[::-1] if level >= FINEST), 0.0]
    if isinstance(schedule, Table):
        return [*schedule.exact[::-1], 0.0]
    finest = schedule.time(torch.tensor(FINEST, dtype=torch.float64)).item()
    times = torch.linspace(1, finest, CONTINUOUS, dtype=torch.float64)
    return [*schedule.level(times).tolist(), 0.0]
