"""DiffAugment: a few augmentations of every image (Zhao et al., 2020, arXiv:2006.10738)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from diptych.adversarial.augment.pipeline import outside
from diptych.adversarial.augment.stacks import Change, alike
from diptych.errors import WrongUse, did_you_mean

POLICY = "color,translation,cutout"
SHIFT, CUT = 1 / 8, 1 / 2  # of the image's size


class DiffAugment(nn.Module):
    """Images (B, C, H, W) in about [-1, 1] to augmented ones, all of them, differentiable twice.

    policy: some of "color" (brightness, saturation, contrast), "translation", "cutout", with commas.
    channels: as in `Pipeline`.
    """

    def __init__(self, policy: str = POLICY, channels: int = 0) -> None:
        super().__init__()
        self.policy, self.channels = tuple(policy.split(",")), channels
        for name in self.policy:
            if name not in DRAWN:
                raise WrongUse(f"DiffAugment has no policy {name!r}", did_you_mean(name, list(DRAWN)))

    def forward(self, image: Tensor) -> Tensor:
        """Each image, or each stack, its own way."""
        with torch.autocast(image.device.type, enabled=False):
            return alike(image.float(), self.channels, self.changes)

    def changes(self, image: Tensor) -> list[Change]:
        """What is to be done to images of this shape, in order."""
        return [DRAWN[name](image) for name in self.policy]


def recolouring(image: Tensor) -> Change:
    """Brighter by up to 1/2, 0 to 2 times as saturated, 1/2 to 3/2 of the contrast; alpha is left alone."""
    brightness, saturation, contrast = torch.rand(3, len(image), 1, 1, 1, device=image.device)

    def recoloured(image: Tensor) -> Tensor:
        colour, alpha = image[:, :3] + brightness - 0.5, image[:, 3:]
        grey = colour.mean(1, keepdim=True)
        colour = grey + (colour - grey) * (2 * saturation)
        mean = colour.mean((1, 2, 3), keepdim=True)
        colour = mean + (colour - mean) * (contrast + 0.5)
        return torch.cat([colour, alpha], 1) if image.shape[1] > 3 else colour

    return recoloured


def translation(image: Tensor) -> Change:
    """Moved by up to an eighth along both axes, 0 where nothing was."""
    n, _, *sizes = image.shape
    moves = []
    for axis, size in enumerate(sizes, 2):
        most = int(size * SHIFT + 0.5)
        by = torch.randint(-most, most + 1, (n, 1), device=image.device)
        source = torch.arange(size, device=image.device) + by
        shape = (n, 1, size, 1) if axis == 2 else (n, 1, 1, size)
        inside = ((source >= 0) & (source < size)).view(shape)
        moves.append((axis, source.clamp(0, size - 1).view(shape), inside))

    def translated(image: Tensor) -> Tensor:
        for axis, index, inside in moves:
            image = image.gather(axis, index.expand_as(image)) * inside
        return image

    return translated


def cutout(image: Tensor) -> Change:
    """0 in a box of half the size, whose centre lies anywhere."""
    n, _, height, width = image.shape
    size = torch.full((n,), CUT, device=image.device)
    return partial(torch.mul, outside(size, torch.rand(n, 2, device=image.device), height, width))


DRAWN: dict[str, Callable[[Tensor], Change]] = {
    "color": recolouring,
    "translation": translation,
    "cutout": cutout,
}
