"""FID extrapolated to infinitely many images (Chong and Forsyth, 2020, arXiv:1911.07023).

The paper fits a line over 1/n to FIDs of random subsets of the fakes. Here the term in 1/n is known from the
second derivative of the distance (the infinitesimal jackknife), for both sets, and the term in 1/n² goes by
Richardson's extrapolation from the halves: all images are used, and nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.fid import Frechet, frechet
from diptych.metrics.intervals import corrected, enough, from_influence
from diptych.scores import Estimate

PER_DIMENSION = 2.4  # a half must have more images than dimensions
ENOUGH = 32
NOTE = (
    "extrapolated to infinitely many reals and fakes, so that it can fall below 0 a little; "
    "interval: delta method over the images of both sets"
)


@metric({"fid_infinity": "lower"})
def fid_infinity(exam: Exam) -> Mapping[str, Estimate]:
    """FID without its bias: what it would be with infinitely many reals and fakes."""
    real, fake = exam.features("real"), exam.features("fake")
    dim = real.shape[1]
    enough(f"FID_infinity in {dim} dimensions", max(ENOUGH, int(PER_DIMENSION * dim) + 1), real, fake)
    whole = exam.shared("frechet of pooled", lambda: frechet(real, fake))
    value, spread = extrapolated(whole, real, fake), from_influence(whole.real, whole.fake)
    interval = corrected(value, spread)
    return {
        "fid_infinity": Estimate(value, *interval, len(fake), "lower", "", NOTE, spread.replicates),
    }


def extrapolated(whole: Frechet, real: Tensor, fake: Tensor) -> float:
    """FID_infinity of features (N, D) and (M, D), given their Fréchet distance; each N, M >= 2.4 D."""
    halves = [frechet(real[i::2], fake[i::2]) for i in (0, 1)]
    corrected = sum(half.value - half.bias for half in halves) / 2
    # what remains goes as 1/n²: four times as much in a half
    return (4 * (whole.value - whole.bias) - corrected) / 3
