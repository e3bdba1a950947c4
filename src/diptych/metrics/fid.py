"""Fréchet distance between features, FID (Heusel et al., 2017, arXiv:1706.08500), without a matrix root.

tr (C1 C2)^(1/2) is the sum of the singular values of R1 R2ᵀ, where C = RᵀR; see moments.py for R.
In another extractor's features it is FD-DINOv2 (Stein et al., 2023, arXiv:2306.04675) and its like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.intervals import corrected, enough, from_influence
from diptych.metrics.mmd import less
from diptych.metrics.moments import (
    ROWS,
    Gaussian,
    Moments,
    add_product,
    cholesky,
    congruent,
    gaussian,
    product,
)
from diptych.scores import Estimate

ENOUGH = 16
SMALL = 512  # up to this size singular values are computed directly
DIGITS = 1e-7  # relative error of a distance that squaring a matrix may cost


@metric({"fid": "lower"})
def fid(exam: Exam) -> Mapping[str, Estimate]:
    """Squared Fréchet distance of the features' means and covariances; 0 is a perfect match."""
    real, fake = exam.features("real"), exam.features("fake")
    enough("FID", ENOUGH, real, fake)
    found = exam.shared("frechet of pooled", lambda: frechet(real, fake))
    return {"fid": estimate(found, real, fake, "FID")}


class Frechet(NamedTuple):
    """A squared Fréchet distance, what each image adds to it, and how far it is too high."""

    value: float
    real: Tensor  # (N,) influence values
    fake: Tensor  # (M,)
    bias: float  # first order in 1/n; holds where there are more images than dimensions


def estimate(found: Frechet, real: Tensor, fake: Tensor, name: str) -> Estimate:
    """The distance of features (N, D) and (M, D) as a score: its interval, its replicates, its bias."""
    spread = from_influence(found.real, found.fake)
    low, high = corrected(found.value, spread)
    note = (
        f"at this n; {name} is biased upwards, here by about {bias(real, fake):.2g}, the floor alike. "
        f"Interval: delta method over the images of both sets, for {name} at this n"
    )
    if min(len(real), len(fake)) <= real.shape[1]:
        note += f". Fewer images than the {real.shape[1]} features: mostly bias"
    return Estimate(found.value, max(0.0, low), high, len(fake), "lower", "", note, spread.replicates)


def frechet_distance(real: Tensor | Moments, fake: Tensor | Moments) -> float:
    """Squared Fréchet distance of Gaussians fitted to features (N, D) and (M, D), or to moments, in float64.

    On 2048 dimensions the relative error is below 1e-7, for moments of singular covariances below 1e-6.
    """
    if all(isinstance(given, Moments) or len(given) > given.shape[1] > SMALL for given in (real, fake)):
        found = _from_moments(*(g if isinstance(g, Moments) else Moments.of(g) for g in (real, fake)))
        if found is not None:
            return found
    x, y = gaussian(real), gaussian(fake)
    return _distance(x, y, _nuclear_norm(product(x, y), float(x.trace + y.trace) + _shift(x, y)))


def frechet(real: Tensor, fake: Tensor) -> Frechet:
    """The squared Fréchet distance of features (N, D) and (M, D) with each image's influence on it."""
    x, y = gaussian(real), gaussian(fake)
    both = product(x, y)
    u, s, v, total = _decomposed(both)
    # d tr(C1 C2)^(1/2) / dC1 = T/2 with T = R2ᵀ V S⁻¹ Vᵀ R2, the optimal transport map from 1 to 2
    scale = s.rsqrt()[:, None]
    side_x = _side(real, x, scale * (v.T @ y.root), s, x.mean - y.mean)
    side_y = _side(fake, y, scale * (u.T @ x.root), s, y.mean - x.mean)
    if total is None:
        total = _nuclear_norm(both, float(x.trace + y.trace) + _shift(x, y))
    n, m = len(real), len(fake)
    pairs = 2 * (side_x.interaction * side_y.interaction).sqrt() / (n * m)
    return Frechet(
        _distance(x, y, total),
        less(side_x.influence, 2 * side_x.interaction / n**2 + pairs),
        less(side_y.influence, 2 * side_y.interaction / m**2 + pairs),
        float(side_x.bias + side_y.bias),
    )


def bias(real: Tensor, fake: Tensor) -> float:
    """How much FID falls from this n to infinity: as much as from n/2 to n, since it goes as 1/n."""
    halves = [frechet_distance(real[i::2], fake[i::2]) for i in (0, 1)]
    return sum(halves) / 2 - frechet_distance(real, fake)


