"""Density and coverage (Naeem et al., 2020, arXiv:2002.09797), k = 5.

As in the paper a ball is B(X, r), here with its border; the authors' code (prdc) leaves the border out, which
differs only for images at exactly equal distances, such as copies.
"""

from __future__ import annotations

from collections.abc import Mapping

from diptych.exam import Exam, metric
from diptych.metrics.intervals import normal, proportion
from diptych.metrics.manifolds import found
from diptych.scores import Estimate

NOTE = "k = 5, borders included; interval: {}, with the variance of both sets from halves of them"


@metric
def density_coverage(exam: Exam) -> Mapping[str, Estimate]:
    """Density: how crowded with reals the fakes are. Coverage: the share of reals with a fake near."""
    shares, (_, _, density, coverage), reals, fakes = found(exam)
    low, high = normal(shares.density, density.error)
    covered = proportion(shares.coverage, reals, coverage.error)
    normally, wilson = NOTE.format("normal"), NOTE.format("Wilson")
    return {
        "density": Estimate(
            shares.density, max(0.0, low), high, fakes, "higher", "", normally, replicates=density.replicates
        ),
        "coverage": Estimate(
            shares.coverage, *covered, reals, "higher", "", wilson, replicates=coverage.replicates
        ),
    }
