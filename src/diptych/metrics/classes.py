"""Which classes a model reaches, and how often, as a classifier of the user's labels sees it.

Without labels, k-means cells of the training images take the classes' place, as bins do in NDB (Richardson
and Weiss, 2018, arXiv:1805.12462). Divergence: Jensen-Shannon (Lin, 1991), in bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.exam import Exam
from diptych.features.clusters import centres
from diptych.metric import metric
from diptych.metrics.classifier import described, predicted
from diptych.metrics.intervals import enough, from_influence, wilson
from diptych.metrics.squares import squared_interval
from diptych.scores import Estimate

ENOUGH = 16
PER_BIN = 20  # images: of that many expected, none by chance has a probability of 2e-9
MOST_BINS = 100
MOST = 20_000  # training images that bins are made of
LEVEL = 0.05  # probability that any class is counted wrongly by chance
UNBIASED = (
    "bits; its bias in n is taken off, so that it may lie under 0. Interval: delta method of second order"
)


@metric(
    {
        "class_divergence": "lower",
        "modes_reached": "higher",
        "label_accuracy": "higher",
        "bin_divergence": "lower",
        "bins_reached": "higher",
    }
)
def classes(exam: Exam) -> Mapping[str, Estimate]:
    """Divergence of the class histograms, modes reached, and how often a fake is of the class asked for."""
    enough("a class histogram", ENOUGH, exam.images("real"), exam.images("fake"))
    return _of_classes(exam) if exam.classes and exam.labels("train") is not None else _of_bins(exam)


def _of_classes(exam: Exam) -> dict[str, Estimate]:
    names, labels, asked = exam.classes, exam.labels("real"), exam.labels("fake")
    real, fake = predicted(exam, "real"), predicted(exam, "fake")
    note = f"{len(names)} classes, as predicted for both sides; {described(exam)}"
    scores = {"class_divergence": _divergence(real, fake, len(names), f"{note}; {UNBIASED}")}
    if labels is not None:
        counts = fake.bincount(minlength=len(names))
        needed = least_counts(counts, confusion(labels, real, len(names)))
        scores["modes_reached"] = _reached(
            counts,
            needed,
            names,
            f"classes with more fakes than the classifier's errors on other classes explain, of {len(names)}",
        )
    if asked is not None:
        right = (fake == asked).double()
        share, spread = float(right.mean()), from_influence(None, right)
        scores["label_accuracy"] = Estimate(
            share,
            *wilson(share, len(fake)),
            len(fake),
            "higher",
            "",
            f"fakes whose predicted class is the one asked for; {described(exam)}. Interval: Wilson",
            replicates=spread.replicates,
        )
    return scores


def _of_bins(exam: Exam) -> dict[str, Estimate]:
    bins = bins_of(exam)
    real, fake = (nearest(exam.features(which), bins) for which in ("real", "fake"))
    counts = fake.bincount(minlength=len(bins))
    needed = least_of_share(real.bincount(minlength=len(bins)), len(real), len(fake))
    note = f"no labels: {len(bins)} k-means cells of the training images' features"
    return {
        "bin_divergence": _divergence(real, fake, len(bins), f"{note}; {UNBIASED}"),
        "bins_reached": _reached(
            counts, needed, None, f"{note}; cells without a significant lack of fakes, of {len(bins)}"
        ),
    }


# ---------------------------------------------------------------- divergence


class Divergence(NamedTuple):
    """A Jensen-Shannon divergence in bits, its 95 % interval, and each image's influence on it."""

    value: float
    interval: tuple[float, float]
    real: Tensor  # (N,)
    fake: Tensor  # (M,)


def jensen_shannon(real: Tensor, fake: Tensor, classes: int) -> Divergence:
    """Between the histograms of classes (N,) and (M,) int64, in bits; the bias in 1/n is taken off."""
    n, m = len(real), len(fake)
    p, q = real.bincount(minlength=classes).double() / n, fake.bincount(minlength=classes).double() / m
    middle = (p + q) / 2
    by_p, by_q = (torch.where(x > 0, (x / middle).log2(), 0.0) / 2 for x in (p, q))  # d JSD / dp
    plain = float((p * by_p + q * by_q).sum())
    var_p, var_q = p * (1 - p) / n, q * (1 - q) / m
    curve = _over(var_p, p) / 4 + _over(var_q, q) / 4 - _over(var_p + var_q, middle) / 8
    influence_p, influence_q = by_p[real] - (p * by_p).sum(), by_q[fake] - (q * by_q).sum()
    first = float(influence_p.square().mean() / n + influence_q.square().mean() / m)
    # where the histograms are equal, the divergence is a sum of squares, as chi-squared is
    second = 2 * float((_over(var_p + var_q, middle) / (8 * math.log(2))).square().sum())
    value = plain - float(curve.sum()) / math.log(2)
    return Divergence(value, squared_interval(value, plain, first, second), influence_p, influence_q)


def _over(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, 0.0)


