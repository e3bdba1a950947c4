"""Kernel distance between features, KID (Bińkowski et al., 2018, arXiv:1801.01401), over all pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.exam import Exam, metric
from diptych.metrics.intervals import enough, normal
from diptych.scores import Estimate

NOTE = "unbiased, all pairs; interval: exact jackknife over the images of both sets"
BLOCK = 1024


@metric
def kid(exam: Exam) -> Mapping[str, Estimate]:
    """Squared maximum mean discrepancy, kernel (x·y/d + 1)³. Unbiased: 0 on average for a perfect match."""
    real, fake = exam.features("real"), exam.features("fake")
    enough("KID", 4, real, fake)
    value, error = kernel_distance(real, fake)
    return {"kid": Estimate(value, *normal(value, error), len(fake), "lower", "", NOTE)}


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Unbiased squared MMD of features (N, D) and (M, D) over all pairs, and its jackknife standard error."""
    x, y = real.double(), fake.double()
    within_x, within_y = kernel_sums(x, x, others=True), kernel_sums(y, y, others=True)
    across = kernel_sums(x, y, others=False)
    n, m = len(x), len(y)
    total = Parts(within_x.rows.sum(), within_y.rows.sum(), across.rows.sum())

    def statistic(parts: Parts, n: int, m: int) -> Tensor:
        return parts.real / (n * (n - 1)) + parts.fake / (m * (m - 1)) - 2 * parts.across / (n * m)

    # leaving image i out takes its row and its column away
    without_x = statistic(
        Parts(total.real - 2 * within_x.rows, total.fake, total.across - across.rows), n - 1, m
    )
    without_y = statistic(
        Parts(total.real, total.fake - 2 * within_y.rows, total.across - across.columns), n, m - 1
    )
    return float(statistic(total, n, m)), math.hypot(jackknife_error(without_x), jackknife_error(without_y))


class Parts(NamedTuple):
    """Sums of the kernel over pairs of reals, of fakes, and of one each."""

    real: Tensor
    fake: Tensor
    across: Tensor


class Sums(NamedTuple):
    """Sums of a kernel matrix."""

    rows: Tensor  # (N,)
    columns: Tensor  # (M,)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y/d + 1)³ for each pair, (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_sums(x: Tensor, y: Tensor, *, others: bool) -> Sums:
    """Row and column sums of the kernel matrix, in blocks; `others` leaves each row's own pair out."""
    rows, columns = x.new_empty(len(x)), x.new_zeros(len(y))
    for start in range(0, len(x), BLOCK):
        block = kernel(x[start : start + BLOCK], y)
        if others:
            block[torch.arange(len(block)), torch.arange(start, start + len(block))] = 0
        rows[start : start + BLOCK] = block.sum(1)
        columns += block.sum(0)
    return Sums(rows, columns)


def jackknife_error(without: Tensor) -> float:
    """The standard error from the values with one image left out each."""
    n = len(without)
    return math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))
