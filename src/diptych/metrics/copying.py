"""Are training images replayed? Answers from L(x), the distance to the nearest training image.

AuthPct: authenticity (Alaa et al., 2022, arXiv:2102.08921), as a percentage. C_T, and L(fakes) against
L(held-out images), on which the ratio and the share of near fakes rest too: Meehan, Chaudhuri and Dasgupta,
2020, arXiv:2004.05675.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.features.clusters import centres
from diptych.metric import metric
from diptych.metrics.intervals import (
    Spread,
    enough,
    from_influence,
    from_subsets,
    normal,
    proportion,
    wilson,
)
from diptych.metrics.neighbours import nearest
from diptych.scores import Estimate

NEEDED = 40  # images of each kind
NEAR = 0.01  # the share of held-out images that is called near
CELLS, IN_CELL = 10, 100  # cells at most, and the images that each should hold on average
LEAST = 20  # fakes that a cell needs to count: the paper's tau is 20 over their number
CLUSTERED = 10_000  # training images that the cells are made from


@metric(
    {"authpct": "higher", "nn_ratio": "neither", "near_training": "lower", "c_t": "neither"}, floored=False
)
def copying(exam: Exam) -> Mapping[str, Estimate]:
    """Is the training set replayed? AuthPct, ratio of distances, share of fakes that are near, and C_T.

    Raises NotMeasurable where there is no training set, or too few images.
    """
    train, real, fake = exam.features("train"), exam.features("real"), exam.features("fake")
    enough("copying", NEEDED, real, fake)
    if len(train) < NEEDED:
        raise NotMeasurable(f"copying needs {NEEDED} training images or more; there are {len(train)}")
    to_real, to_fake = nearest(real, train), nearest(fake, train)
    real_length, fake_length = to_real.squared[:, 0].sqrt(), to_fake.squared[:, 0].sqrt()
    return {
        "authpct": authenticity(train, to_real.number, to_fake.number, real_length, fake_length),
        "nn_ratio": ratio(real_length, fake_length),
        "near_training": near_training(real_length, fake_length),
        "c_t": copying_test(train, real, fake),
    }


def authenticity(train: Tensor, real_near: Tensor, fake_near: Tensor, real: Tensor, fake: Tensor) -> Estimate:
    """AuthPct: % of fakes farther from their nearest training image than that is from its nearest other.

    train (T, D); which training images are nearest (N,) and (M,), and how far they are (N,) and (M,).
    """
    asked, back = torch.unique(torch.cat([real_near, fake_near]), return_inverse=True)
    own = nearest(train[asked], train, own=asked).squared[:, 0].sqrt()[back]
    real_authentic, fake_authentic = real > own[: len(real)], fake > own[len(real) :]
    share, usual = _mean(fake_authentic), 100 * _mean(real_authentic)
    spread = from_influence(None, 100 * fake_authentic.double())
    low, high = (100 * edge for edge in proportion(share, len(fake), spread.error / 100))
    note = (
        f"held-out images in the fakes' place: {usual:.3g}; less is copying, more only far off. "
        "Interval: Wilson over the fakes, for this training set"
    )
    return Estimate(100 * share, low, high, len(fake), "higher", "%", note, spread.replicates)


def ratio(real: Tensor, fake: Tensor) -> Estimate:
    """Median distance to the nearest training image: the fakes' (M,) over that of held-out images (N,)."""
    if float(real.median()) == 0:
        raise NotMeasurable(
            "more than half of the held-out images are in the training set: copying cannot be told",
            "split the data anew, with copies on one side",
        )

    def statistic(real: Tensor, fake: Tensor) -> Tensor:
        return (fake.median() / real.median())[None]

    value = float(statistic(real, fake))
    spread = from_subsets(statistic, real, fake, most=len(real))[0]
    low, high = normal(value, spread.error)
    note = (
        "of medians; 1: as far as held-out images, less is copying, more is far off. "
        "Interval: normal, with the variance of both sets from halves of them"
    )
    return Estimate(value, max(0.0, low), high, len(fake), "neither", "", note, spread.replicates)


def near_training(real: Tensor, fake: Tensor) -> Estimate:
    """The share of fakes at most as far from the training set as the nearest 1 % of held-out images.

    Distances (N,) and (M,) to the nearest training image.
    """
    limit = real.sort().values[max(1, round(NEAR * (len(real) + 1))) - 1]
    reals = int((real <= limit).sum())
    share, spread = _mean(fake <= limit), _near_spread(real, fake, limit)
    low, high = proportion(share, len(fake), spread.error)
    note = (
        f"as near as {reals} of {len(real)} held-out images; {reals / (len(real) + 1):.3g} is expected of a "
        "model that copies nothing. Interval: Wilson, with the variance of both sets"
    )
    return Estimate(share, low, high, len(fake), "lower", "", note, spread.replicates)


