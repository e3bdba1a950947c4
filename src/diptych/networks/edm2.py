"""The EDM2 U-Net: no biases, no norms with state; every layer keeps magnitudes (Karras et al., 2024,
arXiv:2312.02696, figure 21)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.networks.magnitude import (
    SILU,
    MPConv,
    MPFourier,
    MPLabel,
    MPLinear,
    mp_cat,
    mp_silu,
    mp_sum,
    mp_weights,
    unit,
)
from diptych.networks.shapes import heads_of, padded
from diptych.saveable import saveable


@saveable
class EDM2UNet(nn.Module):
    """Reads (B, C, H, W), a noise level and a label; returns (B, C, H, W).

    Any H and W: pads and crops inside. Train it with `force_magnitudes` after each optimizer step.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: int = 2,  # at this many of the coarsest levels
        dropout: float = 0.0,
        checkpointing: bool = False,  # blocks are computed again in the backward pass, to save memory
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.checkpointing, self.multiple = checkpointing, 2 ** (len(multipliers) - 1)
        widths = [width * multiplier for multiplier in multipliers]
        channels, embedding = image_shape[0], max(widths)
        self.fourier, self.level = MPFourier(width), MPLinear(width, embedding)
        self.label = MPLabel(embedding, classes=classes, attributes=attributes)
        self.stem = MPConv(channels + 1, width, 3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        attends = [depth >= len(widths) - attention for depth in range(len(widths))]
        c, skips = width, [width]
        for depth, wide in enumerate(widths):
            if depth:
                self.down.append(Block(c, c, embedding, dropout, resample="down", encodes=True))
                skips.append(c)
            for _ in range(blocks):
                self.down.append(
                    Block(c, c := wide, embedding, dropout, attends=attends[depth], encodes=True)
                )
                skips.append(c)
        self.middle = nn.ModuleList(
            [Block(c, c, embedding, dropout, attends=attention > 0), Block(c, c, embedding, dropout)]
        )
        for depth, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(Block(c + skips.pop(), c := wide, embedding, dropout, attends=attends[depth]))
            if depth:
                self.up.append(Block(c, c, embedding, dropout, resample="up"))
        self.head, self.gain = MPConv(c, channels, 3), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); level (B,) or (1,), about -4 to 4; label as in MPLabel."""
        _, height, width = self.image_shape
        embedding, labelled = self.level(self.fourier(level)), self.label(label, x.device)
        embedding = mp_silu(embedding if labelled is None else mp_sum(embedding, labelled, 0.5))
        x = padded(x, self.multiple)
        x = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], 1))  # ones stand in for biases
        skips = [x]
        for block in self.down:
            x = self.run(block, x, embedding)
            skips.append(x)
        for block in self.middle:
            x = self.run(block, x, embedding)
        for block in self.up:
            x = self.run(block, x if block.resample else mp_cat(x, skips.pop()), embedding)
        return self.head(x, self.gain)[:, :, :height, :width]  # type: ignore[no-any-return]

    def run(self, block: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        """A block's output."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, embedding, use_reentrant=False)  # type: ignore[no-any-return]
        return block(x, embedding)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual block, scaled by the embedding; may resample or attend.

    An encoder's begins with pixel norm.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        dropout: float,
        *,
        resample: str = "",
        attends: bool = False,
        encodes: bool = False,
        balance: float = 0.3,  # of the residual branch
    ) -> None:
        super().__init__()
        self.resample, self.encodes = resample, encodes
        self.kept, self.added = mp_weights(balance)
        self.skip = MPConv(c_in, c_out, 1) if c_in != c_out else None
        self.conv1 = MPConv(c_out if encodes else c_in, c_out, 3)
        self.affine, self.gain = MPLinear(embedding, c_out), nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = MPConv(c_out, c_out, 3)
        self.attention = Attention(c_out, balance) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B or 1, E)."""
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0)
        if self.encodes:
            x = unit(x if self.skip is None else self.skip(x), (1,))
        # mp_silu's constant and mp_sum's weight are the convolutions' gains: fewer passes over the image
        h = self.conv1(F.silu(x), SILU)
        h = F.silu(h * (self.affine(embedding, self.gain) + 1)[:, :, None, None])
        h = self.conv2(self.dropout(h), SILU * self.added)
        if self.skip is None or self.encodes:
            x = torch.add(h, x, alpha=self.kept)
        else:
            x = h + self.skip(x, self.kept)
        return self.attention(x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over all positions by the cosine of queries and keys, heads of 32 to 64 channels."""

    def __init__(self, c: int, balance: float) -> None:
        super().__init__()
        self.heads = heads_of(c, 64)
        self.qkv, self.out = MPLinear(c, 3 * c), MPLinear(c, c)
        self.kept, self.added = mp_weights(balance)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        c, h, w = x.shape[1:]
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        qkv: Tensor = self.qkv(tokens)
        split = qkv.view(*qkv.shape[:2], 3, self.heads, c // self.heads)
        q, k, v = unit(split, (4,)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = torch.add(self.out(seen, self.added), tokens, alpha=self.kept)
        return out.reshape(-1, h, w, c).permute(0, 3, 1, 2)
