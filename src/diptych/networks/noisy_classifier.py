"""A classifier of noisy images: the first half of ADM's U-Net and attention pooling (Dhariwal and Nichol,
2021, arXiv:2105.05233, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.networks.blocks import Encoder, Levels, Style, norm, zeroed
from diptych.networks.embedding import TimeEmbedding
from diptych.networks.shapes import heads_of, padded
from diptych.saveable import saveable


@saveable
class ADMClassifier(nn.Module):
    """Reads (B, C, H, W) and a time; returns logits (B, classes). The defaults are those for 64x64."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int,
        width: int = 128,
        multipliers: tuple[float, ...] = (1, 2, 3, 4),
        blocks: int = 4,
        attention: tuple[int, ...] = (32, 16, 8),
        head: int = 64,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes = image_shape, classes
        levels = Levels.of(image_shape, width, multipliers, attention, blocks)
        style = Style(4 * width, dropout, head, checkpointing=checkpointing)
        self.time = TimeEmbedding(width, style.embedding)
        self.encoder = Encoder(image_shape[0], levels.channels[0], levels, style)
        c, m = levels.channels[-1], levels.multiple
        positions = -(-image_shape[1] // m) * -(-image_shape[2] // m)
        self.norm, self.multiple = norm(c), m
        self.pool = AttentionPool(c, positions, heads_of(c, head), classes)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, C, H, W); time (B,) or (1,), about 0 to 1000."""
        x, _ = self.encoder(padded(x, self.multiple), F.silu(self.time(time)))
        return self.pool(F.silu(self.norm(x)))  # type: ignore[no-any-return]


class AttentionPool(nn.Module):
    """The mean over all positions asks each of them, once (CLIP, Radford et al., 2021, arXiv:2103.00020)."""

    def __init__(self, c: int, positions: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.place = nn.Parameter(torch.randn(positions + 1, c) * c**-0.5)
        self.ask, self.answer = nn.Linear(c, c), nn.Linear(c, 2 * c)
        self.out = zeroed(nn.Linear(c, out))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) to (B, out)."""
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.place
        n, c = tokens.shape[1:]
        split = self.heads, c // self.heads
        q = self.ask(tokens[:, 0]).view(-1, 1, *split).transpose(1, 2)
        k, v = self.answer(tokens).view(-1, n, 2, *split).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).flatten(1))  # type: ignore[no-any-return]