def copying_test(train: Tensor, real: Tensor, fake: Tensor) -> Estimate:
    """C_T of features (T, D), (N, D), (M, D): z-scores of a rank test of L in each cell, averaged."""
    count = max(1, min(CELLS, min(len(real), len(fake)) // IN_CELL))
    middles = centres(train[:: -(-len(train) // CLUSTERED)], count)
    places = [nearest(each, middles).number for each in (train, real, fake)]
    cells = []
    for cell in range(len(middles)):
        known, reals, fakes = (torch.nonzero(place == cell).squeeze(1) for place in places)
        if len(fakes) < LEAST or not len(reals) or not len(known):
            continue
        lengths = (nearest(each, train[known]).squared[:, 0] for each in (real[reals], fake[fakes]))
        cells.append(Cell((reals.cpu(), fakes.cpu()), *rank_test(*lengths)))
    if not cells:
        raise NotMeasurable(
            f"C_T needs a cell with {LEAST} fakes and a held-out image", "look at more images"
        )
    weights = [len(cell.rows[0]) for cell in cells]
    total = sum(weights)
    value = sum(cell.score * weight for cell, weight in zip(cells, weights, strict=True)) / total
    spread = from_influence(*_influence(cells, value, (len(real), len(fake))))
    chance = 1.96 * math.hypot(*weights) / total
    note = (
        f"in {len(cells)} cells; 0 ± {chance:.2g}: as far as held-out images, far below is copying, far "
        "above far off; grows with the root of n. Interval: "
    )
    if all(cell.saturated * value > 0 for cell in cells):
        ends, how = _open(value, sum(min(map(len, cell.rows)) for cell in cells))
    else:
        ends, how = normal(value, spread.error), "normal, from each image's ranks"
    return Estimate(value, *ends, len(fake), "neither", "", note + how, spread.replicates)


def _open(value: float, pairs: int) -> tuple[tuple[float, float], str]:
    """The interval of C_T where ranks have no spread: every fake is farther than every real, or nearer.

    Disjoint pairs, so many, are all ordered alike: Wilson's interval of that share is the end towards 0.
    """
    inner = value * (2 * wilson(1.0, pairs)[0] - 1)
    side = "farther" if value > 0 else "nearer"
    how = f"Wilson towards 0, else open: every fake is {side} than every held-out image, all that n can tell"
    return ((inner, math.inf) if value > 0 else (-math.inf, inner)), how


class Cell(NamedTuple):
    """A cell's reals and fakes by number, its score, and what each of them adds to it."""

    rows: tuple[Tensor, Tensor]
    score: float
    real: Tensor
    fake: Tensor

    @property
    def saturated(self) -> int:
        """1 where every fake is farther than every real, -1 where every one is nearer, else 0."""
        parts = (self.real, self.fake)
        return 0 if any(bool(part.any()) for part in parts) else (self.score > 0) - (self.score < 0)


def _influence(cells: list[Cell], value: float, sizes: tuple[int, int]) -> list[Tensor]:
    """What each real and each fake adds to C_T: by its rank, and by being in this cell and not in another."""
    total = sum(len(cell.rows[0]) for cell in cells)
    influence = [torch.zeros(size, dtype=torch.float64) for size in sizes]
    for cell in cells:
        n, m = map(len, cell.rows)
        for side, rows, part in zip(influence, cell.rows, (cell.real, cell.fake), strict=True):
            # the score of a cell goes as the root of n m / (n + m + 1)
            larger = cell.score * (1 / len(rows) - 1 / (n + m + 1)) / 2
            side[rows] = (part.cpu() / len(rows) + larger) * (n * len(side) / total)
        influence[0][cell.rows[0]] += (cell.score - value) * sizes[0] / total  # cells weigh as their reals
    return influence


def rank_test(real: Tensor, fake: Tensor) -> tuple[float, Tensor, Tensor]:
    """Z_U of Mann and Whitney, negative where fakes (M,) are smaller than reals (N,), and who made it so.

    That is the influence on Z_U of each real (N,) and fake (M,), whose means are 0 (DeLong et al., 1988).
    """
    n, m = len(real), len(fake)
    above = _share_below(fake, real)  # (M,) of the reals, below each fake
    beneath = 1 - _share_below(real, fake)  # (N,) of the fakes, above each real
    scale = math.sqrt(12 * n * m / (n + m + 1))
    centre = float(above.mean())
    return scale * (centre - 0.5), scale * (beneath - centre), scale * (above - centre)


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """Which share of others lies below each value; ties count half."""
    ordered = others.sort().values
    sides = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return sum(sides, torch.zeros_like(values)) / (2 * len(others))


def _near_spread(real: Tensor, fake: Tensor, limit: Tensor) -> Spread:
    """Of the share of fakes below a quantile of the reals, which moves as the reals do (Bahadur, 1966)."""
    ordered, place = real.sort().values, int((real <= limit).sum())
    low, high = ordered[max(0, place // 2 - 1)], ordered[min(len(real) - 1, 2 * place + 8)]
    fakes, reals = (float(((each > low) & (each <= high)).double().mean()) for each in (fake, real))
    slope = fakes / reals if reals else 1.0  # the fakes' density over the reals', at the limit
    return from_influence(-slope * (real <= limit).double(), (fake <= limit).double())


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