class _Side(NamedTuple):
    influence: Tensor  # (N,)
    bias: Tensor  # ()
    interaction: Tensor  # () mean square of what only pairs of images explain


def _side(features: Tensor, own: Gaussian, whitener: Tensor, s: Tensor, shift: Tensor) -> _Side:
    # v has covariance S; |v|² is x T x. With W the variances of the products v_j v_k, the second derivative
    # of the root gives the bias (tr C + ½ Σ W_jk / (s_j + s_k)) / n
    dtype = torch.float64 if features.shape[1] <= SMALL else torch.float32
    influence = features.new_empty(len(features), dtype=torch.float64)
    fourth = torch.zeros(len(s), len(s), dtype=dtype, device=s.device)
    for begin in range(0, len(features), ROWS):
        rows = slice(begin, begin + ROWS)
        centred = features[rows].double() - own.mean
        squares = (centred.to(dtype) @ whitener.T.to(dtype)).square_()
        influence[rows] = 2 * centred @ shift + centred.square().sum(1) - squares.sum(1)
        add_product(fourth, squares)
    moved = (fourth.double() / len(features) - torch.diag(s.square())) / (s[:, None] + s)
    bias = (own.trace + moved.sum() / 2) / len(features)
    interaction = (own.root @ own.root.T).square().sum() + _pairs(moved)
    return _Side(influence, bias, interaction)


def _pairs(moved: Tensor) -> Tensor:
    # exact for normal features; where others' products are correlated, too small and the interval too long
    return moved.square().sum() / 2 - moved.diagonal().square().sum() / 4


def _shift(x: Gaussian, y: Gaussian) -> float:
    return float((x.mean - y.mean).square().sum())


def _distance(x: Gaussian, y: Gaussian, nuclear: float) -> float:
    return max(0.0, _shift(x, y) + float(x.trace + y.trace) - 2 * nuclear)


def _gram(matrix: Tensor) -> Tensor:
    rows = matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix
    gram = rows.new_zeros(rows.shape[1], rows.shape[1])
    add_product(gram, rows)
    return gram


def _from_moments(real: Moments, fake: Moments) -> float | None:
    # tr (C1 C2)^(1/2) from the eigenvalues of R1 C2 R1ᵀ: one root, one product; None where digits would lack
    ours, theirs = real.covariance, fake.covariance
    root = cholesky(ours)
    if root is None or len(root) <= SMALL:
        return None
    squares = torch.linalg.eigvalsh(congruent(root, theirs).T)  # reads the lower triangle
    least = float((real.mean - fake.mean).square().sum() + ours.trace() + theirs.trace())
    total = _roots(squares, least)
    return None if total is None else max(0.0, least - 2 * total)


def _nuclear_norm(matrix: Tensor, least: float) -> float:
    """The sum of the singular values, exact enough for `least` minus twice it."""
    if min(matrix.shape) > SMALL:
        # five times faster than singular values, but the small ones lose half their digits
        total = _roots(torch.linalg.eigvalsh(_gram(matrix)), least)
        if total is not None:
            return total
    return float(torch.linalg.svdvals(matrix).sum())


def _roots(squares: Tensor, least: float) -> float | None:
    """The sum of the roots of computed eigenvalues; None where `least` minus twice it would lack digits."""
    squares = squares.clamp_min(0)
    slack = squares[-1] * len(squares) ** 0.5 * torch.finfo(squares.dtype).eps
    error = torch.minimum(slack.sqrt(), slack / (2 * squares.sqrt())).nan_to_num_(0).sum()
    total = float(squares.sqrt().sum())
    return total if 2 * float(error) <= DIGITS * (least - 2 * total) else None


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, float | None]:
    """U (r, k), S (k,), V (s, k) of a matrix, less what is zero; and the sum of S where it is exact."""
    if min(matrix.shape) <= SMALL:
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        keep = s > 1e-7 * s[:1]
        return u[:, keep], s[keep], vt.T[:, keep], float(s.sum())
    squares, vectors = torch.linalg.eigh(_gram(matrix))
    keep = squares > 1e-12 * squares[-1]
    s, vectors = squares[keep].sqrt(), vectors[:, keep]
    wide = matrix.shape[0] <= matrix.shape[1]
    other = (matrix.T if wide else matrix) @ vectors / s
    return (vectors, s, other, None) if wide else (other, s, vectors, None)
