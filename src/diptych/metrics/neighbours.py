"""Balls around images: how far the k-th nearest neighbour is, and who lies within. Exact, in blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**22  # distances held at a time: 32 MiB


class Hits(NamedTuple):
    """Which points lie in which balls."""

    balls: Tensor  # (N,) how many balls each point lies in
    reached: Tensor  # (M,) whether a point lies in each ball


def radii(points: Tensor, k: int) -> Tensor:
    """Squared distance (N,) from each of the points (N, D) to its k-th nearest other one."""
    points = _exact(points)
    radius = points.new_empty(len(points))
    for rows in _blocks(len(points), len(points)):
        distance = squared_distances(points[rows], points)
        own = torch.arange(len(distance))
        distance[own, own + rows.start] = torch.inf
        radius[rows] = distance.kthvalue(k, dim=1).values
    return radius


def within(points: Tensor, centres: Tensor, radius: Tensor) -> Hits:
    """Which points (N, D) lie in the balls around centres (M, D) of squared radii (M,), borders included."""
    points, centres = _exact(points), _exact(centres)
    balls, reached = torch.zeros(len(points), dtype=torch.int64), torch.zeros(len(centres), dtype=torch.bool)
    # an image that is in both sets twice must lie within a radius of zero, whatever rounding says
    scale = max(float(points.square().sum(1).max()), float(centres.square().sum(1).max()))
    limit = radius + 8 * torch.finfo(points.dtype).eps * scale
    for rows in _blocks(len(points), len(centres)):
        inside = squared_distances(points[rows], centres) <= limit
        balls[rows] = inside.sum(1)
        reached |= inside.any(0)
    return Hits(balls, reached)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, M) between the rows of (N, D) and (M, D)."""
    products = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return products.add_(x.square().sum(1, keepdim=True)).clamp_min_(0)


def _exact(points: Tensor) -> Tensor:
    """float64 where it is cheap; float32 for thousands of dimensions, where distances are large."""
    return points.double() if points.shape[1] <= 512 else points


def _blocks(n: int, width: int) -> list[slice]:
    size = max(1, BLOCK // max(1, width))
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]
