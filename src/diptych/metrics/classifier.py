"""A classifier of the user's own labels: multinomial logistic regression on the training images' features.

It stands where the literature has an ImageNet classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from diptych.errors import NotMeasurable
from diptych.exam import Exam

MOST = 10_000  # training images that it is fitted to
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)  # of which the best on a fifth of them is taken
STEPS = 60
FOLDS = 5  # of training images, where those in the fakes' place are to be classified


@dataclass(frozen=True, eq=False)
class Classifier:
    """logits = (features - mean) / scale @ weight + bias."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,)
    weight: Tensor  # (D, K)
    bias: Tensor  # (K,)
    penalty: float
    n: int  # images that it was fitted to

    def logits(self, features: Tensor) -> Tensor:
        """(N, K) float32 of features (N, D)."""
        return (features - self.mean) / self.scale @ self.weight + self.bias


def classifier(exam: Exam) -> Classifier:
    """The exam's classifier, fitted once. Raises NotMeasurable where the data has no labels, or one class."""
    return exam.shared("classifier", lambda: _fitted(exam))


def predicted(exam: Exam, which: str) -> Tensor:
    """Classes (N,) int64 on the CPU that the exam's classifier sees in "real" or "fake" images."""
    return logits_of(exam, "fake" if which == "fake" else "real").argmax(1).cpu()


def logits_of(exam: Exam, which: Literal["real", "fake"]) -> Tensor:
    """(N, K) of the exam's classifier. Fakes that are training images, as a floor's are, are seen by one that
    was fitted without them."""
    features = exam.features(which)
    if which == "real" or exam.seen is None:
        return classifier(exam).logits(features)
    return exam.shared("logits of training images", lambda: _unseen(exam, features))


def _unseen(exam: Exam, features: Tensor) -> Tensor:
    known, labels, chosen = _material(exam)
    fold = torch.empty(len(labels), dtype=torch.int64)
    fold[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))] = (
        torch.arange(len(labels)) % FOLDS
    )
    own, penalty = fold[torch.from_numpy(exam.seen)], classifier(exam).penalty
    found = torch.empty(len(features), len(exam.classes), device=features.device)
    for part in sorted(set(own.tolist())):
        rows = chosen[fold[chosen] != part]
        without = fit(known[rows.to(known.device)].float(), labels[rows], len(exam.classes), penalty)
        mine = (own == part).to(features.device)
        found[mine] = without.logits(features[mine].float())
    return found


def accuracy(exam: Exam) -> float:
    """The share of held-out reals whose class the exam's classifier finds."""
    labels = exam.labels("real")
    return float("nan") if labels is None else float((predicted(exam, "real") == labels).double().mean())


def described(exam: Exam) -> str:
    """Half a sentence for a score's note: what it was fitted to and how good it is."""
    return (
        f"classifier: logistic regression on {classifier(exam).n:,} labelled training images, "
        f"right for {accuracy(exam):.1%} of the held-out ones"
    )


def fit(features: Tensor, labels: Tensor, classes: int, penalty: float | None = None) -> Classifier:
    """Logistic regression of labels (N,) on features (N, D), minimising mean cross-entropy + penalty/2 |W|².

    The features are standardised first. Without a penalty, the best on every fifth image is taken.
    """
    mean, scale = features.mean(0), features.std(0)
    scale = torch.where(scale > 1e-6 * scale.max().clamp_min(1e-30), scale, torch.ones_like(scale))
    x, y = (features - mean) / scale, labels.to(features.device)
    start = x.new_zeros(x.shape[1] + 1, classes)
    if penalty is None:
        penalty = _best_penalty(x, y, start)
    found = _minimised(x, y, start, penalty)
    return Classifier(mean, scale, found[:-1], found[-1], penalty, len(x))


def _fitted(exam: Exam) -> Classifier:
    features, labels, chosen = _material(exam)
    return fit(features[chosen.to(features.device)].float(), labels[chosen], len(exam.classes))


def _material(exam: Exam) -> tuple[Tensor, Tensor, Tensor]:
    """Features and labels of the training images, and which of them a classifier is fitted to."""
    labels = exam.labels("train") if exam.classes else None
    if labels is None:
        raise NotMeasurable(
            "the data has no labels to train a classifier on",
            "a folder for each class, or a table of labels, gives them",
        )
    if len(exam.classes) < 2:
        raise NotMeasurable("the data has one class only", "a classifier needs two or more")
    features = exam.features("train")
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:MOST]
    return features, labels, chosen


def _best_penalty(x: Tensor, y: Tensor, start: Tensor) -> float:
    """By the cross-entropy of every fifth image: calibrated probabilities, not only right classes."""
    held = torch.arange(len(x), device=x.device) % 5 == 0
    if held.all() or not held.any():
        return PENALTIES[1]
    weight, losses = start, []
    for penalty in PENALTIES:  # from stiff to loose, each from where the last one ended
        weight = _minimised(x[~held], y[~held], weight, penalty)
        losses.append(float(cross_entropy(x[held] @ weight[:-1] + weight[-1], y[held])))
    return PENALTIES[losses.index(min(losses))]


def _minimised(x: Tensor, y: Tensor, start: Tensor, penalty: float) -> Tensor:
    """Weights and bias (D + 1, K) by L-BFGS; the problem is convex."""
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=STEPS, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x @ weight[:-1] + weight[-1], y) + penalty / 2 * weight[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach()
