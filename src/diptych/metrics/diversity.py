"""Pairwise diversity: root mean squared feature distance among fakes over that among reals.

Within classes it is the intra-class diversity of conditional models (as in StarGAN v2, Choi et al., 2020,
arXiv:1912.01865). The mean squared distance over all pairs is twice the covariance's trace: O(n d).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.classifier import predicted
from diptych.metrics.intervals import Spread, enough, from_influence, normal
from diptych.scores import Estimate

ENOUGH = 8
NOTE = (
    "root mean squared distance over all pairs, fakes over reals; 1: as diverse, over 1 may be noise. "
    "Interval: delta method over the images of both sets"
)


class Squared(NamedTuple):
    """A mean squared distance over all pairs, and each image's influence on it."""

    value: float
    influence: Tensor  # (N,)


@metric({"diversity": "neither", "intra_class_diversity": "neither"})
def diversity(exam: Exam) -> Mapping[str, Estimate]:
    """Mean distance among fakes relative to reals, over all pairs and (with labels) within classes."""
    real, fake = exam.features("real").double(), exam.features("fake").double()
    enough("diversity", ENOUGH, real, fake)
    scores = {"diversity": _ratio(mean_squared(real), mean_squared(fake), NOTE)}
    labels = _labels(exam)
    if labels is not None:
        within = _within_classes(real, fake, *labels, exam.classes)
        scores |= {} if within is None else {"intra_class_diversity": within}
    return scores


def mean_squared(features: Tensor) -> Squared:
    """Mean squared distance over all pairs of features (N, D), unbiased, and each image's influence on it."""
    n = len(features)
    length = (features - features.mean(0)).square().sum(1)
    value = 2 * length.sum() / (n - 1)
    return Squared(float(value), 2 * n / (n - 1) * length - value)


def _within_classes(
    real: Tensor, fake: Tensor, real_label: Tensor, fake_label: Tensor, names: tuple[str, ...]
) -> Estimate | None:
    """None where no class has two reals and two fakes."""
    reals, fakes = (torch.bincount(label, minlength=len(names)) for label in (real_label, fake_label))
    shared = ((reals >= 2) & (fakes >= 2)).nonzero()[:, 0].tolist()
    if not shared:
        return None
    parts = [(mean_squared(real[real_label == c]), mean_squared(fake[fake_label == c])) for c in shared]
    sides = []
    for side, label in ((0, real_label), (1, fake_label)):
        # an image moves its own class only: as one of n_c, and the class as one of the classes
        influence = torch.zeros(len(label), dtype=torch.float64, device=real.device)
        for c, pair in zip(shared, parts, strict=True):
            rows = (label == c).to(real.device)
            influence[rows] = len(label) / (int(rows.sum()) * len(shared)) * pair[side].influence
        sides.append(Squared(sum(pair[side].value for pair in parts) / len(shared), influence))
    ratios = [math.sqrt(y.value / x.value) if x.value > 0 else math.inf for x, y in parts]
    worst = min(range(len(shared)), key=ratios.__getitem__)
    note = f"within {len(shared)} of {len(names)} classes, all of one weight; "
    note += f"lowest: {names[shared[worst]]} with {ratios[worst]:.2f}. {NOTE}"
    return _ratio(sides[0], sides[1], note)


def _ratio(real: Squared, fake: Squared, note: str) -> Estimate:
    if real.value <= 0:
        raise NotMeasurable("all held-out images have the same features", "diversity needs reals that differ")
    value = math.sqrt(fake.value / real.value)
    n = len(fake.influence)
    # d log of the ratio of roots; identical fakes have no logarithm and no spread
    spread = Spread(0.0, ())
    if fake.value > 0:
        spread = from_influence(
            -value / 2 * real.influence / real.value, value / 2 * fake.influence / fake.value
        )
    low, high = normal(value, spread.error)
    return Estimate(value, max(0.0, low), high, n, "neither", "", note, replicates=spread.replicates)


def _labels(exam: Exam) -> tuple[Tensor, Tensor] | None:
    """Labels of reals and of fakes; both as predicted where the model was not asked for any."""
    real = exam.labels("real")
    if real is None:
        return None
    asked = exam.labels("fake")
    if asked is not None:
        return real, asked
    try:
        return predicted(exam, "real"), predicted(exam, "fake")
    except NotMeasurable:
        return None