def _divergence(real: Tensor, fake: Tensor, classes: int, note: str) -> Estimate:
    found = jensen_shannon(real, fake, classes)
    low, high = found.interval
    spread = from_influence(found.real, found.fake)
    return Estimate(
        min(1.0, found.value),
        min(low, found.value),
        min(1.0, high),
        len(fake),
        "lower",
        "bits",
        note,
        replicates=spread.replicates,
    )


# --------------------------------------------------------------- modes reached


class Confusion(NamedTuple):
    """How often true class t (rows) is taken for class y (columns): mean and variance of what is known."""

    mean: Tensor  # (K, K)
    variance: Tensor  # (K, K)


def confusion(labels: Tensor, predictions: Tensor, classes: int) -> Confusion:
    """Of a classifier on (N,) held-out images, and one more a class, spread evenly, for the unseen."""
    counts = (labels * classes + predictions).bincount(minlength=classes**2).view(classes, classes).double()
    total = counts.sum(1, keepdim=True) + 1
    mean = (counts + 1 / classes) / total
    return Confusion(mean, mean * (1 - mean) / (total + 1))


def least_counts(counts: Tensor, errors: Confusion) -> Tensor:
    """How many fakes (K,) each class needs, so that errors on the other classes do not explain them.

    Were a class absent, the fakes would be of the other classes, in the shares in which they are predicted.
    """
    classes, n = len(counts), int(counts.sum())
    others = counts.double().expand(classes, classes).clone().fill_diagonal_(0)
    share = others / others.sum(1, keepdim=True).clamp_min(1)
    mean = (share * errors.mean.T).sum(1)
    variance = (share.square() * errors.variance.T).sum(1)
    return torch.tensor(
        [
            least_count(n * float(m), n * n * float(v), n, LEVEL / classes)
            for m, v in zip(mean, variance, strict=True)
        ]
    )


def least_count(mean: float, variance: float, n: int, level: float) -> int:
    """The smallest count with P(X >= count) <= level; X is Poisson, its rate has this mean and variance."""
    if mean <= 0:
        return 1
    k = torch.arange(n + 1, dtype=torch.float64)
    shape = mean**2 / max(variance, 1e-9 * mean**2)  # of the gamma distribution of the rate
    log_p = (
        torch.lgamma(k + shape)
        - math.lgamma(shape)
        - torch.lgamma(k + 1)
        + shape * math.log(shape / (shape + mean))
        + k * math.log(mean / (shape + mean))
    )
    at_least = 1 - log_p.exp().cumsum(0)  # P(X >= k + 1)
    return int((at_least > level).sum()) + 1


def least_of_share(reals: Tensor, n: int, m: int) -> Tensor:
    """How many of m fakes (K,) each bin needs not to lack any significantly beside these counts of n reals.

    Of all images in a bin, the fakes are binomial with share m / (n + m) where both are equally frequent.
    """
    level = math.log(LEVEL / len(reals))
    needed = []
    for count in reals.tolist():
        fakes = torch.arange(count + 1, dtype=torch.float64)  # a bin with as many needs no test
        log_p = _log_binomial_tail(fakes, float(count), m / (n + m))
        needed.append(int((log_p < level).sum()))
    return torch.tensor(needed)


def _log_binomial_tail(fakes: Tensor, reals: float, share: float) -> Tensor:
    """log P(X <= f) of X binomial of f + reals cases, for each f (F,)."""
    k = torch.arange(len(fakes), dtype=torch.float64)
    cases = (fakes + reals)[:, None]
    log_p = (
        torch.lgamma(cases + 1)
        - torch.lgamma(k + 1)
        - torch.lgamma(cases - k + 1)
        + k * math.log(share)
        + (cases - k) * math.log1p(-share)
    )
    return torch.where(k <= fakes[:, None], log_p, -math.inf).logsumexp(1)


def _reached(counts: Tensor, needed: Tensor, names: tuple[str, ...] | None, note: str) -> Estimate:
    n = int(counts.sum())
    ends = [wilson(count / n, n) for count in counts.tolist()]
    low, high = (
        sum(end[i] * n >= least for end, least in zip(ends, needed.tolist(), strict=True)) for i in (0, 1)
    )
    missing = (counts < needed).nonzero()[:, 0].tolist()
    if names is not None and missing:
        note += f"; not reached: {', '.join(names[c] for c in missing[:5])}{' ...' if missing[5:] else ''}"
    value = len(counts) - len(missing)
    note += ". Interval: by the 95 % interval of each share"
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), n, "higher", "", note)


# ------------------------------------------------------------------------ bins


def bins_of(exam: Exam) -> Tensor:
    """Centres (B, D) of k-means cells of the training images' features, made once an exam."""
    return exam.shared("bins", lambda: _clustered(exam))


def nearest(features: Tensor, centres: Tensor) -> Tensor:
    """Index (N,) int64, on the CPU, of the nearest centre (B, D) of each of features (N, D)."""
    return torch.cat([torch.cdist(rows, centres).argmin(1) for rows in torch.split(features, 4096)]).cpu()


def _clustered(exam: Exam) -> Tensor:
    features = exam.features("train")
    chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MOST]
    count = max(2, min(MOST_BINS, exam.n // PER_BIN, len(chosen)))
    return centres(features[chosen.to(features.device)], count, iterations=50)
