"""Density and coverage (Naeem et al., 2020, arXiv:2002.09797), k = 5.

As in the paper a ball is B(X, r), here with its border; the authors' code (prdc) leaves the border out, which
differs only for images at exactly equal distances, such as copies.
"""

from __future__ import annotations

from collections.abc import Mapping

from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.intervals import proportion, rate
from diptych.metrics.manifolds import DENSITY_K, found
from diptych.scores import Estimate

NOTE = "k = 5, borders included; interval: {}, with the variance of both sets from halves of them"


@metric({"density": "higher", "coverage": "higher"})
def density_coverage(exam: Exam) -> Mapping[str, Estimate]:
    """Density: how crowded with reals the fakes are. Coverage: the share of reals with a fake near."""
    shares, (_, _, density, coverage), reals, fakes = found(exam)
    low, high = rate(shares.density, 1 / (DENSITY_K * fakes), density.error, DENSITY_K)
    covered = proportion(shares.coverage, reals, coverage.error)
    counted, wilson = NOTE.format("score interval of a count"), NOTE.format("Wilson")
    return {
        "density": Estimate(
            shares.density, low, high, fakes, "higher", "", counted, replicates=density.replicates
        ),
        "coverage": Estimate(
            shares.coverage, *covered, reals, "higher", "", wilson, replicates=coverage.replicates
        ),
    }
