"""Mean and covariance of features from a stream of blocks, and roots of covariances without a matrix root.

Blocks are centred before they are squared and merged by the update of Chan, Golub and LeVeque (1979), in
float64, so that an offset of the features costs no digits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.errors import WrongUse

STRIP = 512  # columns of a symmetric product that are computed at once
ROWS = 4096  # features that are held in float64 at a time
SINGULAR = 1e-12  # a pivot this small beside the largest variance holds no digits


class Moments:
    """How many features there were, their mean (D,) and their scatter (D, D), all in float64.

    >>> moments = Moments(2)
    >>> moments.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
    >>> moments.count, moments.mean.tolist(), moments.covariance.tolist()
    (2, [1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features (N, D)."""
        moments = cls(features.shape[1], features.device)
        for start in range(0, len(features), ROWS):
            moments.update(features[start : start + ROWS])
        return moments

    def update(self, block: Tensor) -> None:
        """Takes in features (N, D)."""
        if block.ndim != 2 or block.shape[1] != len(self.mean):
            raise WrongUse(f"features are {tuple(block.shape)}", f"(N, {len(self.mean)}) is expected")
        if not len(block):
            return
        values = block.to(self.mean)
        mean = values.mean(0)
        rows = torch.cat([values - mean, self._between(mean, len(values))[None]])
        add_product(self.scatter, rows)
        self._move(mean, len(values))

    @property
    def covariance(self) -> Tensor:
        """(D, D), with n - 1. Raises WrongUse for fewer than two features."""
        if self.count < 2:
            raise WrongUse(f"there is no covariance of {self.count} features", "two or more are needed")
        return self.scatter.div(self.count - 1)

    def _between(self, mean: Tensor, count: int) -> Tensor:
        # one row more: what the distance of the two means adds to the scatter
        weight = math.sqrt(self.count * count / (self.count + count))
        return (mean.to(self.mean) - self.mean) * weight

    def _move(self, mean: Tensor, count: int) -> None:
        self.mean += (mean - self.mean) * (count / (self.count + count))
        self.count += count


def add_product(total: Tensor, rows: Tensor) -> None:
    """Adds rowsᵀ rows to a symmetric (D, D) in place, at little more than half of a product's work."""
    dim = len(total)
    if dim <= STRIP:
        total.addmm_(rows.T, rows)
        return
    for start in range(0, dim, STRIP):
        end = min(dim, start + STRIP)
        total[start:, start:end].addmm_(rows[:, start:].T, rows[:, start:end])
        total[start:end, end:] = total[end:, start:end].T


def congruent(upper: Tensor, covariance: Tensor) -> Tensor:
    """R C Rᵀ for an upper triangular R and a symmetric C, its upper triangle only: half a product's work."""
    dim, strip = len(upper), STRIP // 2
    left, result = torch.empty_like(covariance), torch.zeros_like(covariance)
    for start in range(0, dim, strip):
        end = min(dim, start + strip)
        left[start:end, start:] = upper[start:end, start:] @ covariance[start:, start:]
        result[:end, start:end] = left[:end, start:] @ upper[start:end, start:].T
    return result


class Gaussian(NamedTuple):
    """A mean, and a root of a covariance."""

    mean: Tensor  # (D,)
    root: Tensor  # R (r, D) with RᵀR = the covariance
    upper: bool  # whether R is upper triangular

    @property
    def trace(self) -> Tensor:
        """Of the covariance."""
        return self.root.square().sum()


def gaussian(given: Tensor | Moments) -> Gaussian:
    """Fitted to features (N, D), or to their moments.

    With no more features than dimensions the centred features themselves are the root, so that what follows
    is N x N. Of singular covariances a QR of the features keeps the digits that a covariance has lost.
    """
    if isinstance(given, Moments):
        return Gaussian(given.mean, *_of_covariance(given.covariance))
    n, dim = given.shape
    if n < 2:
        raise WrongUse(f"there is no covariance of {n} features", "two or more are needed")
    if n <= dim:
        mean, rows = _centred(given)
        return Gaussian(mean, rows, False)
    moments = Moments.of(given)
    factor = cholesky(moments.covariance)
    if factor is not None:
        return Gaussian(moments.mean, factor, True)
    mean, rows = _centred(given)
    return Gaussian(mean, torch.linalg.qr(rows, mode="r").R, True)


def cholesky(covariance: Tensor) -> Tensor | None:
    """Upper triangular R with RᵀR = a covariance; None where the covariance is singular to rounding."""
    factor, failed = torch.linalg.cholesky_ex(covariance, upper=True)
    pivots = factor.diagonal().square()
    sound = not failed and bool(pivots.min() > SINGULAR * covariance.diagonal().max())
    return factor if sound else None


def product(x: Gaussian, y: Gaussian) -> Tensor:
    """Rx Ryᵀ (r, s): its singular values are the roots of the eigenvalues of Cx Cy."""
    if not (x.upper and y.upper) or len(x.root) <= STRIP:
        return x.root @ y.root.T
    result = x.root.new_empty(len(x.root), len(y.root))
    for start in range(0, len(x.root), STRIP):
        end = start + STRIP
        torch.mm(x.root[start:end, start:], y.root[:, start:].T, out=result[start:end])
    return result


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    values = features.double()
    mean = values.mean(0)
    return mean, (values - mean) / (len(values) - 1) ** 0.5


def _of_covariance(covariance: Tensor) -> tuple[Tensor, bool]:
    factor = cholesky(covariance)
    if factor is not None:
        return factor, True
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return values[keep].sqrt()[:, None] * vectors[:, keep].T, False
