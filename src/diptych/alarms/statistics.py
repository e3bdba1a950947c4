"""What alarms look at: statistics of an exam's samples beside held-out and training images.

Collapse: coverage (Naeem et al., 2020, arXiv:2002.09797), recall (Kynkäänniemi et al., 2019,
arXiv:1904.06991), the Vendi score as a share of the reals' (Friedman and Dieng, 2023, arXiv:2210.02410), and
the agreement of class histograms. Quality, where a blur shows: precision, density and FID. Copying: the
share of fakes as near to the training set as the nearest 1 % of held-out images (after Meehan et al., 2020,
arXiv:2004.05675), and the share that are authentic (Alaa et al., 2022, arXiv:2102.08921).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.alarms.cells import Cells
from diptych.metrics.copying import NEAR
from diptych.metrics.fid import frechet_distance
from diptych.metrics.manifolds import Shares, shares
from diptych.metrics.moments import Moments
from diptych.metrics.neighbours import Nearest, nearest
from diptych.metrics.vendi import vendi_score

MOST = 256  # dimensions of which Vendi scores and Fréchet distances are taken; of more, the first components


@dataclass(frozen=True)
class Statistic:
    """One number of an exam, and what counts as much of it.

    half: below half of what real images reach is a failure. lost: a fall from the best by more than this
    share of it counts (of `near_training`: by so much in absolute terms).
    """

    name: str
    alarm: str
    words: str
    higher_is_better: bool = True
    half: bool = True
    lost: float = 0.1

    @property
    def sign(self) -> float:
        """+1 where more is better, -1 where less is."""
        return 1.0 if self.higher_is_better else -1.0


STATISTICS = (
    Statistic("coverage", "collapse", "coverage", lost=0.05),
    Statistic("recall", "collapse", "recall", lost=0.05),
    Statistic("vendi_ratio", "collapse", "effective modes, as a share of the reals',", lost=0.05),
    Statistic("histogram", "collapse", "agreement of the class histograms", lost=0.05),
    Statistic("precision", "quality", "precision"),
    Statistic("density", "quality", "density"),
    Statistic("fid", "quality", "FID", higher_is_better=False, half=False),
    Statistic("near_training", "copying", "share next to a training image", False, half=False, lost=0.04),
    Statistic("authentic", "copying", "share of authentic samples"),
)
BY_NAME: Mapping[str, Statistic] = {each.name: each for each in STATISTICS}
NEAR_LIMIT = 0.05  # of the fakes next to a training image: five times what is expected, a failure


class Reference:
    """Held-out images and training images in features, and all that every exam is compared with.

    real (N, D); train (T, D), a sample of all training images, or all of them; held_out (H, D): more images
    that nothing was trained on, to know how far such are from training images.
    """

    def __init__(self, real: Tensor, train: Tensor, cells: Cells, held_out: Tensor | None = None) -> None:
        self.real, self.train, self.cells = real, train, cells
        self.basis = principal(real) if real.shape[1] > MOST else None
        self.projected = self.project(real)
        self.moments = Moments.of(self.projected)
        self.mean = self.projected.double().mean(0)
        self.vendi = vendi_score(self.projected.double() - self.mean)
        self.counts = cells.counts(real)
        self.distances, self.authentic = self.to_training(real if held_out is None else held_out)
        # the nearest 1 % of held-out images, as metrics/copying.py has it
        self.near = self.distances.sort().values[max(1, round(NEAR * (len(self.distances) + 1))) - 1]

    def project(self, features: Tensor) -> Tensor:
        """Features (N, D), or their first components where they have many."""
        return features if self.basis is None else features @ self.basis

    def to_training(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The distance to the nearest training image (N,), and whether each is authentic (N,): farther from
        it than that one is from its own nearest."""
        found: Nearest = nearest(features, self.train)
        asked, back = torch.unique(found.number, return_inverse=True)
        own = nearest(self.train[asked], self.train, own=asked).squared[:, 0][back]
        return found.squared[:, 0].sqrt(), found.squared[:, 0] > own

    def of(self, fake: Tensor, manifolds: Shares | None = None) -> dict[str, float]:
        """Every statistic of fakes (M, D); `manifolds` where they were computed before."""
        distance, authentic = self.to_training(fake)
        near, share = float((distance <= self.near).double().mean()), float(authentic.double().mean())
        four = manifolds or shares(self.real, fake)
        return {
            "coverage": four.coverage,
            "recall": four.recall,
            "precision": four.precision,
            "density": four.density,
            "vendi_ratio": self.diversity(fake),
            **self.histogram(fake),
            "fid": self.distance(fake),
            "near_training": near,
            "authentic": share,
        }

    def diversity(self, fake: Tensor) -> float:
        """Effective number of different fakes over that of the reals."""
        return vendi_score(self.project(fake).double() - self.mean) / self.vendi

    def distance(self, fake: Tensor) -> float:
        """FID."""
        return frechet_distance(self.moments, self.project(fake))

    def histogram(self, fake: Tensor) -> dict[str, float]:
        """1 less the Jensen-Shannon divergence, in bits, of the histograms over cells: 1 where equal.

        Its error is that of drawing the fakes, by the delta method: the spread, over them, of the derivative
        with respect to a cell's share.
        """
        p, q = (x.double() / x.sum() for x in (self.counts, self.cells.counts(fake)))
        middle = (p + q) / 2
        bits = [torch.where(x > 0, (x / middle).log2() / 2, 0.0) for x in (p, q)]
        agreement = 1 - float(p @ bits[0] + q @ bits[1])
        variance = float(q @ bits[1].square() - (q @ bits[1]).square())
        return {"histogram": agreement, "histogram_error": math.sqrt(max(0.0, variance) / len(fake))}


def principal(features: Tensor) -> Tensor:
    """The first MOST principal directions (D, K) of features (N, D)."""
    centred = features.double() - features.double().mean(0)
    _, _, vectors = torch.linalg.svd(centred, full_matrices=False)
    directions: Tensor = vectors[:MOST].T.to(features)
    return directions.contiguous()
