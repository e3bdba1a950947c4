"""Blurred images at first, so that a critic does not learn from the finest details before there are any
(StyleGAN3, Karras et al., 2021, arXiv:2106.12423, appendix D)."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.method import Clock, Schedule
from diptych.networks.filters import filter2d


def blurred(image: Tensor, sigma: float) -> Tensor:
    """image (B, C, H, W) behind a Gaussian of `sigma` pixels, 2^-(x / sigma)^2 as in its code; 0: none."""
    radius = int(3 * sigma)
    if not radius:
        return image
    x = torch.arange(-radius, radius + 1, device=image.device) / sigma
    taps = torch.exp2(-x.square())
    return filter2d(image, taps / taps.sum())


def fading(sigma: float, share: float) -> Schedule:
    """From sigma pixels to none over that share of training, which is above 0."""

    def left(clock: Clock) -> float:
        return sigma * max(0.0, 1 - clock.progress / share)

    return left
