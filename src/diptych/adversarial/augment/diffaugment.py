"""DiffAugment: a few augmentations of every image (Zhao et al., 2020, arXiv:2006.10738)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.adversarial.augment.pipeline import outside
from diptych.errors import WrongUse, did_you_mean

POLICY = "color,translation,cutout"
SHIFT, CUT = 1 / 8, 1 / 2  # of the image's size


class DiffAugment(nn.Module):
    """Images (B, C, H, W) in about [-1, 1] to augmented ones, all of them, differentiable twice.

    policy: some of "color" (brightness, saturation, contrast), "translation", "cutout", with commas.
    """

    def __init__(self, policy: str = POLICY) -> None:
        super().__init__()
        self.policy = tuple(policy.split(","))
        known = POLICY.split(",")
        for name in self.policy:
            if name not in known:
                raise WrongUse(f"DiffAugment has no policy {name!r}", did_you_mean(name, known))

    def forward(self, image: Tensor) -> Tensor:
        """Each image its own way."""
        with torch.autocast(image.device.type, enabled=False):
            image = image.float()
            for name in self.policy:
                image = {"color": recoloured, "translation": translated, "cutout": cut}[name](image)
        return image


def recoloured(image: Tensor) -> Tensor:
    """Brighter by up to 1/2, 0 to 2 times as saturated, 1/2 to 3/2 of the contrast; alpha is left alone."""
    colour, alpha = image[:, :3], image[:, 3:]
    brightness, saturation, contrast = torch.rand(3, len(image), 1, 1, 1, device=image.device)
    colour = colour + brightness - 0.5
    grey = colour.mean(1, keepdim=True)
    colour = grey + (colour - grey) * (2 * saturation)
    mean = colour.mean((1, 2, 3), keepdim=True)
    colour = mean + (colour - mean) * (contrast + 0.5)
    return torch.cat([colour, alpha], 1) if image.shape[1] > 3 else colour


def translated(image: Tensor) -> Tensor:
    """Moved by up to an eighth along both axes, 0 where nothing was."""
    n, _, height, width = image.shape
    for axis, size in ((2, height), (3, width)):
        most = int(size * SHIFT + 0.5)
        by = torch.randint(-most, most + 1, (n, 1), device=image.device)
        source = torch.arange(size, device=image.device) + by
        inside = (source >= 0) & (source < size)
        shape = (n, 1, size, 1) if axis == 2 else (n, 1, 1, size)
        index = source.clamp(0, size - 1).view(shape).expand_as(image)
        image = image.gather(axis, index) * inside.view(shape)
    return image


def cut(image: Tensor) -> Tensor:
    """0 in a box of half the size, whose centre lies anywhere."""
    n, _, height, width = image.shape
    size = torch.full((n,), CUT, device=image.device)
    return image * outside(size, torch.rand(n, 2, device=image.device), height, width)
