"""StyleGAN2's critic (Karras et al., 2020, arXiv:1912.04958, section 4.1), with the label projection of
StyleGAN2-ADA (Karras et al., 2020, arXiv:2006.06676)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from diptych.networks.equalized import (
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStd,
    at_least_float32,
    fmaps,
    full_precision,
    leaky,
)
from diptych.networks.filters import downsample2d, upfirdn2d
from diptych.networks.labels import agreement
from diptych.networks.mapping import Mapping
from diptych.networks.modulated import resampling
from diptych.networks.shapes import padded, pyramid
from diptych.networks.stylegan2 import HALF, known_architecture
from diptych.saveable import saveable


class CriticBlock(nn.Module):
    """Two convolutions, the second to half the size; colours enter at the first, or at each ("skip")."""

    taps: Tensor

    def __init__(
        self, n_in: int, n_out: int, *, colours: int, first: bool, architecture: str, clamp: float
    ) -> None:
        super().__init__()
        self.clamp, self.passes_on = clamp, architecture == "skip"
        enters = first or architecture == "skip"
        self.from_image = EqualizedConv2d(colours, n_in, 1) if enters else None
        self.conv0 = EqualizedConv2d(n_in, n_in, 3)
        self.conv1 = EqualizedConv2d(n_in, n_out, 3, stride=2, padding=0)
        self.skip = EqualizedConv2d(n_in, n_out, 1, bias=False) if architecture == "resnet" else None
        self.register_buffer("taps", resampling(), persistent=False)

    def forward(self, x: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, n_in, H, W) or None at the start, image (B, colours, H, W)."""
        if self.from_image is not None:
            seen = leaky(self.from_image(image, gain=math.sqrt(2)), self.clamp)
            x = seen if x is None else x + seen
            image = downsample2d(image, self.taps) if self.passes_on else image
        assert x is not None
        if self.skip is None:
            return self.halved(leaky(self.conv0(x, gain=math.sqrt(2)), self.clamp), 1.0), image
        side = self.skip(downsample2d(x, self.taps), gain=HALF)
        return side + self.halved(leaky(self.conv0(x, gain=math.sqrt(2)), self.clamp), HALF), image

    def halved(self, x: Tensor, gain: float) -> Tensor:
        """Filter, strided convolution, leaky ReLU."""
        before, after = 1 + (self.taps.shape[0] - 1) // 2, 1 + (self.taps.shape[0] - 2) // 2
        x = upfirdn2d(x, self.taps, padding=(before, after, before, after))
        return leaky(self.conv1(x, gain=math.sqrt(2) * gain), self.clamp * gain)


class CriticEnd(nn.Module):
    """From the smallest map to features (B, n_out); minibatch deviation first."""

    def __init__(
        self,
        c: int,
        size: tuple[int, int],
        n_out: int,
        *,
        colours: int,
        enters: bool,
        group: int,
        clamp: float,
    ) -> None:
        super().__init__()
        self.clamp = clamp
        self.from_image = EqualizedConv2d(colours, c, 1) if enters else None
        self.deviation = MinibatchStd(group)
        self.conv = EqualizedConv2d(c + 1, c, 3)
        self.dense = EqualizedLinear(c * size[0] * size[1], c)
        self.out = EqualizedLinear(c, n_out)

    def forward(self, x: Tensor | None, image: Tensor) -> Tensor:
        """x (B, c, h, w) or None at the start, image (B, colours, h, w)."""
        if self.from_image is not None:
            seen = leaky(self.from_image(image, gain=math.sqrt(2)))
            x = seen if x is None else x + seen
        assert x is not None
        x = leaky(self.conv(self.deviation(x), gain=math.sqrt(2)), self.clamp)
        x = leaky(self.dense(x.flatten(1), gain=math.sqrt(2)))
        with full_precision(x):
            return self.out(at_least_float32(x))  # type: ignore[no-any-return]


@saveable
class StyleGAN2Critic(nn.Module):
    """From images (B, C, H, W), and labels, to logits (B,); labels enter as a projection, through a mapping.

    group: images whose deviation is taken together.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        mapping_layers: int = 8,
        base: int = 16384,
        largest: int = 512,
        architecture: str = "resnet",
        group: int = 4,
        clamp: float = 0.0,
    ) -> None:
        super().__init__()
        known_architecture(architecture)
        doublings, h, w = pyramid(image_shape)
        channels, colours = fmaps(image_shape, base, largest), image_shape[0]
        self.multiple = 2**doublings
        self.blocks = nn.ModuleList(
            CriticBlock(
                channels[level],
                channels[level - 1],
                colours=colours,
                first=level == doublings,
                architecture=architecture,
                clamp=clamp,
            )
            for level in range(doublings, 0, -1)
        )
        c, told = channels[0], bool(classes or attributes)
        self.mapping = (
            Mapping(0, c, 0, depth=mapping_layers, classes=classes, attributes=attributes) if told else None
        )
        enters = not doublings or architecture == "skip"
        self.end = CriticEnd(
            c, (h, w), c if told else 1, colours=colours, enters=enters, group=group, clamp=clamp
        )

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        last = [self.end] if self.mapping is None else [self.end, self.mapping]
        return [*self.blocks, nn.ModuleList(last)]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        image = padded(image, self.multiple)
        x: Tensor | None = None
        for block in self.blocks:
            x, image = block(x, image)
        seen: Tensor = self.end(x, image)
        if self.mapping is None:
            return seen.squeeze(1)
        told: Tensor = self.mapping(None, label, seen.shape[0])
        return agreement(seen, told)
