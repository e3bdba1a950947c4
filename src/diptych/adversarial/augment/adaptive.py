"""Adaptive discriminator augmentation: as much of it as a critic needs not to learn its reals by heart
(Karras et al., 2020, arXiv:2006.06676, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.adversarial.augment.pipeline import Pipeline
from diptych.errors import WrongUse
from diptych.method import Clock

INTERVAL = 4  # steps from one adjustment to the next
SHARE = 0.2  # of a training, in which p may go all the way, where that is less than `images`


class Adaptive(nn.Module):
    """A pipeline whose p rises while too many reals are called real, and falls while too few are.

    target: the mean sign of reals' logits that is aimed at, between 0, not overfitting, and 1, overfitting
    entirely. images: in so many, or in a fifth of the training where that is less, p may go from 0 to 1.
    """

    starts_anew = True  # a training that begins from another run's weights has other images
    sign: Tensor
    seen: Tensor
    turn: Tensor

    def __init__(self, pipeline: Pipeline, target: float = 0.6, images: int = 500_000) -> None:
        super().__init__()
        if not -1 < target < 1:
            raise WrongUse(f"the target is a mean of signs, between -1 and 1, not {target}")
        if images < 1:
            raise WrongUse(f"p moves within a number of images, at least 1, not {images}")
        self.pipeline, self.target, self.images = pipeline, target, images
        self.register_buffer("sign", torch.zeros(()))  # since the last adjustment
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))

    @property
    def p(self) -> Tensor:
        """The probability of each augmentation now, ()."""
        return self.pipeline.p

    def forward(self, image: Tensor) -> Tensor:
        """As the pipeline."""
        return self.pipeline(image)  # type: ignore[no-any-return]

    @torch.no_grad()
    def observe(self, real_logit: Tensor, clock: Clock) -> dict[str, Tensor]:
        """Takes note of logits (B,) of augmented reals; at each fourth time moves p. Returns it for the log.

        Nothing here waits for the device.
        """
        images = clock.batch or real_logit.shape[0]
        self.sign += real_logit.sign().mean() * images
        self.seen += images
        self.turn += 1
        due = self.turn % INTERVAL == 0
        step = (self.sign / self.seen - self.target).sign() * self.seen / self.speed(clock)
        self.p.copy_(torch.where(due, (self.p + step).clamp(0, 1), self.p))
        for count in (self.sign, self.seen):
            count.copy_(torch.where(due, 0, count))
        return {"augment": self.p.clone()}

    def speed(self, clock: Clock) -> float:
        """In how many images p may go from 0 to 1."""
        return max(1.0, min(self.images, SHARE * clock.total))
