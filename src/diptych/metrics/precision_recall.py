"""Improved precision and recall (Kynkäänniemi et al., 2019, arXiv:1904.06991), k = 3."""

from __future__ import annotations

from collections.abc import Mapping

from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.intervals import proportion
from diptych.metrics.manifolds import found
from diptych.scores import Estimate

NOTE = "k = 3, borders included; interval: Wilson, with the variance of both sets from halves of them"


@metric({"precision": "higher", "recall": "higher"})
def precision_recall(exam: Exam) -> Mapping[str, Estimate]:
    """Precision: the share of fakes among the reals. Recall: the share of reals among the fakes."""
    shares, spreads, reals, fakes = found(exam)
    return {
        name: Estimate(
            value, *proportion(value, n, spread.error), n, "higher", "", NOTE, replicates=spread.replicates
        )
        for name, value, spread, n in (
            ("precision", shares.precision, spreads[0], fakes),
            ("recall", shares.recall, spreads[1], reals),
        )
    }
