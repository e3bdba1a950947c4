"""Progressive growing's generator and critic (Karras et al., 2017, arXiv:1710.10196): equalised learning
rate, pixel norm, minibatch standard deviation, and layers of a new size faded in."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.networks.equalized import (
    EqualizedConv2d,
    EqualizedLabel,
    EqualizedLinear,
    MinibatchStd,
    PixelNorm,
    at_least_float32,
    fmaps,
    full_precision,
    leaky,
)
from diptych.networks.labels import agreement
from diptych.networks.shapes import pyramid
from diptych.saveable import saveable

GAIN = math.sqrt(2)  # He's, of layers before a leaky ReLU


def known_level(level: float | None, doublings: int) -> float:
    """The level, full for None. Raises WrongUse where it is out of range."""
    full = float(doublings)
    if level is not None and not 0 <= level <= full:
        raise WrongUse(f"a level lies between 0 and {doublings} for images of this size, not at {level}")
    return full if level is None else float(level)


def newest(level: float) -> tuple[int, float]:
    """The newest stage, and its share: level 2.5 is stage 3, half faded in; level 2 is stage 2, all there.

    Stage s is the base size doubled s times.
    """
    stage = math.ceil(level)
    return stage, 1.0 if stage == level else level - (stage - 1)


def enlarged(image: Tensor, doublings: int = 1) -> Tensor:
    """(B, C, H, W) repeated to 2^doublings times the size."""
    return F.interpolate(image, scale_factor=float(2**doublings), mode="nearest") if doublings else image


def reduced(image: Tensor, doublings: int = 1) -> Tensor:
    """Means of squares of 2^doublings pixels a side."""
    return F.avg_pool2d(image, 2**doublings) if doublings else image


def padded(image: Tensor, multiple: int) -> Tensor:
    """Edge pixels repeated to the right and below, up to a multiple of so many pixels."""
    right, below = -image.shape[3] % multiple, -image.shape[2] % multiple
    return F.pad(image, (0, right, 0, below), mode="replicate") if right or below else image


def seen_at(image: Tensor, level: float) -> Tensor:
    """Images (B, C, H, W) with the detail that there is at this level, at the size that they had.

    At stage s they are reduced to its size; while it fades in, its own detail is there by its share.
    """
    doublings, _, _ = pyramid((image.shape[1], image.shape[2], image.shape[3]))
    if level == doublings:
        return image
    stage, share = newest(level)
    small = reduced(padded(image, 2**doublings), doublings - stage)
    if share < 1:
        small = enlarged(reduced(small)).lerp(small, share)
    return enlarged(small, doublings - stage)[:, :, : image.shape[2], : image.shape[3]]


@saveable
class PGGenerator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W).

    level: how far it has grown, 0 to `doublings`; None: fully. Images have the full size at each level.
    label_gain: the label's vector, normalised as the latent is, is taken so many times.
    """

    normalises = True

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 512,
        base: int = 16384,
        largest: int = 512,
        level: float | None = None,
        label_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent, self.label_gain = latent, label_gain
        self.doublings, h, w = pyramid(image_shape)
        self.level = known_level(level, self.doublings)
        channels = fmaps(image_shape, base, largest)
        told = bool(classes or attributes)
        self.label = EqualizedLabel(latent, classes=classes, attributes=attributes) if told else None
        self.normalise = PixelNorm()
        self.size = (channels[0], h, w)
        # a sixteenth of the variance for 4x4 values, as the paper's code has it
        self.project = EqualizedLinear(2 * latent if told else latent, math.prod(self.size), gain=GAIN / 4)
        self.stages = nn.ModuleList([Block(None, channels[0])])
        self.stages.extend(Block(small, large) for small, large in pairwise(channels))
        self.to_image = nn.ModuleList(EqualizedConv2d(c, image_shape[0], 1) for c in channels)

    def reads_latents(self) -> list[Tensor]:
        """What reads the latents first, (out, latent): see `diptych.latent.directions`."""
        return [self.project.weight[:, : self.latent] * self.project.scale]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        parts = [self.normalise(z)]
        if self.label is not None:
            parts.append(self.normalise(self.label(label, z.shape[0])) * self.label_gain)
        x = self.project(torch.cat(parts, 1)).view(-1, *self.size)
        before, x = x, self.stages[0](self.normalise(leaky(x)))
        stage, share = newest(self.level)
        for block in self.stages[1 : stage + 1]:
            before, x = x, block(enlarged(x))
        image = self.to_image[stage](x)
        if share < 1:
            image = enlarged(self.to_image[stage - 1](before)).lerp(image, share)
        _, height, width = self.image_shape
        return enlarged(image, self.doublings - stage)[:, :, :height, :width]


