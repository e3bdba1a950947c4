"""A U-Net for noise levels and labels: DDPM++ blocks (Song et al., 2021, arXiv:2011.13456), ADM's group
norm (Dhariwal and Nichol, 2021, arXiv:2105.05233) and attention at the coarsest levels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.networks.labels import LabelEmbedding
from diptych.saveable import saveable


@saveable
class UNet(nn.Module):
    """Reads (B, C, H, W), a noise level and a label; returns (B, C, H, W).

    Any H and W: pads and crops inside.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 2,
        attention: int = 1,  # at this many of the coarsest levels
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        channels, embedding = image_shape[0], 4 * width
        self.level = nn.Sequential(
            FourierLevel(width), nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = LabelEmbedding(embedding, classes=classes, attributes=attributes)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c, skips = width, [width]
        for depth, multiplier in enumerate(multipliers):
            attends = depth >= len(multipliers) - attention
            if depth:
                self.down.append(Block(c, c, embedding, dropout, resample="down"))
                skips.append(c)
            for _ in range(blocks):
                self.down.append(Block(c, c := width * multiplier, embedding, dropout, attends=attends))
                skips.append(c)
        self.middle = nn.ModuleList(
            [Block(c, c, embedding, dropout, attends=attention > 0), Block(c, c, embedding, dropout)]
        )
        for depth, multiplier in reversed(list(enumerate(multipliers))):
            attends = depth >= len(multipliers) - attention
            for i in range(blocks + 1):
                last = i == blocks and attends
                self.up.append(
                    Block(c + skips.pop(), c := width * multiplier, embedding, dropout, attends=last)
                )
            if depth:
                self.up.append(Block(c, c, embedding, dropout, resample="up"))
        self.head = nn.Sequential(norm(c), nn.SiLU(), zeroed(nn.Conv2d(c, channels, 3, padding=1)))
        self.multiple = 2 ** (len(multipliers) - 1)

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); level (B,) or (1,), about -4 to 4; label as in LabelEmbedding."""
        _, height, width = self.image_shape
        embedding, labelled = self.level(level), self.label(label, x.device)
        embedding = F.silu(embedding if labelled is None else embedding + labelled)
        x = self.stem(F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple)))
        skips = [x]
        for block in self.down:
            x = block(x, embedding)
            skips.append(x)
        for block in self.middle:
            x = block(x, embedding)
        for block in self.up:
            x = block(x if block.resample else torch.cat([x, skips.pop()], 1), embedding)
        return self.head(x)[:, :, :height, :width]  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual block whose second norm is scaled and shifted by the embedding; may resample or attend."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        dropout: float,
        *,
        resample: str = "",
        attends: bool = False,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1, self.conv1 = norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * c_out)
        self.norm2, self.conv2 = norm(c_out), zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B or 1, E)."""
        h = F.silu(self.norm1(x))
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resample == "up":
            h, x = F.interpolate(h, scale_factor=2.0), F.interpolate(x, scale_factor=2.0)
        h = self.conv1(h)
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, 1)
        h = F.silu(torch.addcmul(shift, self.norm2(h), scale + 1))
        h = self.conv2(self.dropout(h))
        return self.attention((self.skip(x) + h) * math.sqrt(0.5))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over all positions, heads of 32 to 64 channels."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.heads = max(1, c // 64)
        self.norm, self.qkv, self.out = norm(c), nn.Linear(c, 3 * c), zeroed(nn.Linear(c, c))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        c, h, w = x.shape[1:]
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, c // self.heads)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (x + self.out(seen).unflatten(1, (h, w)).permute(0, 3, 1, 2)) * math.sqrt(0.5)  # type: ignore[no-any-return]


class FourierLevel(nn.Module):
    """A noise level as cosines and sines of `width` / 2 geometric frequencies."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-1, 2, width // 2), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        """(B,) to (B, width)."""
        angle = level.float()[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)


def norm(c: int) -> nn.GroupNorm:
    """Group norm with groups of at least 4 channels, at most 32 groups."""
    groups = next(g for g in range(min(32, max(1, c // 4)), 0, -1) if c % g == 0)
    return nn.GroupNorm(groups, c, eps=1e-5)


def zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer with its parameters at zero, so that its block begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
