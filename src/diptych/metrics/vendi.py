"""Vendi score (Friedman and Dieng, 2023, arXiv:2210.02410): the effective number of different images.

exp of the entropy of the eigenvalues of K/n, K the cosine similarities of the features. With more images than
dimensions they are the eigenvalues of the d x d second moments of the normalised features. Here the
reals' mean is taken off first: raw features lie so near one direction that a dropped class hardly shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.intervals import enough, from_influence, normal
from diptych.scores import Better, Estimate

ENOUGH = 16
INTERVAL = (
    "Interval: delta method over the images, by their influence on the eigenvalues, for the score at this n"
)


class Vendi(NamedTuple):
    """A Vendi score, each image's influence on it, and how it moves with the mean that was taken off."""

    value: float
    influence: Tensor  # (N,)
    pull: Tensor  # (D,)


@metric({"vendi": "higher", "vendi_ratio": "neither"})
def vendi(exam: Exam) -> Mapping[str, Estimate]:
    """Effective number of different fakes, 1 to n; and its ratio to that of as many reals."""
    real, fake = exam.features("real"), exam.features("fake")
    enough("the Vendi score", ENOUGH, real, fake)
    n = min(len(real), len(fake))  # the score grows with n, so both sides have as many
    raw, mean = vendi_score(fake[:n]), real[:n].double().mean(0)
    real, fake = real[:n].double() - mean, fake[:n].double() - mean
    of_real, of_fake = with_influence(real), with_influence(fake)
    note = (
        f"cosine kernel on features less the reals' mean (of raw features: {raw:.4g}); as many reals have "
        f"{of_real.value:.4g}. At this n; would rise by about {missing(fake):.2g} with more. {INTERVAL}"
    )
    ratio = of_fake.value / of_real.value
    ratio_note = f"1: as diverse as the reals; over 1 may be noise. Biases mostly cancel. {INTERVAL}"
    moved = ratio * (of_fake.pull / of_fake.value - of_real.pull / of_real.value)
    return {
        "vendi": _estimate(of_fake.value, real @ of_fake.pull, of_fake.influence, "higher", note),
        "vendi_ratio": _estimate(
            ratio,
            real @ moved - ratio * of_real.influence / of_real.value,
            of_fake.influence / of_real.value,
            "neither",
            ratio_note,
        ),
    }


def _estimate(value: float, real: Tensor, fake: Tensor, better: Better, note: str) -> Estimate:
    spread = from_influence(real, fake)
    low, high = normal(value, spread.error)
    return Estimate(value, max(0.0, low), high, len(fake), better, "", note, replicates=spread.replicates)


def vendi_score(features: Tensor) -> float:
    """The Vendi score of features (N, D) under the cosine kernel, in float64."""
    x = _normalised(features)
    values = torch.linalg.eigvalsh((x.T @ x if len(x) > x.shape[1] else x @ x.T) / len(x)).clamp_min(0)
    return float(torch.exp(-torch.xlogy(values, values).sum()))


def with_influence(features: Tensor) -> Vendi:
    """The Vendi score of features (N, D), and what moves it.

    The entropy H of S = mean(x xᵀ) moves by -tr(log S dS), so that an x has the influence -xᵀ log S x - H.
    """
    x = _normalised(features)
    n, dim = x.shape
    small = n <= dim
    values, vectors = torch.linalg.eigh((x @ x.T if small else x.T @ x) / n)
    seen = values > values[-1] * max(n, dim) * torch.finfo(x.dtype).eps
    logs = torch.where(seen, values.clamp_min(1e-300).log(), 0.0)
    log_s = (vectors * logs) @ vectors.T
    steep = log_s @ x if small else x @ log_s  # rows are log(S) x, from either side's eigenvectors
    own = (steep * x).sum(1, keepdim=True)
    entropy = -(values * logs).sum()
    score = entropy.exp()
    # a step of the mean turns x by what of it is across x, over x's length
    across = 2 * ((steep - own * x) / features.double().norm(dim=1, keepdim=True)).mean(0)
    return Vendi(float(score), score * (-own[:, 0] - entropy), score * across)


def missing(features: Tensor) -> float:
    """How much the score rises from n to infinity: as much as from n/2 to n, since its bias goes as 1/n."""
    halves = [vendi_score(features[i::2]) for i in (0, 1)]
    return vendi_score(features) - sum(halves) / 2


def _normalised(features: Tensor) -> Tensor:
    """Rows of length one, in float64. Raises NotMeasurable where a row is zero."""
    x = features.to(torch.float64, copy=True)
    length = x.norm(dim=1, keepdim=True)
    if (length == 0).any():
        raise NotMeasurable(
            f"{int((length == 0).sum())} of {len(x)} images have features of zero, similar to nothing",
            "the Vendi score needs an angle between features; take another extractor",
        )
    x /= length
    return x