class Block(nn.Module):
    """Convolutions, each with leaky ReLU and pixel norm: one for the first stage, two for the others."""

    def __init__(self, n_in: int | None, n_out: int) -> None:
        super().__init__()
        enter = [] if n_in is None else [EqualizedConv2d(n_in, n_out, 3, gain=GAIN)]
        self.convs = nn.ModuleList([*enter, EqualizedConv2d(n_out, n_out, 3, gain=GAIN)])
        self.normalise = PixelNorm()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n_in, H, W) -> (B, n_out, H, W)."""
        for conv in self.convs:
            x = self.normalise(leaky(conv(x)))
        return x


@saveable
class PGCritic(nn.Module):
    """From images (B, C, H, W), and labels, to logits (B,); labels enter as a projection.

    level: as the generator's; images are reduced to the size of their stage first. group: images whose
    deviation is taken together.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        base: int = 16384,
        largest: int = 512,
        group: int = 4,
        level: float | None = None,
    ) -> None:
        super().__init__()
        self.doublings, h, w = pyramid(image_shape)
        self.level = known_level(level, self.doublings)
        channels = fmaps(image_shape, base, largest)
        c, told = channels[0], bool(classes or attributes)
        self.from_image = nn.ModuleList(EqualizedConv2d(image_shape[0], n, 1, gain=GAIN) for n in channels)
        self.deviation = MinibatchStd(group)
        self.end = nn.ModuleList(
            [EqualizedConv2d(c + 1, c, 3, gain=GAIN), EqualizedLinear(c * h * w, c, gain=GAIN)]
        )
        self.stages = nn.ModuleList(CriticBlock(large, small) for small, large in pairwise(channels))
        self.label = EqualizedLabel(c, classes=classes, attributes=attributes) if told else None
        self.out = EqualizedLinear(c, c if told else 1)

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        pairs = [nn.ModuleList(pair) for pair in zip(self.from_image[1:], self.stages, strict=True)]
        last = [self.from_image[0], self.end, self.out, *([] if self.label is None else [self.label])]
        return [*pairs[::-1], nn.ModuleList(last)]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        stage, share = newest(self.level)
        image = reduced(padded(image, 2**self.doublings), self.doublings - stage)
        x = leaky(self.from_image[stage](image))
        for s in range(stage, 0, -1):
            x = self.stages[s - 1](x)
            if s == stage and share < 1:
                x = leaky(self.from_image[s - 1](reduced(image))).lerp(x, share)
        conv, dense = self.end
        x = leaky(conv(self.deviation(x)))
        x = leaky(dense(x.flatten(1)))
        with full_precision(x):
            seen: Tensor = self.out(at_least_float32(x))
            if self.label is None:
                return seen.squeeze(1)
            told: Tensor = self.label(label, seen.shape[0])
            return agreement(seen, told)


class CriticBlock(nn.Module):
    """Two convolutions with leaky ReLU, then half the size by averaging."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv0 = EqualizedConv2d(n_in, n_in, 3, gain=GAIN)
        self.conv1 = EqualizedConv2d(n_in, n_out, 3, gain=GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n_in, H, W) -> (B, n_out, H / 2, W / 2)."""
        return reduced(leaky(self.conv1(leaky(self.conv0(x)))))
