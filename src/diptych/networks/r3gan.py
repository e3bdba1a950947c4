"""R3GAN's generator and critic (Huang et al., 2025, arXiv:2501.05441): residual bottlenecks of grouped
convolutions, leaky ReLU, bilinear resampling, no normalisation; fix-up initialisation instead."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.networks.labels import label_vector
from diptych.saveable import saveable


def pyramid(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many doublings there are above a base of at least 4 pixels, and the base's height and width."""
    _, height, width = image_shape
    doublings = max(0, int(math.log2(min(height, width) / 4)))
    return doublings, math.ceil(height / 2**doublings), math.ceil(width / 2**doublings)


def widths(width: int, doublings: int, largest: int) -> list[int]:
    """Channels from the base up: twice as many at each halving of the size, up to `largest`."""
    return [min(largest, width * 2**level) for level in range(doublings, -1, -1)]


@saveable
class R3Generator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W)."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 64,
        width: int = 64,
        largest: int = 256,
        blocks: int = 2,
        group: int = 16,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent = latent
        doublings, h, w = pyramid(image_shape)
        channels = widths(width, doublings, largest)
        depth = blocks * len(channels)
        self.label = label_vector(latent, classes, attributes)
        told = latent if self.label is None else 2 * latent
        self.project = scaled(nn.Linear(told, channels[0], bias=False))
        self.basis = nn.Parameter(torch.randn(channels[0], h, w))
        self.stages = nn.ModuleList()
        for level, c in enumerate(channels):
            grow = [Upsample(channels[level - 1], c)] if level else []
            self.stages.append(nn.Sequential(*grow, *(Block(c, group, depth) for _ in range(blocks))))
        self.to_image = scaled(nn.Conv2d(channels[-1], image_shape[0], 1, bias=False))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        if self.label is not None:
            z = torch.cat([z, self.label(label, z.shape[0])], 1)
        x = self.project(z)[:, :, None, None] * self.basis
        for stage in self.stages:
            x = stage(x)
        _, height, width = self.image_shape
        return self.to_image(x)[:, :, :height, :width]  # type: ignore[no-any-return]


@saveable
class R3Critic(nn.Module):
    """From images (B, C, H, W), and labels, to logits (B,); labels enter as a projection."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 64,
        largest: int = 256,
        blocks: int = 2,
        group: int = 16,
    ) -> None:
        super().__init__()
        doublings, h, w = pyramid(image_shape)
        channels = widths(width, doublings, largest)[::-1]
        depth = blocks * len(channels)
        self.multiple = 2**doublings
        self.from_image = scaled(nn.Conv2d(image_shape[0], channels[0], 1, bias=False))
        self.stages = nn.ModuleList()
        for level, c in enumerate(channels):
            shrink = [Downsample(c, channels[level + 1])] if level < doublings else []
            self.stages.append(nn.Sequential(*(Block(c, group, depth) for _ in range(blocks)), *shrink))
        c = channels[-1]
        self.basis = scaled(nn.Conv2d(c, c, (h, w), groups=c, bias=False))
        self.label = label_vector(c, classes, attributes)
        self.project = scaled(nn.Linear(c, 1 if self.label is None else c, bias=False))

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        last = [m for m in (self.basis, self.project, self.label) if m is not None]
        return [nn.ModuleList([self.from_image, self.stages[0]]), *self.stages[1:], nn.ModuleList(last)]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        height, width = image.shape[2:]
        x = self.from_image(F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple)))
        for stage in self.stages:
            x = stage(x)
        seen: Tensor = self.project(self.basis(x).flatten(1))
        if self.label is None:
            return seen.squeeze(1)
        return (seen * self.label(label, seen.shape[0])).sum(1) / math.sqrt(seen.shape[1])  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + conv1x1(act(conv3x3(act(conv1x1(x))))), widened by two inside; begins as the identity."""

    def __init__(self, c: int, group: int, depth: int) -> None:
        super().__init__()
        inner = 2 * c
        groups = max(1, inner // group)
        # fix-up: `depth` blocks of three layers keep the variance (Zhang et al., 2019, arXiv:1901.09321)
        gain = math.sqrt(2 / 1.04) * depth ** (-1 / 4)
        self.enter = scaled(nn.Conv2d(c, inner, 1), gain)
        self.spatial = scaled(nn.Conv2d(inner, inner, 3, padding=1, groups=groups), gain)
        self.leave = scaled(nn.Conv2d(inner, c, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        h = F.leaky_relu(self.enter(x), 0.2)
        h = F.leaky_relu(self.spatial(h), 0.2)
        return x + self.leave(h)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Twice the size by bilinear interpolation, channels changed before it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.change = scaled(nn.Conv2d(c_in, c_out, 1, bias=False)) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        return F.interpolate(self.change(x), scale_factor=2.0, mode="bilinear", align_corners=False)


class Downsample(nn.Module):
    """Half the size by averaging, channels changed after it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.change = scaled(nn.Conv2d(c_in, c_out, 1, bias=False)) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        return self.change(F.avg_pool2d(x, 2))  # type: ignore[no-any-return]


def scaled(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Module:
    """The layer with normal weights of standard deviation gain / sqrt(fan in), and biases at zero."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
