"""Whether images follow when what they are made from is moved or turned: EQ-T and EQ-R (StyleGAN3, Karras et
al., 2021, arXiv:2106.12423, section 3 and appendix E)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.intervals import from_influence, normal
from diptych.scores import Estimate

IMAGES = 256  # a transform for each eight of them
SPAN = 2.0  # of an image's values


@metric({"eq_t": "higher", "eq_t_frac": "higher", "eq_r": "higher"}, asked_only=True, floored=False)
def equivariance(exam: Exam) -> Mapping[str, Estimate]:
    """Whether images follow what they begin with: signal to noise in dB, 20 more is a tenth of the error.

    `eq_t`: moved by whole pixels; `eq_t_frac`: by parts of pixels as well; `eq_r`: turned by any angle.
    """
    errors = exam.asked("equivariance").equivariance(IMAGES, seed=exam.seed, device=exam.device)
    found = {name: decibels(rows) for name, rows in errors.items()}
    known = {name: estimate for name, estimate in found.items() if estimate is not None}
    if not known:
        raise NotMeasurable("the images are too small for any transform to be seen")
    return known


def decibels(errors: Tensor) -> Estimate | None:
    """10 log10(span^2 / mean squared error) (equation 15), of sums of squares and counts (transforms, 2).

    None where nothing was seen: filters that turn an image see beyond its edges below 14 pixels.
    """
    total, count = errors.double().cpu().sum(0).tolist()
    if not count or not total:
        return None
    value = 10 * math.log10(SPAN**2 * count / total)
    residual = errors[:, 0].double().cpu() - total / count * errors[:, 1].double().cpu()
    influence = -10 / math.log(10) * residual * len(errors) / total  # the delta method, of a ratio
    spread = from_influence(influence, None)
    return Estimate(
        value,
        *normal(value, spread.error),
        len(errors),
        "higher",
        "dB",
        f"{len(errors)} transforms of {IMAGES} images. Interval: normal, over the transforms",
        replicates=spread.replicates,
    )
