"""What the U-Nets of DDPM++, NCSN++ (Song et al., 2021, arXiv:2011.13456) and ADM (Dhariwal and Nichol, 2021,
arXiv:2105.05233) are made of: residual blocks that may resample and attend, an encoder and a decoder of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.networks.norm_silu import norm_silu
from diptych.networks.shapes import heads_of


class Resample(nn.Module):
    """Half ("down") or twice ("up") the size by a separable filter; (1, 1): the mean, the nearest pixel."""

    filter: Tensor | None

    def __init__(self, c: int, way: str, taps: Sequence[int] = (1, 1)) -> None:
        super().__init__()
        self.way, self.padding, self.channels = way, (len(taps) - 1) // 2, c
        kernel = torch.tensor(taps, dtype=torch.float32)
        kernel = kernel.outer(kernel) / kernel.sum() ** 2 * (4 if way == "up" else 1)
        kernel = kernel.expand(c, 1, *kernel.shape).contiguous()
        self.register_buffer("filter", None if tuple(taps) == (1, 1) else kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W), even sizes where it goes down."""
        if self.filter is None:
            return F.avg_pool2d(x, 2) if self.way == "down" else F.interpolate(x, scale_factor=2.0)
        resample = F.conv2d if self.way == "down" else F.conv_transpose2d
        kernel = self.filter.to(x.dtype)
        return resample(x, kernel, stride=2, padding=self.padding, groups=self.channels)


