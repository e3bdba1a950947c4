"""R3GAN's generator and critic (Huang et al., 2025, arXiv:2501.05441): residual bottlenecks of grouped
convolutions, leaky ReLU, bilinear resampling, no normalisation; fix-up initialisation instead.

width, blocks and group are one number for all sizes, or one for each, from the base up. The paper's networks:

    CIFAR-10      width=(768,) * 4,                             blocks=2, group=16, latent=64
    FFHQ, 256 px  width=(768, 768, 768, 768, 384, 192, 96),     blocks=2, group=16, latent=64
    ImageNet, 64  width=(1536,) * 5,                            blocks=2, group=32, latent=64
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.networks.convolution import convolve
from diptych.networks.filters import downsample2d
from diptych.networks.labels import agreement, label_vector, quiet
from diptych.networks.shapes import padded, pyramid, widths
from diptych.saveable import saveable

Each = int | tuple[int, ...]  # the same for all sizes, or one for each from the base up

GAIN = math.sqrt(2 / 1.04)  # keeps the variance through leaky ReLU of slope 0.2
TAPS = (1.0, 3.0, 3.0, 1.0)  # bilinear interpolation between two sizes: [1, 2, 1] widened by [1, 1]


def stages_of(
    doublings: int, width: Each, largest: int, blocks: Each, group: Each
) -> list[tuple[int, int, int]]:
    """Channels, blocks and channels of a group at each size from the base up.

    Raises WrongUse where there are not as many as sizes, or groups do not divide.
    """
    n = doublings + 1
    channels = widths(width, doublings, largest) if isinstance(width, int) else list(width)
    each = [[value] * n if isinstance(value, int) else list(value) for value in (blocks, group)]
    given = (("width", width), ("blocks", blocks), ("group", group))
    for (name, asked), values in zip(given, (channels, *each), strict=True):
        if isinstance(asked, int) and asked < 1:
            raise WrongUse(f"{name} must be at least 1, not {asked}", "one number for all sizes, or for each")
        if len(values) != n or min(values) < 1:
            raise WrongUse(
                f"{name}={tuple(values)} does not name {n} whole numbers above 0",
                f"these images have {n} sizes from the base up: give one number for all, or {n}",
            )
    return list(zip(channels, *each, strict=True))


@saveable
class R3Generator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W).

    embedding: length of a label's vector; 0: as long as the latent.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 64,
        width: Each = 64,
        largest: int = 256,
        blocks: Each = 2,
        group: Each = 16,
        expansion: int = 2,
        embedding: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent = latent
        doublings, h, w = pyramid(image_shape)
        stages = stages_of(doublings, width, largest, blocks, group)
        depth = sum(n for _, n, _ in stages)
        self.label = label_vector(embedding or latent, classes, attributes)
        quiet(self.label)
        told = latent if self.label is None else latent + (embedding or latent)
        before = stages[0][0]
        self.project = scaled(nn.Linear(told, before, bias=False))
        self.basis = nn.Parameter(torch.randn(before, h, w))
        self.stages = nn.ModuleList()
        for level, (c, n, size) in enumerate(stages):
            grow = [Upsample(before, c)] if level else []
            self.stages.append(nn.Sequential(*grow, *(Block(c, size, expansion, depth) for _ in range(n))))
            before = c
        self.to_image = scaled(nn.Conv2d(before, image_shape[0], 1, bias=False))

    def reads_latents(self) -> list[Tensor]:
        """What reads the latents first, (out, latent): see `diptych.latent.directions`."""
        return [self.project.weight[:, : self.latent]]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        if self.label is not None:
            z = torch.cat([z, self.label(label, z.shape[0]).to(z.dtype)], 1)
        x = self.project(z)[:, :, None, None] * self.basis
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
        _, height, width = self.image_shape
        return convolve(self.to_image, x)[:, :, :height, :width]


@saveable
class R3Critic(nn.Module):
    """From images (B, C, H, W), and labels, to logits (B,); labels enter as a projection.

    embedding: length of a label's vector; 0: as many as channels at the base.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: Each = 64,
        largest: int = 256,
        blocks: Each = 2,
        group: Each = 16,
        expansion: int = 2,
        embedding: int = 0,
    ) -> None:
        super().__init__()
        doublings, h, w = pyramid(image_shape)
        stages = stages_of(doublings, width, largest, blocks, group)[::-1]
        depth = sum(n for _, n, _ in stages)
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.multiple = 2**doublings
        self.from_image = scaled(nn.Conv2d(image_shape[0], stages[0][0], 1, bias=False))
        self.stages = nn.ModuleList()
        for level, (c, n, size) in enumerate(stages):
            shrink = [Downsample(c, stages[level + 1][0])] if level < doublings else []
            self.stages.append(nn.Sequential(*(Block(c, size, expansion, depth) for _ in range(n)), *shrink))
        c = stages[-1][0]
        self.basis = scaled(nn.Conv2d(c, c, (h, w), groups=c, bias=False))
        self.label = label_vector(embedding or c, classes, attributes)
        self.project = scaled(nn.Linear(c, 1 if self.label is None else embedding or c, bias=False))

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        last = [m for m in (self.basis, self.project, self.label) if m is not None]
        return [nn.ModuleList([self.from_image, self.stages[0]]), *self.stages[1:], nn.ModuleList(last)]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        x = convolve(self.from_image, padded(image, self.multiple))
        for stage in self.stages:
            x = stage(x)
        x = self.basis(x).flatten(1)
        with torch.autocast(x.device.type, enabled=False):  # logits lose too much in 8 bits
            seen: Tensor = self.project(x.to(self.project.weight.dtype))
            if self.label is None:
                return seen.squeeze(1)
            return agreement(seen, self.label(label, seen.shape[0]))


