"""Improved precision and recall (Kynkäänniemi et al., 2019, arXiv:1904.06991), k = 3."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.exam import Exam, metric
from diptych.metrics.intervals import enough, from_subsets, proportion
from diptych.metrics.neighbours import radii, within
from diptych.scores import Estimate

K = 3
NOTE = "k = 3; interval: Wilson, with the variance of both sets from half-size subsets"


@metric
def precision_recall(exam: Exam) -> Mapping[str, Estimate]:
    """Precision: the share of fakes among the reals. Recall: the share of reals among the fakes."""
    real, fake = exam.features("real"), exam.features("fake")
    enough("precision and recall with k = 3", 2 * (K + 1), real, fake)
    shares, errors = both(real, fake), from_subsets(both, real, fake)
    return {
        name: Estimate(value, *proportion(value, n, spread.error), n, "higher", "", NOTE, spread.replicates)
        for name, value, spread, n in zip(
            ("precision", "recall"), shares.tolist(), errors, (len(fake), len(real)), strict=True
        )
    }


def both(real: Tensor, fake: Tensor) -> Tensor:
    """Precision and recall (2,) of features (N, D) and (M, D)."""
    return torch.tensor([inside(fake, real), inside(real, fake)], dtype=torch.float64)


def inside(points: Tensor, manifold: Tensor, k: int = K) -> float:
    """The share of points (N, D) within the k-th neighbour distance of one of the manifold's (M, D)."""
    return float((within(points, manifold, radii(manifold, k)).balls > 0).double().mean())
