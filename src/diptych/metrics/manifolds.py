"""What precision, recall, density and coverage share: one pass over all distances, and their spread."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.exam import Exam, shuffle
from diptych.metrics.intervals import Spread, enough, spreads, subsets
from diptych.metrics.neighbours import Balls, meet, radii

PRECISION_K, DENSITY_K = 3, 5
MOST = 2000  # images whose halves tell the spread
UNTOLD = 1.12  # halves share neighbours, so that density moves more than they tell (benchmarks/intervals.py)
KEPT = 64  # nearest neighbours of which half are in a half: enough that the fifth always is among them


class Shares(NamedTuple):
    """The four, of features or of their balls."""

    precision: float
    recall: float
    density: float
    coverage: float


class Found(NamedTuple):
    """The four and how they spread, of an exam."""

    shares: Shares
    spreads: list[Spread]
    reals: int
    fakes: int


def found(exam: Exam) -> Found:
    """Of this exam, computed once. Raises NotMeasurable for too few images."""

    def compute() -> Found:
        real, fake = exam.features("real"), exam.features("fake")
        enough("precision, recall, density and coverage", 2 * (DENSITY_K + 1), real, fake)
        return Found(*measured(real, fake), len(real), len(fake))

    return exam.shared("manifolds", compute)


def shares(real: Tensor, fake: Tensor, k: int = PRECISION_K, density_k: int = DENSITY_K) -> Shares:
    """Of features (N, D) and (M, D), from every distance once, exact. Borders belong to the balls."""
    return _shares(*_balls(real, fake, k, density_k), density_k)


def measured(real: Tensor, fake: Tensor, most: int = MOST) -> tuple[Shares, list[Spread]]:
    """The four of features (N, D) and (M, D), and the spread of each.

    The spread is that over halves of `most` images of each set, whose distances are computed once and looked
    up; from more images than that, it is scaled.
    """
    real_balls, fake_balls = _balls(real, fake, PRECISION_K, DENSITY_K)
    x, y = (some(each, most).double() for each in (real, fake))
    pairs, scale = subsets(len(x), len(y), most)
    inner_x, inner_y = (_Inner(each, len(rows)) for each, rows in zip((x, y), pairs[0], strict=True))
    across = _distances(x, y)
    halves = ((a.to(x.device), b.to(x.device)) for a, b in pairs)
    values = torch.stack([_of_halves(inner_x, inner_y, across, a, b).cpu() for a, b in halves])
    root = math.sqrt(min(len(x), len(y)) / min(len(real), len(fake)))
    # where a few images lie in many balls (hubs), density gains less from images than by the root of n
    around = (across <= inner_x.radii(torch.arange(len(x), device=x.device), (DENSITY_K,))[0][:, None]).sum(0)
    few, all_ = _standard_error(around), _standard_error(real_balls.around[1])
    density = UNTOLD * (all_ / few if few else root)
    scales = torch.tensor([root, root, density, root], dtype=torch.float64)
    return _shares(real_balls, fake_balls, DENSITY_K), spreads(values * scales, scale)


def some(features: Tensor, most: int) -> Tensor:
    """All of them, or so many that stand for all: files are often sorted by class."""
    n = len(features)
    return features if n <= most else features[torch.from_numpy(shuffle(n)[:most]).to(features.device)]


def _balls(real: Tensor, fake: Tensor, k: int, density_k: int) -> tuple[Balls, Balls]:
    return meet(real, fake, radii(real, (k, density_k)), radii(fake, (k,)))


def _shares(real: Balls, fake: Balls, density_k: int) -> Shares:
    return Shares(
        precision=_mean(real.around[0] > 0),
        recall=_mean(fake.around[0] > 0),
        density=_mean(real.around[1]) / density_k,
        coverage=_mean(real.held[1] > 0),
    )


def _of_halves(x: _Inner, y: _Inner, across: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The four (4,) of these reals and these fakes, from all distances across."""
    (real, real_density), (fake,) = x.radii(rows, (PRECISION_K, DENSITY_K)), y.radii(columns, (PRECISION_K,))
    apart = across[rows][:, columns]
    balls = apart <= real_density[:, None]
    precision, recall = (apart <= real[:, None]).any(0), (apart <= fake).any(1)
    density = balls.sum(dtype=torch.float64) / (DENSITY_K * len(columns))
    return torch.stack(
        [precision.double().mean(), recall.double().mean(), density, balls.any(1).double().mean()]
    )


class _Inner:
    """Points whose k-th neighbours are asked for within many halves."""

    def __init__(self, points: Tensor, size: int) -> None:
        apart = _distances(points, points).fill_diagonal_(torch.inf)
        self.n = len(points)
        kept = min(self.n - 1, -(-KEPT * self.n // (2 * size)))
        self.near = apart.topk(kept, dim=1, largest=False)

    def radii(self, rows: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
        """Squared distances (B,) of these rows to the k-th nearest among them, for each k."""
        chosen = torch.zeros(self.n, dtype=torch.bool, device=rows.device)
        chosen[rows] = True
        places = chosen[self.near.indices[rows]].cumsum(1)
        values = self.near.values[rows]
        last = values.shape[1] - 1
        return [values.gather(1, (places < k).sum(1, keepdim=True).clamp_max(last)).squeeze(1) for k in ks]


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (N, M) float32 of float64 points; of copies, 0."""
    centre = (x.mean(0) + y.mean(0)) / 2
    x, y = x - centre, y - centre
    lengths = x.square().sum(1)[:, None] + y.square().sum(1)
    squared = torch.addmm(lengths, x, y.T, alpha=-2)
    squared[squared < 4 * (x.shape[1] + 8) * torch.finfo(x.dtype).eps * lengths] = 0
    return squared.float()


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _standard_error(values: Tensor) -> float:
    return float(values.double().std()) / math.sqrt(len(values))
