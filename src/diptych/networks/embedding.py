"""Times and positions as vectors of cosines and sines (Vaswani et al., 2017, arXiv:1706.03762)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diptych.errors import WrongUse


class Sinusoids(nn.Module):
    """A number as cosines, then sines, of `width` / 2 frequencies from 1 down to 1 / period.

    The last frequency is left out, as transformers and ADM have it, unless `endpoint` (DDPM, NCSN++).
    """

    frequencies: Tensor

    def __init__(self, width: int, period: float = 10_000.0, endpoint: bool = False) -> None:
        super().__init__()
        if width % 2:
            raise WrongUse(f"width must be even, not {width}", "times are read as cosines and sines")
        half = width // 2
        falling = torch.arange(half, dtype=torch.float32) / max(1, half - endpoint)
        self.register_buffer("frequencies", (-math.log(period) * falling).exp(), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """(B,) to (B, width), float32."""
        angle = value.float()[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)


class TimeEmbedding(nn.Sequential):
    """A time, about 0 to 1000, (B,), to a vector (B, width_out): sinusoids and two layers."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(
            Sinusoids(width_in), nn.Linear(width_in, width_out), nn.SiLU(), nn.Linear(width_out, width_out)
        )
