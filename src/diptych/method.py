"""How networks are trained: a Method is networks, the phases they take, and the model that results."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.model import Batch, Condition, Model

__all__ = [
    "Batch",
    "Clock",
    "Condition",
    "Loss",
    "Method",
    "Phase",
    "Schedule",
    "adam",
    "checked_rate",
    "constant",
    "warmup_cosine",
]


class Clock(NamedTuple):
    """Where training stands. Lengths are counted in images, never in steps."""

    images: int  # seen before this step
    total: int  # images that the budget allows
    step: int
    batch: int = 0  # images in this step, of all its shards; 0: as many as there are before one's eyes

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.images / max(1, self.total))


Loss = tuple[Tensor, dict[str, Tensor]]  # what to minimise, and what to log
Schedule = Callable[[Clock], float]


def constant(clock: Clock) -> float:
    """The learning rate as it is."""
    return 1.0


def warmup_cosine(clock: Clock, warmup: float = 0.02, final: float = 0.0) -> float:
    """Linear over the first `warmup` of training, then half a cosine down to `final` of the learning rate."""
    if clock.progress < warmup:
        return (clock.progress + 1e-3) / (warmup + 1e-3)
    falling = (clock.progress - warmup) / (1 - warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * falling)) / 2


@dataclass(frozen=True)
class Phase:
    """One optimizer's turn within a training step."""

    name: str
    loss: Callable[[Batch, Clock], Loss]
    optimizer: torch.optim.Optimizer  # its parameters move; all others hold still
    every: int = 1
    lr_scale: Schedule = constant
    clip: float = math.inf  # largest norm of the gradient

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that move in this phase."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Method(nn.Module, ABC):
    """Some networks, the turns they take in training, and the model that results."""

    model: Model
    remedy: str = "a smaller --lr is the usual remedy"  # where numbers are no longer finite

    def compilable(self) -> Sequence[nn.Module]:
        """What `--compile` compiles: nothing that is differentiated twice, as penalised critics are."""
        return self.model.networks()

    def settle(self, model: Model, clock: Clock) -> None:
        """Makes averaged weights ready to be looked at, at each tick: batch norms and the like."""

    def memory(self, train: Batch, held_out: Batch, clock: Clock) -> Mapping[str, Tensor]:
        """How well each image is known: scores (B,) of "train" and "held_out", alike where nothing was
        learned by heart, and of "fake" where a critic judges. Nothing where there is no such score."""
        return {}

    def firmer(self, factor: float) -> None:
        """Multiplies the weights of penalties. Raises WrongUse for a method that has none.

        How often that was done is remembered by the training, not in the method's state.
        """
        raise WrongUse("this method has no penalty that could be firmer", "--on-alarm rollback, warn or stop")

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The turns of one training step, in order. Called once, after the method is on its device."""


def checked_rate(lr: float) -> float:
    """The learning rate. Raises WrongUse where it is negative or not finite."""
    if not 0 <= lr < math.inf:
        raise WrongUse(f"a learning rate is at least 0 and finite, not {lr}", "--lr 2e-4, say")
    return lr


def adam(
    module: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """AdamW over a module's parameters, as one fused kernel a step."""
    return torch.optim.AdamW(
        module.parameters(), lr=checked_rate(lr), betas=betas, weight_decay=weight_decay, fused=True
    )
