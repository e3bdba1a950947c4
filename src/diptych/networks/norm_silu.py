"""Group norm (Wu and He, 2018, arXiv:1803.08494), a scale and a shift (Perez et al., 2018, arXiv:1709.07871)
and SiLU as one step: what stands before nearly every convolution of a denoiser."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_silu(
    x: Tensor, norm: nn.GroupNorm, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """silu(norm(x) * (1 + scale) + shift); x (B, C, H, W), scale and shift (B, C, 1, 1) or (1, C, 1, 1)."""
    h: Tensor = norm(x)
    if scale is not None and shift is not None:
        h = torch.addcmul(shift, h, scale + 1)
    return F.silu(h, inplace=not torch.is_grad_enabled())  # h is nobody else's
