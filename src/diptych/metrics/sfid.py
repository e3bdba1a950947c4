"""Spatial FID (Nash et al., 2021, arXiv:2103.03841): the Fréchet distance of features that know where.

The paper takes seven channels of an intermediate map of Inception, 7 x 17 x 17 numbers, in the pooled
features' place; here it is whatever the extractor calls its spatial view.
"""

from __future__ import annotations

from collections.abc import Mapping

from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.fid import ENOUGH, estimate, frechet
from diptych.metrics.intervals import enough
from diptych.scores import Estimate


@metric({"sfid": "lower"})
def sfid(exam: Exam) -> Mapping[str, Estimate]:
    """Squared Fréchet distance of spatial features: what lies where, which pooling forgets."""
    real, fake = exam.features("real", "spatial"), exam.features("fake", "spatial")
    enough("sFID", ENOUGH, real, fake)
    return {"sfid": estimate(frechet(real, fake), real, fake, "sFID")}
