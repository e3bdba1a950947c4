"""The augmentation pipeline of ADA: eighteen chances in six groups, each taken with probability p
(Karras et al., 2020, arXiv:2006.06676, appendix B and algorithm 1)."""

from __future__ import annotations

import math
from functools import lru_cache, partial, reduce

import numpy as np
import torch
from torch import Tensor, nn

from diptych.adversarial.augment import matrices
from diptych.adversarial.augment.stacks import Change, alike
from diptych.adversarial.augment.warp import constant, warp
from diptych.adversarial.augment.wavelets import bands, folded
from diptych.errors import WrongUse, did_you_mean

GROUPS: dict[str, tuple[str, ...]] = {
    "blit": ("flip", "rotate90", "xint"),  # pixels to pixels
    "geom": ("scale", "rotate", "aniso", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "filter": ("filter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
SWITCHES = tuple(name for group in GROUPS.values() for name in group)
PRESETS: dict[str, tuple[str, ...]] = {
    **GROUPS,
    **{
        "".join(name[0] for name in list(GROUPS)[:k]): sum(list(GROUPS.values())[:k], ())
        for k in range(2, len(GROUPS) + 1)
    },  # bg, bgc, bgcf, bgcfn, bgcfnc
}

XINT, XFRAC = 0.125, 0.125  # largest whole translation, deviation of a fractional one, of the image's size
SCALE, ANISO, CONTRAST, SATURATION, FILTER = 0.2, 0.2, 0.5, 1.0, 1.0  # deviations, of powers of 2
BRIGHTNESS, NOISE, CUTOUT = 0.2, 0.1, 0.5  # deviations, and a share of the image's size
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of natural images, in the four bands


class Pipeline(nn.Module):
    """Images (B, C, H, W) in about [-1, 1] to augmented ones, differentiable twice, random on their device.

    preset: one of PRESETS, or names of SWITCHES with commas. p: the probability of each, a buffer. channels:
    of an image; where the input has a multiple of it, it is stacks of images, and those of one stack are
    changed alike. 0: as many as the input has.
    """

    p: Tensor

    def __init__(self, preset: str = "bgc", p: float = 1.0, channels: int = 0) -> None:
        super().__init__()
        self.on = frozenset(PRESETS.get(preset) or preset.split(","))
        for name in sorted(self.on - set(SWITCHES)):
            hint = did_you_mean(name, [*PRESETS, *SWITCHES])
            raise WrongUse(f"there is no augmentation called {name!r}", hint)
        if not 0 <= p <= 1:
            raise WrongUse(f"p is a probability, 0 to 1, not {p}")
        self.channels = channels
        self.register_buffer("p", torch.tensor(float(p)))

    def forward(self, image: Tensor) -> Tensor:
        """Each image, or each stack, its own way."""
        with torch.autocast(image.device.type, enabled=False):
            return alike(image.float(), self.channels, self.changes)

    def changes(self, image: Tensor) -> list[Change]:
        """What is to be done to images of this shape, in order; drawn here, so that it can be done again."""
        n, channels, height, width = image.shape
        found: list[Change] = []
        if moves := self.moves(n, height, width):
            found.append(partial(warp, inverse=reduce(torch.matmul, moves)))
        if colours := self.colours(n, channels > 1):
            found.append(partial(recoloured, colour=reduce(lambda before, after: after @ before, colours)))
        if "filter" in self.on:
            found.append(partial(filtered, gains=self.gains(n)))
        if "noise" in self.on:
            deviation = self.taken(torch.randn(n, device=self.p.device).abs() * NOISE, 0)
            noise = torch.randn(image.shape, device=image.device)
            found.append(partial(torch.add, noise * deviation.view(-1, 1, 1, 1)))
        if "cutout" in self.on:
            size = self.taken(torch.full((n,), CUTOUT, device=self.p.device), 0)
            centre = torch.rand(n, 2, device=self.p.device)
            found.append(partial(torch.mul, outside(size, centre, height, width)))
        return found

    def taken(self, value: Tensor, neutral: float, p: Tensor | None = None) -> Tensor:
        """value (n, ...) for each image with probability p, else the neutral one."""
        coin = torch.rand(value.shape[0], device=value.device) < (self.p if p is None else p)
        return torch.where(coin.view(-1, *[1] * (value.ndim - 1)), value, neutral)

    def moves(self, n: int, height: int, width: int) -> list[Tensor]:
        """Inverses of what moves pixels, (n, 3, 3) each, in the order in which images are moved."""
        on, found = self.on, []
        uniform, normal = self._uniform, self._normal
        # half of all rotations before the stretching and half after it: one of both with probability p
        p_rotate = 1 - (1 - self.p).clamp(0, 1).sqrt()
        if "flip" in on:
            sign = 1 - 2 * self.taken((uniform(n) * 2).floor(), 0)
            found.append(matrices.scaled(sign, torch.ones_like(sign)))
        if "rotate90" in on:
            found.append(matrices.turned(self.taken((uniform(n) * 4).floor(), 0) * (math.pi / 2)))
        if "xint" in on:
            by = self.taken((uniform(n, 2) * 2 - 1) * XINT, 0)
            found.append(matrices.moved(-(by[:, 0] * width).round(), -(by[:, 1] * height).round()))
        if "scale" in on:
            s = self.taken((normal(n) * SCALE).exp2(), 1)
            found.append(matrices.scaled(1 / s, 1 / s))
        if "rotate" in on:
            found.append(matrices.turned(self.taken((uniform(n) * 2 - 1) * math.pi, 0, p_rotate)))
        if "aniso" in on:
            s = self.taken((normal(n) * ANISO).exp2(), 1)
            found.append(matrices.scaled(1 / s, s))
        if "rotate" in on:
            found.append(matrices.turned(self.taken((uniform(n) * 2 - 1) * math.pi, 0, p_rotate)))
        if "xfrac" in on:
            by = self.taken(normal(n, 2) * XFRAC, 0)
            found.append(matrices.moved(-by[:, 0] * width, -by[:, 1] * height))
        return found

    def colours(self, n: int, coloured: bool) -> list[Tensor]:
        """What changes colours, (n, 4, 4) each, in order; greys have no hue and no saturation."""
        on, found = self.on, []
        if "brightness" in on:
            found.append(matrices.brightened(self.taken(self._normal(n) * BRIGHTNESS, 0)))
        if "contrast" in on:
            found.append(matrices.contrasted(self.taken((self._normal(n) * CONTRAST).exp2(), 1)))
        if "lumaflip" in on:
            found.append(matrices.luma_flipped(self.taken((self._uniform(n) * 2).floor(), 0)))
        if "hue" in on and coloured:
            found.append(matrices.hue_turned(self.taken((self._uniform(n) * 2 - 1) * math.pi, 0)))
        if "saturation" in on and coloured:
            found.append(matrices.saturated(self.taken((self._normal(n) * SATURATION).exp2(), 1)))
        return found

    def gains(self, n: int) -> Tensor:
        """How much louder each band becomes, (n, 4); the power of a natural image stays."""
        power = natural_power(self.p.device)
        total = torch.ones(n, len(POWER), device=self.p.device)
        for band in range(len(POWER)):
            own = torch.ones_like(total)
            own[:, band] = self.taken((self._normal(n) * FILTER).exp2(), 1)
            total = total * own / (power * own.square()).sum(1, keepdim=True).sqrt()
        return total

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.p.device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.p.device)


def recoloured(image: Tensor, colour: Tensor) -> Tensor:
    """image (B, C, H, W), colour (B, 4, 4): grey images take part in what is common to all colours, and an
    alpha channel in nothing."""
    if image.shape[1] == 1:
        row = colour[:, :3].mean(1)
        return image * row[:, :3].sum(1).view(-1, 1, 1, 1) + row[:, 3].view(-1, 1, 1, 1)
    told = torch.einsum("bij,bjhw->bihw", colour[:, :3, :3], image[:, :3]) + colour[:, :3, 3, None, None]
    return torch.cat([told, image[:, 3:]], 1) if image.shape[1] > 3 else told


def filtered(image: Tensor, gains: Tensor) -> Tensor:
    """image (B, C, H, W), gains (B, 4) of the bands, along both axes; images go on by reflection."""
    down, across = (
        torch.einsum("bk,kij->bij", gains, band_matrices(n, image.device))[:, None] for n in image.shape[2:]
    )
    return down @ image @ across.mT


@lru_cache(maxsize=16)
def band_matrices(n: int, device: torch.device) -> Tensor:
    """(4, n, n): each band of a signal of n samples that goes on by reflection."""
    filters = bands()
    result, rows = np.zeros((len(filters), n, n)), np.arange(n)
    for tap in range(filters.shape[1]):
        columns = folded(rows + tap - filters.shape[1] // 2, n)
        result[:, rows, columns] += filters[:, tap, None]  # each row meets one column a tap
    return constant(result, device)


@lru_cache(maxsize=16)
def natural_power(device: torch.device) -> Tensor:
    """POWER on a device, brought there once: the copy waits for all that the device has to do."""
    return constant(POWER, device)


def outside(size: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """0 in a box, 1 elsewhere: (n, 1, H, W); size (n,) and centre (n, 2) as shares of the image."""
    away = [
        ((torch.arange(n, device=size.device) + 0.5) / n - centre[:, axis, None]).abs() >= size[:, None] / 2
        for axis, n in enumerate((width, height))
    ]
    return (away[0][:, None, None, :] | away[1][:, None, :, None]).float()
