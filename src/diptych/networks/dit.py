"""DiT: a transformer over patches, whose norms are scaled and shifted by time and label
(Peebles and Xie, 2022, arXiv:2212.09748)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.networks.embedding import Sinusoids, TimeEmbedding
from diptych.networks.equalized import at_least_float32
from diptych.networks.labels import LabelEmbedding
from diptych.networks.shapes import padded
from diptych.saveable import saveable

POSITIONS = ("sincos", "rotary", "both")


@saveable
class DiT(nn.Module):
    """Reads (B, C, H, W), a time and a label; returns (B, out_channels, H, W).

    Any H and W: pads to whole patches and crops. positions: "sincos" are added to the patches, "rotary" turn
    queries and keys (Su et al., 2021, arXiv:2104.09864), or "both". The width is a multiple of 64, a head's
    channels, or less than that and a multiple of 8, for one head.
    """

    added: Tensor | None
    turns: Tensor | None

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 384,
        depth: int = 12,
        patch: int = 2,
        positions: str = "sincos",
        qk_norm: bool = False,  # of queries and keys, for stability (Dehghani et al., 2023, arXiv:2302.05442)
        out_channels: int = 0,  # 0: as many as the image has
        checkpointing: bool = False,  # blocks are computed again in the backward pass, to save memory
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"there are no positions called {positions}, but {', '.join(POSITIONS)}")
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        channels, height, wide = image_shape
        self.patch, self.checkpointing, self.out_channels = patch, checkpointing, out_channels or channels
        self.grid = -(-height // patch), -(-wide // patch)
        self.stem = nn.Conv2d(channels, width, patch, stride=patch)
        self.time = TimeEmbedding(256, width)
        self.label = LabelEmbedding(width, classes=classes, attributes=attributes)
        heads = max(1, width // 64)
        added = None if positions == "rotary" else sincos(self.grid, width)
        turns = None if positions == "sincos" else angles(self.grid, width // heads)
        self.register_buffer("added", added, persistent=False)
        self.register_buffer("turns", turns, persistent=False)
        self.blocks = nn.ModuleList([Block(width, heads, qk_norm) for _ in range(depth)])
        self.norm, self.affine = plain_norm(width), nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch * patch * self.out_channels)
        self.initialize()

    def initialize(self) -> None:
        """Every block begins as the identity, and the network as zero (adaLN-Zero, section 3.2)."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for part in (self.time, self.label):
            for module in part.modules():
                if isinstance(module, (nn.Linear, nn.Embedding)):
                    nn.init.normal_(module.weight, std=0.02)
        for layer in (self.affine, self.head, *(block.affine for block in self.blocks)):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); time (B,) or (1,), about 0 to 1000; label as in LabelEmbedding."""
        _, height, width = self.image_shape
        (rows, columns), p = self.grid, self.patch
        embedding, labelled = self.time(time), self.label(label, x.device)
        embedding = F.silu(embedding if labelled is None else embedding + labelled)
        tokens = at_least_float32(self.stem(padded(x, p)).permute(0, 2, 3, 1).flatten(1, 2))
        if self.added is not None:
            tokens = tokens + self.added
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, embedding, self.turns, use_reentrant=False)
            else:
                tokens = block(tokens, embedding, self.turns)
        shift, scale = self.affine(embedding)[:, None].chunk(2, 2)
        patches = self.head(modulated(self.norm(tokens), shift, scale))
        image = patches.unflatten(2, (p, p, self.out_channels)).unflatten(1, (rows, columns))
        image = image.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, rows p, columns p, C)
        return image.permute(0, 3, 1, 2)[:, :, :height, :width]  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and two layers; the embedding scales and shifts what they hear, and gates what they say."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.affine = nn.Linear(width, 6 * width)
        self.norm1, self.attention = plain_norm(width), Attention(width, heads, qk_norm)
        self.norm2 = plain_norm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, embedding: Tensor, turns: Tensor | None) -> Tensor:
        """x (B, T, C), embedding (B or 1, C), turns as in `turned`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.affine(embedding)[:, None].chunk(6, 2)
        x = torch.addcmul(x, gate1, self.attention(modulated(self.norm1(x), shift1, scale1), turns))
        return torch.addcmul(x, gate2, self.mlp(modulated(self.norm2(x), shift2, scale2)))


class Attention(nn.Module):
    """Self-attention, its queries and keys normed and turned where wanted."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scales = nn.Parameter(torch.ones(2, width // heads)) if qk_norm else None

    def forward(self, x: Tensor, turns: Tensor | None) -> Tensor:
        """x (B, T, C), turns as in `turned`."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, x.shape[2] // self.heads)).permute(2, 0, 3, 1, 4)
        qk, v = qkv[:2], qkv[2]
        if self.scales is not None:
            qk = F.rms_norm(qk, qk.shape[-1:], eps=1e-6) * self.scales.to(qk.dtype)[:, None, None, None]
        if turns is not None:
            qk = turned(qk, turns.to(qk.dtype))
        seen = F.scaled_dot_product_attention(qk[0], qk[1], v)
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift."""
    return torch.addcmul(shift, x, scale + 1)


def plain_norm(width: int) -> nn.LayerNorm:
    """Layer norm that learns nothing: what follows scales and shifts."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


def places(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The row and the column of each patch, (T,)."""
    rows, columns = grid
    return torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)


def sincos(grid: tuple[int, int], width: int) -> Tensor:
    """Sines, then cosines, of the patch's column, then those of its row, (1, T, width)."""
    row, column = places(grid)
    waves = Sinusoids(width // 2)
    quarters = [half for value in (column, row) for half in reversed(waves(value).chunk(2, 1))]
    return torch.cat(quarters, 1)[None]


def angles(grid: tuple[int, int], channels: int) -> Tensor:
    """Cosines and sines (2, T, channels / 2) of angles that grow with the row, then with the column.

    Their periods are those of a grid, not of a text (Heo et al., 2024, arXiv:2403.13298).
    """
    row, column = places(grid)
    slow = Sinusoids(channels // 2, period=100.0).frequencies
    angle = torch.cat([row[:, None] * slow, column[:, None] * slow], 1)
    return torch.stack([angle.cos(), angle.sin()])


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Each pair of channels (i, i + half) of x (..., T, C) turned by its angle, given as cosines and sines
    (2, T, C / 2): the product of two turned vectors depends on how far apart they are."""
    a, b = x.chunk(2, -1)
    cos, sin = turns
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], -1)
