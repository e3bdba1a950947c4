"""The mapping of style generators: latents, and labels, to styles (StyleGAN, Karras et al., 2018,
arXiv:1812.04948; labels as in StyleGAN2-ADA, Karras et al., 2020, arXiv:2006.06676)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.networks.equalized import (
    EqualizedLabel,
    EqualizedLinear,
    PixelNorm,
    at_least_float32,
    full_precision,
    leaky,
)

RATE = 0.01  # its layers learn so many times as fast as others


class Mapping(nn.Module):
    """(z, label) -> styles (B, layers, D), one for all layers; (B, D) where layers is 0.

    Latent and label are normalised to a mean square of 1 each; the label is then taken `label_gain` times.
    A critic's has no z, only labels.
    """

    def __init__(
        self,
        latent: int,
        style: int,
        layers: int,
        *,
        depth: int = 8,
        classes: int = 0,
        attributes: int = 0,
        label_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise WrongUse(f"a mapping has at least one layer, not {depth}", "--mapping 2, say")
        told = bool(classes or attributes)
        self.layers, self.label_gain = layers, label_gain
        self.embed = EqualizedLabel(style, classes=classes, attributes=attributes) if told else None
        enter = latent + (style if told else 0)
        self.stack = nn.ModuleList(
            EqualizedLinear(style if i else enter, style, lr_multiplier=RATE) for i in range(depth)
        )
        self.normalise = PixelNorm()

    def forward(self, z: Tensor | None, label: Tensor | None = None, n: int = 0) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); n: the batch size where there is no z."""
        x = self.style(z, label, n)
        return x[:, None].expand(-1, self.layers, -1) if self.layers else x

    def style(self, z: Tensor | None, label: Tensor | None, n: int = 0) -> Tensor:
        """(B, D)."""
        parts = [] if z is None else [self.normalise(at_least_float32(z))]
        with full_precision(self.stack[0].weight):  # type: ignore[arg-type]
            if self.embed is not None:
                told = self.normalise(self.embed(label, n if z is None else z.shape[0]))
                parts.append(told if self.label_gain == 1 else told * self.label_gain)
            x = torch.cat(parts, 1)
            for layer in self.stack:
                x = leaky(layer(x, gain=math.sqrt(2)))
        return x
