"""Sizes and channels of networks for images of any shape."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from diptych.errors import WrongUse


def pyramid(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many doublings there are above a base of at least 4 pixels, and the base's height and width."""
    _, height, width = image_shape
    doublings = max(0, int(math.log2(min(height, width) / 4)))
    return doublings, math.ceil(height / 2**doublings), math.ceil(width / 2**doublings)


def doubled(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The doublings (at least one) above the base, and the base's height and width.

    Raises WrongUse for images below 8 pixels.
    """
    doublings, height, width = pyramid(image_shape)
    if not doublings:
        size = f"{image_shape[1]}x{image_shape[2]}"
        raise WrongUse(
            f"this network doubles sizes from 4 pixels, so it cannot make {size}", "8 is the least"
        )
    return doublings, height, width


def widths(width: int, doublings: int, largest: int) -> list[int]:
    """Channels from the base up: twice as many at each halving of the size, up to `largest`."""
    return [min(largest, width * 2**level) for level in range(doublings, -1, -1)]


def heads_of(c: int, size: int) -> int:
    """How many attention heads of at least `size` channels c channels make; size 0: one."""
    most = max(1, c // size) if size else 1
    return next(n for n in range(most, 0, -1) if c % n == 0)


def padded(x: Tensor, multiple: int) -> Tensor:
    """Zeros below and to the right, up to multiples."""
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))
