"""Bounds of distances from float32 products, and distances themselves, for exact neighbours in tiles.

A product of centred features, less the most that its rounding can be (Higham, 2002, Accuracy and Stability of
Numerical Algorithms, section 3.1), bounds a squared distance from below at no cost.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diptych.errors import WrongUse

TILE = 1024  # rows and columns of a tile of distances
PAIRS = 2**18  # elements in direct differences at a time: as many as stay in the processor's cache


class Cloud:
    """Points about a centre, and what the bounds of their distances need."""

    def __init__(self, points: Tensor, centre: Tensor, dtype: torch.dtype) -> None:
        self.points, self.dim, self.dtype = points, points.shape[1], dtype
        self.centre = centre.to(torch.promote_types(points.dtype, dtype))
        parts = ((points[rows] - self.centre).double() for rows in blocks(len(points)))
        self.squares = torch.cat([row_sums(part.square_()) for part in parts])  # (N,)
        unit = torch.finfo(dtype).eps / 2
        # the product's D + 2 terms, what centring rounds (twice 2 units) and the norms' own rounding
        self.loss = 2 * (self.dim + 8) * unit / (1 - (self.dim + 8) * unit)
        self.least = 8 * (self.dim + 2) * torch.finfo(self.dtype).tiny  # what underflow can hide

    def panel(self, rows: slice, right: bool = False) -> Tensor:
        """(B, D + 2): a panel times a right one, transposed, is lower bounds of squared distances."""
        points = self.points[rows]
        block = torch.empty(len(points), self.dim + 2, dtype=self.dtype, device=points.device)
        norm, one = (-2, -1) if right else (-1, -2)
        block[:, norm] = self.squares[rows] * (1 - self.loss) - self.least
        block[:, one] = 1
        if right:
            torch.sub(self.centre, points, out=block[:, :-2])
        else:
            torch.sub(points, self.centre, out=block[:, :-2]).mul_(2)
        return block

    def gap(self, rows: Tensor, other: Cloud, columns: Tensor) -> Tensor:
        """How far an upper bound of a squared distance lies above the lower one, float64."""
        return 2 * self.loss * (self.squares[rows] + other.squares[columns]) + 4 * self.least


def squared_distances(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(P,) float64, by direct differences, between these rows of (N, D) and those of (M, D)."""
    size = max(1, PAIRS // x.shape[1])
    parts = [
        row_sums((x[a].double() - y[b].double()).square_())
        for a, b in zip(torch.split(rows, size), torch.split(columns, size), strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=x.device)


def row_sums(values: Tensor) -> Tensor:
    """Sums of the rows (N,), each the same however many rows there are."""
    # PyTorch splits a few long rows among threads, which changes the last bit
    return torch.stack([part.sum(1) for part in torch.split(values, 2**14, 1)]).sum(0)


def precision(*sets: Tensor) -> torch.dtype:
    """What products are computed in: float32 where squares fit. Raises WrongUse for what is not finite."""
    extremes = [abs(float(extreme)) for each in sets for extreme in each.aminmax()]
    if not all(map(math.isfinite, extremes)):
        raise WrongUse("features that are not finite have no neighbours", "look for NaN or inf in them")
    return torch.float32 if max(extremes) < 1e15 else torch.float64


def mean(points: Tensor) -> Tensor:
    """Their mean (D,) in float64, without a copy of them."""
    sums = [points[rows].sum(0, dtype=torch.float64) for rows in blocks(len(points))]
    return torch.stack(sums).sum(0) / len(points)


def blocks(n: int) -> list[slice]:
    """n rows in equal parts of TILE at most."""
    parts = max(1, -(-n // TILE))
    edges = [n * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32, whatever was allowed elsewhere: the bounds rest on it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