class Block(nn.Module):
    """x + conv1x1(act(conv3x3(act(conv1x1(x))))), widened inside; begins as the identity."""

    def __init__(self, c: int, group: int, expansion: int, depth: int) -> None:
        super().__init__()
        inner = expansion * c
        groups = max(1, inner // group)
        if inner % groups:
            raise WrongUse(
                f"{inner} channels inside a block ({expansion} x {c}) cannot be parted into {groups} groups",
                "choose a width that is a multiple of the group",
            )
        # fix-up: `depth` blocks of three layers keep the variance (Zhang et al., 2019, arXiv:1901.09321)
        gain = GAIN * depth ** (-1 / 4)
        self.enter = scaled(nn.Conv2d(c, inner, 1), gain)
        self.spatial = scaled(nn.Conv2d(inner, inner, 3, padding=1, groups=groups), gain)
        self.leave = scaled(nn.Conv2d(inner, c, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        # in place: a convolution's derivative does not ask for its output, and neither does a sum's
        h = F.leaky_relu_(convolve(self.enter, x), 0.2)
        h = F.leaky_relu_(convolve(self.spatial, h), 0.2)
        return convolve(self.leave, h).add_(x)


class Upsample(nn.Module):
    """Twice the size by bilinear interpolation, channels changed before it; beyond the edge is 0."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.change = scaled(nn.Conv2d(c_in, c_out, 1, bias=False)) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        return bilinear(x if self.change is None else convolve(self.change, x))


class Downsample(nn.Module):
    """Half the size by the filter [1, 3, 3, 1], channels changed after it; beyond the edge is 0."""

    taps: Tensor

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.register_buffer("taps", torch.tensor(TAPS) / sum(TAPS), persistent=False)
        self.change = scaled(nn.Conv2d(c_in, c_out, 1, bias=False)) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        x = downsample2d(x, self.taps)
        return x if self.change is None else convolve(self.change, x)


def bilinear(x: Tensor) -> Tensor:
    """Twice the size by the filter [1, 3, 3, 1], (B, C, H, W) to (B, C, 2 H, 2 W): as zero insertion does it.

    torch's own interpolation repeats the edge where the filter sees 0; a border of zeros makes them the same.
    """
    up = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False)
    return up[:, :, 2:-2, 2:-2]


L = TypeVar("L", nn.Conv2d, nn.Linear)


def scaled(layer: L, gain: float = 1.0) -> L:
    """The layer with normal weights of standard deviation gain / sqrt(fan in), and biases at zero."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
