"""Great circles: points between normal ones that are as far from the origin as they are."""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Along great circles from `one` to `other`, (F, ...) or (1, ...), at shares (F,) from 0 to 1: (F, ...).

    Shoemake, 1985. Points that are alike or opposite are joined by the straight line.
    """
    share = share.view(-1, *[1] * (one.ndim - 1)).to(one)
    cosine = torch.cosine_similarity(one.flatten(1), other.flatten(1), 1).clamp(-1, 1)
    angle = cosine.acos().view(-1, *[1] * (one.ndim - 1))
    straight = angle.sin() < 1e-4  # there is no one great circle
    sine = torch.where(straight, 1.0, angle.sin())
    a = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / sine)
    b = torch.where(straight, share, (share * angle).sin() / sine)
    return a * one + b * other
