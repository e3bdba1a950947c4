"""CMMD, a kernel distance of CLIP embeddings (Jayasumana et al., 2024, arXiv:2401.09603)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.intervals import corrected, enough, from_influence
from diptych.metrics.mmd import Discrepancy, discrepancy
from diptych.scores import Estimate

ENOUGH = 4
SIGMA = 10.0
SCALE = 1000.0


@metric({"cmmd": "lower"})
def cmmd(exam: Exam) -> Mapping[str, Estimate]:
    """1,000 times the squared MMD of unit CLIP embeddings, Gaussian kernel of sigma 10. Unbiased."""
    if not exam.extractor.name.startswith("clip"):
        raise NotMeasurable(
            f"CMMD looks at CLIP embeddings, and the extractor is {exam.extractor.name}",
            "measure with a CLIP extractor: --ruler clip:PATH",
        )
    real, fake = exam.features("real"), exam.features("fake")
    enough("CMMD", ENOUGH, real, fake)
    found = embedding_distance(real, fake)
    spread = from_influence(found.real, found.fake)
    note = (
        "the paper's unbiased estimator, all pairs; its authors' code has the biased one, here "
        f"{found.biased:.4g}; interval: jackknife over the images of both sets, less what it counts twice"
    )
    interval = corrected(found.value, spread)
    return {"cmmd": Estimate(found.value, *interval, len(fake), "lower", "", note, spread.replicates)}


def embedding_distance(real: Tensor, fake: Tensor) -> Discrepancy:
    """CMMD of embeddings (N, D) and (M, D), which need not be of unit length yet."""
    x, y = (normalize(features.double(), dim=1) for features in (real, fake))
    found = discrepancy(x, y, kernel)
    return Discrepancy(SCALE * found.value, SCALE * found.biased, SCALE * found.real, SCALE * found.fake)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x - y|² / 2 sigma²) - 1 for each pair of unit vectors, (N, M).

    The kernel is close to 1 everywhere; the 1 has no part in a discrepancy, but its digits would.
    """
    return torch.addmm(x.new_ones(()), x, y.T, alpha=-1).mul_(-1 / SIGMA**2).expm1_()
