"""Unbiased squared maximum mean discrepancy over all pairs (Gretton et al., 2012, JMLR 13), any kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1024  # a tile of the kernel matrix stays in the processor's cache

Kernel = Callable[[Tensor, Tensor], Tensor]  # (N, D), (M, D) -> (N, M), a tensor of its own


class Discrepancy(NamedTuple):
    """A squared MMD, and what each image adds to it."""

    value: float  # the U-statistic: unbiased, may be below 0
    biased: float  # the V-statistic, which also pairs each image with itself
    real: Tensor  # (N,) influence values
    fake: Tensor  # (M,)


class Sums(NamedTuple):
    """Of a kernel matrix, in float64."""

    rows: Tensor  # (N,) without the diagonal where it is of a set with itself
    columns: Tensor  # (M,)
    diagonal: Tensor  # ()
    squares: Tensor  # () of its squared entries


def discrepancy(real: Tensor, fake: Tensor, kernel: Kernel) -> Discrepancy:
    """The squared MMD of features (N, D) and (M, D), N and M >= 3."""
    x, y = precise(real), precise(fake)
    xx, yy, xy = within(x, kernel), within(y, kernel), across(x, y, kernel)
    n, m = len(x), len(y)
    total_x, total_y, total_xy = xx.rows.sum(), yy.rows.sum(), xy.rows.sum()

    def statistic(x: Tensor, y: Tensor, both: Tensor, n: int, m: int) -> Tensor:
        return x / (n * (n - 1)) + y / (m * (m - 1)) - 2 * both / (n * m)

    value = statistic(total_x, total_y, total_xy, n, m)
    biased = (total_x + xx.diagonal) / n**2 + (total_y + yy.diagonal) / m**2 - 2 * total_xy / (n * m)
    # leaving image i out takes its row and its column away
    without_x = statistic(total_x - 2 * xx.rows, total_y, total_xy - xy.rows, n - 1, m)
    without_y = statistic(total_x, total_y - 2 * yy.rows, total_xy - xy.columns, n, m - 1)
    pairs = 2 * interaction(xy, n, m) / (n * m)
    return Discrepancy(
        float(value),
        float(biased),
        less((n - 1) * (without_x.mean() - without_x), 2 * interaction(xx, n, n) / n**2 + pairs),
        less((m - 1) * (without_y.mean() - without_y), 2 * interaction(yy, m, m) / m**2 + pairs),
    )


def less(influence: Tensor, excess: Tensor) -> Tensor:
    """Influence values (N,) whose mean has a variance that is smaller by `excess`, but by half at most.

    The jackknife counts the variance of what images add in pairs twice (Efron and Stein, 1981). Where two
    distributions are equal that is all the variance there is, and an interval would be 1.4 times too long.
    """
    variance = influence.var() / len(influence)
    share: Tensor = (1 - excess / variance.clamp_min(1e-300)).clamp(0.5, 1)
    return influence * share.sqrt()


def interaction(sums: Sums, n: int, m: int) -> Tensor:
    """Mean square of a kernel matrix (N, M) less its row and column means: what only pairs explain."""
    entries = n * (n - 1) if sums.rows is sums.columns else n * m
    total = sums.rows.sum() / entries
    rows, columns = sums.rows * n / entries, sums.columns * m / entries
    square: Tensor = sums.squares / entries - rows.square().mean() - columns.square().mean() + total**2
    return square.clamp_min(0)


def precise(features: Tensor) -> Tensor:
    """float64 where it is cheap; float32 for thousands of dimensions: over pairs, rounding averages out."""
    return features.double() if features.shape[1] <= 512 else features.float()


def within(x: Tensor, kernel: Kernel) -> Sums:
    """Sums over the pairs of different rows of (N, D), each product taken once."""
    rows = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    diagonal, squares = rows.new_zeros(()), rows.new_zeros(())
    for start in range(0, len(x), BLOCK):
        own = slice(start, start + BLOCK)
        block = kernel(x[own], x[own])
        diagonal += block.diagonal().sum(dtype=torch.float64)
        rows[own] += block.fill_diagonal_(0).sum(1, dtype=torch.float64)
        squares += square_sum(block)
        for other in range(start + BLOCK, len(x), BLOCK):
            block = kernel(x[own], x[other : other + BLOCK])
            rows[own] += block.sum(1, dtype=torch.float64)
            rows[other : other + BLOCK] += block.sum(0, dtype=torch.float64)
            squares += 2 * square_sum(block)
    return Sums(rows, rows, diagonal, squares)


def across(x: Tensor, y: Tensor, kernel: Kernel) -> Sums:
    """Sums over all pairs of a row of (N, D) and one of (M, D)."""
    rows = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    columns, squares = rows.new_zeros(len(y)), rows.new_zeros(())
    for start in range(0, len(x), BLOCK):
        for other in range(0, len(y), BLOCK):
            block = kernel(x[start : start + BLOCK], y[other : other + BLOCK])
            rows[start : start + BLOCK] += block.sum(1, dtype=torch.float64)
            columns[other : other + BLOCK] += block.sum(0, dtype=torch.float64)
            squares += square_sum(block)
    return Sums(rows, columns, rows.new_zeros(()), squares)


def square_sum(block: Tensor) -> Tensor:
    """Of all entries, in one pass."""
    return torch.dot(block.flatten(), block.flatten()).double()
