"""Density and coverage (Naeem et al., 2020, arXiv:2002.09797), k = 5."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.exam import Exam, metric
from diptych.metrics.intervals import enough, from_subsets, normal, proportion
from diptych.metrics.neighbours import radii, within
from diptych.scores import Estimate

K = 5
NOTE = "k = 5; interval: {}, with the variance of both sets from half-size subsets"


@metric
def density_coverage(exam: Exam) -> Mapping[str, Estimate]:
    """Density: how crowded with reals the fakes are. Coverage: the share of reals with a fake near."""
    real, fake = exam.features("real"), exam.features("fake")
    enough("density and coverage with k = 5", 2 * (K + 1), real, fake)
    (density, coverage), (spread, error) = both(real, fake).tolist(), [s.error for s in from_subsets(both, real, fake)]
    low, high = normal(density, spread)
    covered = proportion(coverage, len(real), error)
    return {
        "density": Estimate(density, max(0.0, low), high, len(fake), "higher", "", NOTE.format("normal")),
        "coverage": Estimate(coverage, *covered, len(real), "higher", "", NOTE.format("Wilson")),
    }


def both(real: Tensor, fake: Tensor, k: int = K) -> Tensor:
    """Density and coverage (2,) of features (N, D) and (M, D)."""
    hits = within(fake, real, radii(real, k))
    return torch.stack([hits.balls.double().mean() / k, hits.reached.double().mean()])