class Attention(nn.Module):
    """Self-attention over all positions; `scale` is of the sum with its input."""

    def __init__(self, c: int, heads: int, scale: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        # convolutions of one pixel: on CPUs they are faster than nn.Linear
        self.norm, self.qkv, self.out = norm(c, eps), nn.Conv2d(c, 3 * c, 1), zeroed(nn.Conv2d(c, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        c, h, w = x.shape[1:]
        tokens = self.qkv(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)
        seen = attended(tokens, self.heads).reshape(-1, h, w, c).permute(0, 3, 1, 2)
        return scaled(x + self.out(seen), self.scale)


def attended(qkv: Tensor, heads: int) -> Tensor:
    """Queries, keys and values (B, N, 3 C), by what and then by head, to (B, N, C)."""
    n, c = qkv.shape[1:]
    q, k, v = qkv.view(-1, n, 3, heads, c // (3 * heads)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def scaled(x: Tensor, scale: float) -> Tensor:
    """x times a number, at no cost where it is 1."""
    return x if scale == 1 else x * scale


@dataclass(frozen=True)
class Style:
    """What all blocks of a network have in common."""

    embedding: int  # width of the vector that tells them of time and label
    dropout: float = 0.0
    head: int = 64  # channels of an attention head; 0: one head
    adaptive: bool = True  # the embedding scales and shifts a norm, rather than being added before it
    scale: float = 1.0  # of each sum of a branch with its skip connection
    taps: tuple[int, ...] = (1, 1)  # the filter that resamples
    project: bool = False  # a 1x1 convolution in the skip connection of blocks that resample, too
    eps: float = 1e-5
    checkpointing: bool = False  # activations are computed again in the backward pass, for less memory


class Block(nn.Module):
    """A residual block that hears an embedding; may resample, and attend at its end."""

    def __init__(self, c_in: int, c_out: int, style: Style, *, way: str = "", attends: bool = False) -> None:
        super().__init__()
        self.style = style
        self.norm1, self.conv1 = norm(c_in, style.eps), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(style.embedding, c_out * (2 if style.adaptive else 1))
        self.norm2, self.dropout = norm(c_out, style.eps), nn.Dropout(style.dropout)
        self.conv2 = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.resample = Resample(c_in, way, style.taps) if way else nn.Identity()
        projects = c_in != c_out or (way and style.project)
        self.skip = nn.Conv2d(c_in, c_out, 1) if projects else nn.Identity()
        heads = heads_of(c_out, style.head)
        self.attention = Attention(c_out, heads, style.scale, style.eps) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B or 1, E)."""
        if self.style.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(self.changed, x, embedding, use_reentrant=False)  # type: ignore[no-any-return]
        return self.changed(x, embedding)

    def changed(self, x: Tensor, embedding: Tensor) -> Tensor:
        """As `forward`, keeping the activations for the backward pass."""
        h = self.conv1(self.resample(norm_silu(x, self.norm1)))
        told = self.affine(embedding)[:, :, None, None]
        if self.style.adaptive:
            h = norm_silu(h, self.norm2, *told.chunk(2, 1))
        else:
            h = norm_silu(h + told, self.norm2)
        h = self.conv2(self.dropout(h))
        x = scaled(self.skip(self.resample(x)) + h, self.style.scale)
        return self.attention(x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Levels:
    """Channels at each resolution from the finest on, where there is attention, and blocks at each."""

    channels: tuple[int, ...]
    attends: tuple[bool, ...]
    blocks: int

    @classmethod
    def of(
        cls,
        image_shape: tuple[int, int, int],
        width: int,
        multipliers: Sequence[float],
        attention: Sequence[int],
        blocks: int,
    ) -> Levels:
        """attention: resolutions, each meaning sizes of more than half of it up to itself (28 is 32)."""
        shortest = min(image_shape[1:])
        sizes = [-(-shortest // 2**depth) for depth in range(len(multipliers))]
        attends = tuple(any(r / 2 < size <= r for r in attention) for size in sizes)
        return cls(tuple(int(width * m) for m in multipliers), attends, blocks)

    @property
    def multiple(self) -> int:
        """What an image's sides must be multiples of."""
        return int(2 ** (len(self.channels) - 1))


class Encoder(nn.Module):
    """From an image down to the coarsest level, noting what skips to the decoder.

    pyramid: the image itself also goes down, by convolutions, and is added at each level (NCSN++).
    """

    def __init__(
        self, channels: int, width: int, levels: Levels, style: Style, pyramid: bool = False
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.shrink, self.levels, self.pyramid = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        c, image, self.skips = width, channels, [width]
        for depth, (c_out, attends) in enumerate(zip(levels.channels, levels.attends, strict=True)):
            if depth:
                self.shrink.append(Block(c, c, style, way="down"))
                self.skips.append(c)
                if pyramid:
                    self.pyramid.append(Shrunk(image, c, style.taps))
                    image = c
            blocks = nn.ModuleList()
            for _ in range(levels.blocks):
                blocks.append(Block(c, c_out, style, attends=attends))
                self.skips.append(c := c_out)
            self.levels.append(blocks)
        self.middle = nn.ModuleList([Block(c, c, style, attends=True), Block(c, c, style)])

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, C, H, W) to the coarsest features and all that skips."""
        image, x = x, self.stem(x)
        skips = [x]
        for depth, blocks in enumerate(self.levels):
            if depth:
                x = self.shrink[depth - 1](x, embedding)
                if self.pyramid:
                    x = image = (x + self.pyramid[depth - 1](image)) * 0.5**0.5
                skips.append(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, embedding)
                skips.append(x)
        for block in self.middle:
            x = block(x, embedding)
        return x, skips


class Shrunk(nn.Module):
    """A 3x3 convolution at the old size, then a filter to half of it."""

    def __init__(self, c_in: int, c_out: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        # the border that the filter sees is convolved as well, not zeros
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1 + (len(taps) - 1) // 2)
        self.resample = Resample(c_out, "down", taps)
        self.resample.padding = 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / 2, W / 2)."""
        return self.resample(self.conv(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """From the coarsest level back to the finest.

    often: in the decoder every block attends where its level does (ADM); otherwise the last alone.
    """

    def __init__(self, skips: Sequence[int], levels: Levels, style: Style, often: bool) -> None:
        super().__init__()
        self.grow, self.levels = nn.ModuleList(), nn.ModuleList()
        c, left = levels.channels[-1], list(skips)
        for depth in reversed(range(len(levels.channels))):
            if depth < len(levels.channels) - 1:
                self.grow.append(Block(c, c, style, way="up"))
            blocks = nn.ModuleList()
            for i in range(levels.blocks + 1):
                attends = levels.attends[depth] and (often or i == levels.blocks)
                blocks.append(Block(c + left.pop(), c := levels.channels[depth], style, attends=attends))
            self.levels.append(blocks)

    def forward(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> list[Tensor]:
        """The features of each level, from the coarsest to the finest."""
        found = []
        for i, blocks in enumerate(self.levels):
            if i:
                x = self.grow[i - 1](x, embedding)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(torch.cat([x, skips.pop()], 1), embedding)
            found.append(x)
        return found


def norm(c: int, eps: float = 1e-5, least: int = 4) -> nn.GroupNorm:
    """Group norm with groups of at least `least` channels, at most 32 groups."""
    groups = next(g for g in range(min(32, max(1, c // least)), 0, -1) if c % g == 0)
    return nn.GroupNorm(groups, c, eps=eps)


def zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer with its parameters at zero, so that its block begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
