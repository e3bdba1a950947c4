"""Where images fall: their classes as a linear classifier sees them, or k-means cells where there are none.

A histogram over them is the bins of NDB (Richardson and Weiss, 2018, arXiv:1805.12462). The classifier is
least squares on one-hot labels, in closed form: it costs milliseconds, and both sides share its errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.features.clusters import centres

PER_CELL = 20  # images that an exam should have in each k-means cell
MOST = 100
RIDGE = 1e-2  # of the mean variance


class Cells:
    """The cell of an image is the row of `weight` (K, D) and `bias` (K,) that answers most."""

    def __init__(self, weight: Tensor, bias: Tensor, what: str) -> None:
        self.weight, self.bias, self.what = weight, bias, what

    def of(self, features: Tensor) -> Tensor:
        """Numbers (N,) of the cells of features (N, D)."""
        return (features @ self.weight.T + self.bias).argmax(1)

    def counts(self, features: Tensor) -> Tensor:
        """How many of features (N, D) each cell holds, (K,)."""
        return self.of(features).bincount(minlength=len(self.bias))


def cells_of(train: Tensor, labels: Tensor | None, n: int) -> Cells:
    """Cells of training images (T, D) for exams of n images; labels (T,) int64 where they have classes."""
    if labels is not None and 2 <= len(torch.unique(labels)) <= MOST:
        return by_class(train, labels.to(train.device))
    return by_clusters(train, max(2, min(MOST, n // PER_CELL, len(train))))


def by_class(train: Tensor, labels: Tensor) -> Cells:
    """Least squares on the classes that occur."""
    _, place = torch.unique(labels, return_inverse=True)
    x, mean = train.double(), train.double().mean(0)
    target = torch.nn.functional.one_hot(place).double()
    centred = x - mean
    gram = centred.T @ centred
    gram.diagonal().add_(RIDGE * gram.trace() / len(gram))
    weight = torch.linalg.solve(gram, centred.T @ (target - target.mean(0))).T
    return Cells(weight.to(train), (target.mean(0) - weight @ mean).to(train), "classes")


def by_clusters(train: Tensor, count: int) -> Cells:
    """The nearest of `count` k-means centres."""
    found = centres(train, count, iterations=30)
    return Cells(2 * found, -found.square().sum(1), "k-means cells")
