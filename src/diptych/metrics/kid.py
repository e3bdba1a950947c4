"""Kernel distance between features, KID (Bińkowski et al., 2018, arXiv:1801.01401), over all pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from diptych.errors import WrongUse
from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.intervals import corrected, enough, from_influence
from diptych.metrics.mmd import Discrepancy, discrepancy
from diptych.scores import Estimate

ENOUGH = 4
NOTE = (
    "unbiased, all pairs, not scaled (papers often print 1,000 times it); "
    "interval: jackknife over the images of both sets, less what it counts twice"
)


@metric({"kid": "lower"})
def kid(exam: Exam) -> Mapping[str, Estimate]:
    """Squared maximum mean discrepancy, kernel (x·y/d + 1)³. Unbiased: 0 on average for a perfect match."""
    real, fake = exam.features("real"), exam.features("fake")
    enough("KID", ENOUGH, real, fake)
    found = kernel_distance(real, fake)
    spread = from_influence(found.real, found.fake)
    interval = corrected(found.value, spread)
    return {"kid": Estimate(found.value, *interval, len(fake), "lower", "", NOTE, spread.replicates)}


def kernel_distance(real: Tensor, fake: Tensor) -> Discrepancy:
    """Unbiased squared MMD of features (N, D) and (M, D) over all pairs, and each image's influence on it."""
    return discrepancy(real, fake, kernel)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y/d + 1)³ for each pair, (N, M)."""
    return torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1]).pow_(3)


def kernel_distance_subsets(
    real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets, as torch-fidelity draws them from the same seed.

    For comparison with published values: all pairs use the same images better. The deviation is that of one
    subset, not the mean's error. Raises WrongUse where a set is smaller than a subset.
    """
    if min(len(real), len(fake)) < size:
        raise WrongUse(
            f"subsets of {size} cannot be drawn from {min(len(real), len(fake))} images",
            "name a smaller size; its value is comparable all the same, KID being unbiased",
        )
    stream = np.random.RandomState(seed)  # its sequence is frozen, and what the field uses

    def subset(features: Tensor) -> Tensor:
        chosen = stream.choice(len(features), size, replace=False)
        return features[torch.from_numpy(chosen).to(features.device)]

    values = [kernel_distance(subset(real), subset(fake)).value for _ in range(subsets)]
    return float(np.mean(values)), float(np.std(values))
