"""BigGAN-deep's generator and critic (Brock et al., 2019, arXiv:1809.11096, appendix B): bottleneck blocks
that are all told the whole latent, and shortcuts that keep, drop or add channels without mixing them."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.networks.biggan import Attention, Head, ToldNorm, conv, halvings, orthogonal
from diptych.networks.labels import label_vector
from diptych.networks.resgan import twice
from diptych.networks.shapes import doubled, padded, widths
from diptych.networks.spectral import spectral
from diptych.saveable import saveable


@saveable
class DeepGenerator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W) in [-1, 1].

    shared: length of the label's embedding. width: channels at the full size, doubled at each halving, up to
    `largest`. blocks: at each size, the last of which doubles it. attention: as in BigGenerator.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 128,
        shared: int = 128,
        width: int = 128,
        largest: int = 2048,
        blocks: int = 2,
        attention: int = 64,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent = latent
        doublings, height, wide = doubled(image_shape)
        channels = widths(width, doublings, largest)
        self.label = label_vector(shared, classes, attributes)
        self.norms_follow = self.label is not None  # the threshold of latents, as published
        if self.label is not None:
            for layer in self.label.children():
                orthogonal(layer)
        told = latent + (0 if self.label is None else shared)
        self.base = (height, wide, channels[0])
        self.project = spectral(orthogonal(nn.Linear(told, channels[0] * height * wide)))
        self.stages = nn.ModuleList(
            nn.ModuleList(
                [*(UpBlock(a, a, told, False) for _ in range(blocks - 1)), UpBlock(a, b, told, True)]
            )
            for a, b in pairwise(channels)
        )
        self.attended = doublings - halvings(image_shape, attention)
        self.attention = Attention(channels[self.attended]) if attention else None
        self.norm = nn.BatchNorm2d(channels[-1], eps=1e-4)
        self.to_image = conv(channels[-1], image_shape[0], 3)

    def reads_latents(self) -> list[Tensor]:
        """What reads the latents first, (out, latent): see `diptych.latent.directions`."""
        norms = [module for module in self.modules() if isinstance(module, ToldNorm)]
        layers = [self.project, *(layer for norm in norms for layer in (norm.gain, norm.bias))]
        return [torch.cat([layer.weight[:, : self.latent] for layer in layers])]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        told = z if self.label is None else torch.cat([z, self.label(label, z.shape[0])], 1)
        x = self.project(told).unflatten(1, self.base).permute(0, 3, 1, 2)
        for level, stage in enumerate(self.stages):
            if self.attention is not None and level == self.attended:
                x = self.attention(x)
            for block in cast(nn.ModuleList, stage):
                x = block(x, told)
        _, height, width = self.image_shape
        return torch.tanh(self.to_image(F.relu(self.norm(x)))[:, :, :height, :width])


@saveable
class DeepCritic(nn.Module):
    """From images (B, C, H, W), and labels, to logits (B,); labels enter as a projection."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 128,
        largest: int = 2048,
        blocks: int = 2,
        attention: int = 64,
    ) -> None:
        super().__init__()
        doublings, _, _ = doubled(image_shape)
        channels = widths(width, doublings, largest)[::-1]
        self.multiple = 2**doublings
        self.from_image = conv(image_shape[0], channels[0], 3)
        self.stages = nn.ModuleList(
            nn.Sequential(DownBlock(a, b, True), *(DownBlock(b, b, False) for _ in range(blocks - 1)))
            for a, b in pairwise(channels)
        )
        self.attended = halvings(image_shape, attention) - 1
        self.attention = Attention(channels[self.attended + 1]) if attention else None
        self.head = Head(channels[-1], classes, attributes)

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        parts: list[nn.Module] = [self.from_image, *self.stages, self.head]
        if self.attention is not None:
            parts[self.attended + 1] = nn.ModuleList([parts[self.attended + 1], self.attention])
        return parts

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        x = self.from_image(padded(image, self.multiple))
        for level, stage in enumerate(self.stages):
            x = stage(x)
            if self.attention is not None and level == self.attended:
                x = self.attention(x)
        return self.head(x, label)  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Four told norms, ReLUs and convolutions, 1x1, 3x3, 3x3, 1x1, a quarter as wide inside.

    The shortcut drops the last channels where there are fewer afterwards. up: at twice the size.
    """

    def __init__(self, c_in: int, c_out: int, told: int, up: bool) -> None:
        super().__init__()
        self.c_out, self.up = c_out, up
        inner = max(1, c_in // 4)
        self.norms = nn.ModuleList(ToldNorm(c, told) for c in (c_in, inner, inner, inner))
        ends = (c_in, inner, inner, inner, c_out)
        self.convs = nn.ModuleList(
            conv(a, b, size, bias=False) for (a, b), size in zip(pairwise(ends), (1, 3, 3, 1), strict=True)
        )

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x (B, c_in, H, W), told (B, told)."""
        h = x
        for step, (norm, layer) in enumerate(zip(self.norms, self.convs, strict=True)):
            h = F.relu(norm(h, told))
            h = layer(twice(h) if self.up and step == 1 else h)
        x = x[:, : self.c_out]
        return h + (twice(x) if self.up else x)


class DownBlock(nn.Module):
    """Four ReLUs and convolutions, 1x1, 3x3, 3x3, 1x1, a quarter as wide inside.

    The shortcut adds channels by a 1x1 convolution where there are more afterwards. down: at half the size.
    """

    def __init__(self, c_in: int, c_out: int, down: bool) -> None:
        super().__init__()
        self.down = down
        inner = max(1, c_out // 4)
        self.convs = nn.ModuleList(
            conv(a, b, size) for a, b, size in ((c_in, inner, 1), (inner, inner, 3), (inner, inner, 3))
        )
        self.leave = conv(inner, c_out, 1)
        self.more = conv(c_in, c_out - c_in, 1) if c_out > c_in else None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, c_in, H, W)."""
        h = x
        for layer in self.convs:
            h = layer(F.relu(h))
        h = F.relu(h)
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.more is not None:
            x = torch.cat([x, self.more(x)], 1)
        return self.leave(h) + x  # type: ignore[no-any-return]
