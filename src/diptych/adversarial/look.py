"""Look: one training step as the critic's loss and its penalties see it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

Judge = Callable[[Tensor, Tensor | None], Tensor]  # images (B, C, H, W), labels -> logits (B,)


class Look:
    """Reals, as many fakes, their labels and logits; each part is computed when it is first asked for.

    judge: the critic, augmentation included. Images require gradients, so that penalties can ask for slopes.
    """

    def __init__(
        self, judge: Judge, real: Tensor, label: Tensor | None, generate: Callable[[], Tensor]
    ) -> None:
        self.judge, self.label, self._generate = judge, label, generate
        self.real = real.detach().requires_grad_()

    @cached_property
    def fake(self) -> Tensor:
        """Fakes (B, C, H, W), cut off from the generator."""
        return self._generate().detach().requires_grad_()

    @cached_property
    def real_logit(self) -> Tensor:
        """(B,)."""
        return self.judge(self.real, self.label)

    @cached_property
    def fake_logit(self) -> Tensor:
        """(B,)."""
        return self.judge(self.fake, self.label)
