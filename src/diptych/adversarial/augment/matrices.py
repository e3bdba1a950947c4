"""Homogeneous matrices, one for each image of a batch: what becomes of positions and of colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def matrix(rows: Sequence[Sequence[Tensor | float]]) -> Tensor:
    """(n, rows, columns) from entries (n,) and numbers; one entry at least is a tensor."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    entries = [e if isinstance(e, Tensor) else torch.full_like(like, e) for row in rows for e in row]
    return torch.stack(entries, -1).reshape(-1, len(rows), len(rows[0]))


def moved(x: Tensor, y: Tensor) -> Tensor:
    """Of the plane, by x and y: (n, 3, 3)."""
    return matrix([[1, 0, x], [0, 1, y], [0, 0, 1]])


def scaled(x: Tensor, y: Tensor) -> Tensor:
    """Of the plane, along both axes: (n, 3, 3)."""
    return matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def turned(angle: Tensor) -> Tensor:
    """Of the plane, in radians, from x towards y: (n, 3, 3)."""
    c, s = angle.cos(), angle.sin()
    return matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def brightened(by: Tensor) -> Tensor:
    """Of colours: the same added to red, green and blue, (n, 4, 4)."""
    return matrix([[1, 0, 0, by], [0, 1, 0, by], [0, 0, 1, by], [0, 0, 0, 1]])


def contrasted(by: Tensor) -> Tensor:
    """Of colours: red, green and blue times the same, (n, 4, 4)."""
    return matrix([[by, 0, 0, 0], [0, by, 0, 0], [0, 0, by, 0], [0, 0, 0, 1]])


def grey_axis(device: torch.device) -> tuple[Tensor, Tensor]:
    """The projection on the axis of greys, (4, 4), and the identity."""
    third, identity = torch.full((4, 4), 1 / 3, device=device), torch.eye(4, device=device)
    third[3], third[:, 3] = 0, 0
    return third, identity


def luma_flipped(chosen: Tensor) -> Tensor:
    """Of colours: light and dark exchanged, hues kept, where `chosen` is 1 and not 0: (n, 4, 4)."""
    grey, identity = grey_axis(chosen.device)
    return identity - 2 * chosen[:, None, None] * grey  # Householder's reflection


def hue_turned(angle: Tensor) -> Tensor:
    """Of colours: in radians about the axis of greys, (n, 4, 4)."""
    grey, identity = grey_axis(angle.device)
    c, s = angle.cos()[:, None, None], angle.sin() / math.sqrt(3)
    across = matrix([[0, -s, s, 0], [s, 0, -s, 0], [-s, s, 0, 0], [0, 0, 0, 0]])
    corner = torch.zeros_like(identity)
    corner[3:, 3:] = 1  # of one element the value would be a copy from the CPU
    return c * (identity - corner) + across + (1 - c) * grey + corner  # Rodrigues' formula


def saturated(by: Tensor) -> Tensor:
    """Of colours: the distance from the axis of greys times so much, (n, 4, 4)."""
    grey, identity = grey_axis(by.device)
    corner = torch.zeros_like(identity)
    corner[3:, 3:] = 1  # of one element the value would be a copy from the CPU
    return grey + (identity - corner - grey) * by[:, None, None] + corner
