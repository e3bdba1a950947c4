"""A U-Net for noise levels and labels: DDPM++ blocks (Song et al., 2021, arXiv:2011.13456), ADM's group
norm (Dhariwal and Nichol, 2021, arXiv:2105.05233) and attention at the coarsest levels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.errors import WrongUse
from diptych.networks.blocks import norm, zeroed
from diptych.networks.labels import LabelEmbedding
from diptych.networks.norm_silu import norm_silu
from diptych.networks.shapes import heads_of, padded
from diptych.saveable import saveable

HALF = math.sqrt(0.5)  # a sum of two branches keeps the variance of one


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
        group: int = 4,  # channels of a norm's group, at least: 16 is faster on CPUs
        checkpointing: bool = False,  # blocks are computed again in the backward pass, to save memory
        augments: int = 0,  # numbers that say how an image was augmented; at sampling there are none
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.checkpointing, self.dropout = checkpointing, dropout
        channels, embedding = image_shape[0], 4 * width
        self.level = nn.Sequential(
            FourierLevel(width), nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = LabelEmbedding(embedding, classes=classes, attributes=attributes)
        self.augment = zeroed(nn.Linear(augments, embedding, bias=False)) if augments else None
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c, skips = width, [width]
        for depth, multiplier in enumerate(multipliers):
            attends = depth >= len(multipliers) - attention
            if depth:
                self.down.append(Block(c, c, embedding, dropout, group, resample="down"))
                skips.append(c)
            for _ in range(blocks):
                self.down.append(
                    Block(c, c := width * multiplier, embedding, dropout, group, attends=attends)
                )
                skips.append(c)
        self.middle = nn.ModuleList(
            [
                Block(c, c, embedding, dropout, group, attends=attention > 0),
                Block(c, c, embedding, dropout, group),
            ]
        )
        for depth, multiplier in reversed(list(enumerate(multipliers))):
            attends = depth >= len(multipliers) - attention
            for i in range(blocks + 1):
                last = i == blocks and attends
                self.up.append(
                    Block(c + skips.pop(), c := width * multiplier, embedding, dropout, group, attends=last)
                )
            if depth:
                self.up.append(Block(c, c, embedding, dropout, group, resample="up"))
        self.head = nn.Sequential(
            norm(c, least=group), nn.SiLU(), zeroed(nn.Conv2d(c, channels, 3, padding=1))
        )
        self.multiple = 2 ** (len(multipliers) - 1)

    def forward(
        self, x: Tensor, level: Tensor, label: Tensor | None = None, done: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W); level (B,) or (1,), about -4 to 4; label as in LabelEmbedding.

        done (B, augments): how each image was augmented; None: not at all.
        """
        _, height, width = self.image_shape
        embedding, labelled = self.level(level), self.label(label, x.device)
        if self.augment is not None and done is not None:
            embedding = embedding + self.augment(done)
        embedding = F.silu(embedding if labelled is None else embedding + labelled)
        x = self.stem(padded(x, self.multiple))
        skips = [x]
        for block in self.down:
            x = self._run(block, embedding, x)
            skips.append(x)
        for block in self.middle:
            x = self._run(block, embedding, x)
        for block in self.up:
            x = self._run(block, embedding, x, None if block.resample else skips.pop())
        norm, _, convolution = self.head
        return convolution(norm_silu(x, norm))[:, :, :height, :width]  # type: ignore[no-any-return, arg-type]

    def _run(self, block: nn.Module, embedding: Tensor, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
            state = self.dropout > 0  # both passes must see the same mask
            return checkpoint(block, x, embedding, skip, use_reentrant=False, preserve_rng_state=state)  # type: ignore[no-any-return]
        return block(x, embedding, skip)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual block whose second norm is scaled and shifted by the embedding; may resample or attend."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        dropout: float,
        group: int,
        *,
        resample: str = "",
        attends: bool = False,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1, self.conv1 = norm(c_in, least=group), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * c_out)
        self.norm2 = norm(c_out, least=group)
        self.conv2 = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out, group) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), embedding (B or 1, E); skip, further channels of x, from the way down."""
        x = x if skip is None else torch.cat([x, skip], 1)
        h = norm_silu(x, self.norm1)
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resample == "up":
            h, x = F.interpolate(h, scale_factor=2.0), F.interpolate(x, scale_factor=2.0)
        h = self.conv1(h)
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, 1)
        h = self.dropout(norm_silu(h, self.norm2, scale, shift))
        x = (self.skip(x) + self.conv2(h)).mul_(HALF)
        return self.attention(x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over all positions, heads of 32 to 64 channels."""

    def __init__(self, c: int, group: int) -> None:
        super().__init__()
        self.heads = heads_of(c, 64)
        self.norm = norm(c, least=group)
        # convolutions of one pixel: they stay in channels-last, and on CPUs are faster than nn.Linear
        self.qkv, self.out = nn.Conv2d(c, 3 * c, 1), zeroed(nn.Conv2d(c, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W)."""
        c, h, w = x.shape[1:]
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = qkv.unflatten(2, (3, self.heads, c // self.heads)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.out(seen.reshape(-1, h, w, c).permute(0, 3, 1, 2))
        return (x + out).mul_(HALF)


class FourierLevel(nn.Module):
    """A noise level as cosines and sines of `width` / 2 geometric frequencies."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 2:
            raise WrongUse(f"width must be even, not {width}", "noise levels are read as cosines and sines")
        self.register_buffer("frequencies", torch.logspace(-1, 2, width // 2), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        """(B,) to (B, width)."""
        angle = level.float()[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)
