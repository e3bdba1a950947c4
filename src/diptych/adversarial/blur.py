"""A critic that sees blurred images at first, so that it does not learn from the finest details before there
are any (StyleGAN3, Karras et al., 2021, arXiv:2106.12423, appendix D)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diptych.method import Clock
from diptych.networks.filters import filter2d


class Blurred(nn.Module):
    """A critic behind a Gaussian blur of `sigma` pixels, which is set from outside; 0: none."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic, self.sigma = critic, 0.0

    def parts(self) -> list[nn.Module]:
        """The critic's own."""
        return self.critic.parts()  # type: ignore[no-any-return, operator]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) -> logits (B,)."""
        radius = int(3 * self.sigma)
        if radius:
            x = torch.arange(-radius, radius + 1, device=image.device) / self.sigma
            taps = torch.exp2(-x.square())
            image = filter2d(image, taps / taps.sum())
        return self.critic(image, label)  # type: ignore[no-any-return]


def fading(sigma: float, share: float) -> Callable[[nn.Module, Clock], None]:
    """What sets the blur of a critic by the clock: from sigma pixels to none over that share of training."""

    def set_blur(network: nn.Module, clock: Clock) -> None:
        if isinstance(network, Blurred):
            network.sigma = sigma * max(0.0, 1 - clock.progress / share)

    return set_blur
