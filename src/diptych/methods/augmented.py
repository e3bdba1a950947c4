"""Augmentation that does not leak: the network is told what was done to each image, and when it samples, that
nothing was (Karras et al., 2022, arXiv:2206.00364, appendix F.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diptych.adversarial.augment.matrices import moved, scaled, turned
from diptych.adversarial.augment.warp import warp
from diptych.errors import WrongUse

TOLD = 9  # numbers that describe what was done
DEVIATION = 0.2  # of the scale and the anisotropy, of powers of 2
MOVED = 0.125  # deviation of the translation, of the image's size


class NonLeaking:
    """Images to moved ones and what was done: mirrored half of the time, all else with a probability.

    Upside down, scaled, rotated, stretched, translated (table 6).
    """

    def __init__(self, probability: float) -> None:
        if not 0 < probability <= 1:
            raise WrongUse(
                f"an image is augmented with a probability, above 0 and at most 1, not {probability}"
            )
        self.probability = probability

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, C, H, W) to images, and to labels (B, 9) that are 0 where nothing was done."""
        with torch.autocast(image.device.type, enabled=False):
            n, _, height, width = image.shape
            device = image.device
            across = torch.randint(2, (n,), device=device)
            down = self.taken(torch.randint(2, (n,), device=device))
            scale = self.taken(torch.randn(n, device=device))
            angle = self.taken((torch.rand(n, device=device) * 2 - 1) * math.pi)
            stretch, towards = torch.randn(n, device=device), (torch.rand(n, device=device) * 2 - 1) * math.pi
            stretch, towards = self.taken(stretch), towards * (torch.rand(n, device=device) < 0.5)
            by = self.taken(torch.randn(2, n, device=device))
            image = mirrored(mirrored(image.float(), across, 3), down, 2)
            s, a = (scale * DEVIATION).exp2(), (stretch * DEVIATION).exp2()
            inverse = (
                scaled(1 / s, 1 / s)
                @ turned(angle)
                @ (turned(-towards) @ scaled(1 / a, a) @ turned(towards))
                @ moved(-by[0] * (width * MOVED), -by[1] * (height * MOVED))
            )
            labels = [across, down, scale, angle.cos() - 1, angle.sin()]
            labels += [stretch * towards.cos(), stretch * towards.sin(), by[0], by[1]]
            moved_image = warp(image, inverse).contiguous(memory_format=torch.channels_last)
        return moved_image, torch.stack([label.float() for label in labels], 1)

    def taken(self, value: Tensor) -> Tensor:
        """value (..., n), 0 for those images that it does not happen to."""
        return value * (torch.rand(value.shape[-1], device=value.device) < self.probability)


def mirrored(image: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """Along an axis, where `chosen` (B,) is 1."""
    return torch.where(chosen.view(-1, 1, 1, 1) == 1, image.flip(axis), image)
