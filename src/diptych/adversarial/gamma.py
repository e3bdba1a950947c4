"""gamma="auto": a weight of R1 and R2 that follows from how far apart the critic holds reals and fakes.

With a weight that is too small the critic is soon sure of every image and what it tells the generator is
noise; with one that is too large it is flat and tells it little but colours and shapes. Where a penalised
critic is far from sure, the gap of its mean logits goes as 1 / gamma, whatever the size and contrast of the
images: so the gap is what is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.adversarial.look import Look
from diptych.adversarial.penalties import Weight
from diptych.errors import WrongUse
from diptych.method import Clock

Gamma = float | Literal["auto", "none"]
LEAST, MOST = 1e-4, 1e4
FALLING = 0.25  # how quick it falls, as a share of how quick it rises


class AutoGamma(nn.Module):
    """A Weight that rises while the critic's mean logits of reals and fakes are farther than `gap` apart.

    Rises by a factor of e at most in `quickest` images, or in an eighth of the images seen so far, but at
    least that much in a fortieth of the training; falls at a quarter of that, for a weight that is too small
    does more harm. Its state is saved with the penalty that it weighs.
    """

    starts_anew = True  # what was right for other images is found again
    firmness = 1.0  # so many times the weight, and that part of the gap; see `firmer`
    exponent: Tensor
    seen_gap: Tensor

    def __init__(self, gap: float = 0.3, start: float = 5.0, quickest: int = 1000) -> None:
        super().__init__()
        self.gap, self.quickest = gap, quickest
        self.register_buffer("exponent", torch.tensor(math.log(start)))
        self.register_buffer("seen_gap", torch.tensor(gap))

    def forward(self, clock: Clock) -> Tensor:
        """gamma, a scalar of its own: a later look does not change it."""
        return self.exponent.exp() * self.firmness

    def firmer(self, factor: float) -> None:
        """So many times the weight, for that part of the gap: it would else find back to where it was."""
        self.firmness *= factor

    @torch.no_grad()
    def observe(self, look: Look, clock: Clock, steps: int = 1) -> None:
        """Moves gamma by what the logits of one batch say; it stands for so many steps."""
        # widened first: the gap is small beside the means, which bfloat16 would round
        real, fake = (logit.detach().float() for logit in (look.real_logit, look.fake_logit))
        gap = real.mean() - fake.mean()
        slow = max(self.quickest, min(clock.images / 8, clock.total / 40))
        share = min(
            0.25, steps * (clock.batch or look.real.shape[0]) / slow
        )  # no more: the critic takes steps to follow
        self.seen_gap.lerp_(gap, min(1.0, 4 * share))
        error = (self.seen_gap / (self.gap / self.firmness) - 1).clamp(-1, 1)
        self.exponent.add_(error * torch.where(error < 0, FALLING * share, share))
        self.exponent.clamp_(math.log(LEAST), math.log(MOST))


def remedy_of(gamma: Gamma) -> str:
    """What may help a training that diverges under this gamma, beside a smaller learning rate."""
    return {"auto": "", "none": "--gamma auto"}.get(str(gamma), "a larger --gamma")


def usual(gamma: Gamma, value: float) -> Gamma:
    """The gamma that was asked for, or this value where it is -1: the recipe's own, by the images' size."""
    return value if gamma == -1 else gamma


def weight_of(gamma: Gamma, schedule: Callable[[float, Clock], float] = lambda gamma, clock: gamma) -> Weight:
    """The Weight that a recipe's `gamma` means: a number on its schedule, one that tunes itself, or nothing.

    Raises WrongUse for a number that is no weight.
    """
    if gamma == "none":
        return lambda clock: 0.0
    if isinstance(gamma, str):
        if gamma != "auto":
            raise WrongUse(f"gamma is a number, auto or none, not {gamma!r}", "--gamma 1, say")
        return AutoGamma()
    if not 0 <= gamma < math.inf:
        raise WrongUse(f"gamma is at least 0 and finite, not {gamma}", "or auto, which finds it")
    return lambda clock: schedule(gamma, clock)
