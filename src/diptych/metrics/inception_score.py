"""Inception Score (Salimans et al., 2016, arXiv:1606.03498): exp of the mean KL(p(y|x) || p(y)).

From the extractor's own classifier where it has one, else from one that is trained on the user's labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.classifier import described, logits_of
from diptych.metrics.intervals import enough, from_influence, normal
from diptych.scores import Estimate

ENOUGH = 16


class Score(NamedTuple):
    """An Inception Score, its bias at this n by the jackknife, and each image's influence on it."""

    value: float
    bias: float
    influence: Tensor  # (N,)


@metric({"inception_score": "higher"})
def inception_score(exam: Exam) -> Mapping[str, Estimate]:
    """How sure a classifier is of each fake, and how many classes it sees: 1 to the number of classes."""
    logits, source = _logits(exam)
    enough("the Inception Score", ENOUGH, logits)
    score = scored(logits)
    spread = from_influence(None, score.influence)
    low, high = normal(score.value, spread.error)
    note = (
        f"{source}, {logits.shape[1]} classes, one split. At this n; biased by about {score.bias:+.2g} "
        "(jackknife). Interval: jackknife over the fakes, for the score at this n"
    )
    low, high = max(1.0, low), min(float(logits.shape[1]), high)
    return {
        "inception_score": Estimate(
            score.value, low, high, len(logits), "higher", "", note, replicates=spread.replicates
        )
    }


def scored(logits: Tensor) -> Score:
    """The Inception Score of logits (N, K), in float64."""
    n = len(logits)
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    certainty = torch.xlogy(p, p).sum(1)  # -H(p(y|x)), exactly zero where p is one-hot
    total = p.sum(0)
    value = _exponential(certainty.mean(), total / n)
    without = _exponential((certainty.sum() - certainty) / (n - 1), ((total - p) / (n - 1)).clamp_min(0))
    return Score(float(value), (n - 1) * float(without.mean() - value), (n - 1) * (without.mean() - without))


def _exponential(certainty: Tensor, marginal: Tensor) -> Tensor:
    return (certainty - torch.xlogy(marginal, marginal).sum(-1)).exp()


def _logits(exam: Exam) -> tuple[Tensor, str]:
    """Logits (N, K) of the fakes, and whose they are."""
    if "logits" in exam.extractor.views:
        return exam.features("fake", view="logits"), f"classes of {exam.extractor.name}"
    return logits_of(exam, "fake"), described(exam)
