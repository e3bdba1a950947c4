"""How far real images, in the fakes' place, are from held-out ones: what each alarm calls beyond chance.

Sets of n training images play the fakes of an exam, against the very held-out images that every exam has.
For copying, training images would be their own copies: there, draws of the held-out images by the Bayesian
bootstrap (Rubin, 1981) play them, which has the variance of both sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any, Self

import torch
from torch import Tensor

from diptych.alarms.draws import Pool
from diptych.alarms.statistics import BY_NAME, STATISTICS, Reference

LEVEL = 0.05  # the share of exams of real images at which an alarm may ring
DRAWS, FEWER, MANY = 400, 200, 512  # fewer for exams of many images; pairs of disjoint draws tell differences
SEED = 0xA1A2
SHARES = ("coverage", "recall", "precision", "near_training", "authentic")  # of images


@dataclass(frozen=True)
class Usual:
    """A statistic of real images in the fakes' place."""

    mean: float
    spread: float  # standard deviation of one exam
    change: float  # of the difference of two exams against the same held-out images


@dataclass(frozen=True)
class Calibration:
    """What is usual, for exams of n images; JSON keeps it.

    limits: by alarm, what the largest deviation of its statistics, in spreads, exceeds in a share `level` of
    exams of real images. falls: the same for what two exams differ by.
    """

    n: int
    level: float
    draws: int
    usual: Mapping[str, Usual] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    falls: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**tree, "usual": {name: Usual(**each) for name, each in tree["usual"].items()}})

    def deviation(self, name: str, value: float) -> float:
        """How many spreads worse than real images are (negative: better)."""
        usual = self.usual[name]
        return BY_NAME[name].sign * (usual.mean - value) / usual.spread

    def looser(self, name: str, exam: Mapping[str, float]) -> float:
        """How much more this exam's value spreads than one of real images, at least 1.

        Shares spread as binomial ones do, the largest at one half; FID as its root; histograms by what their
        error has above that of real ones.
        """
        value, usual = exam[name], max(self.usual[name].mean, 1e-6)
        if name == "fid":
            return max(1.0, math.sqrt(value / usual))
        if (error := f"{name}_error") in self.usual:
            more = max(0.0, exam.get(error, 0.0) ** 2 - self.usual[error].mean ** 2)
            return math.sqrt(1 + more / self.usual[name].spread ** 2)
        if name not in SHARES or not 0 < value < 1 or usual >= 1:
            return 1.0
        usual = min(usual, 1 - 1 / (2 * self.n))
        return max(1.0, math.sqrt(value * (1 - value) / (usual * (1 - usual))))

    def fall(self, name: str, before: Mapping[str, float], now: Mapping[str, float]) -> float:
        """How much worse than an earlier exam, in spreads of a difference of such exams."""
        spread = self.usual[name].change * max(self.looser(name, exam) for exam in (before, now))
        return BY_NAME[name].sign * (before[name] - now[name]) / spread

    def fall_limit(self, alarm: str, earlier: int) -> float:
        """Of a fall from the best of so many earlier exams.

        The best of several lies high by chance: each has its part of `level` (Bonferroni).
        """
        normal = NormalDist()
        stretch = normal.inv_cdf(1 - self.level / max(1, earlier)) / normal.inv_cdf(1 - self.level)
        return self.falls[alarm] * stretch


def usual_draws(n: int) -> int:
    """How many real-against-real exams of n images are looked at."""
    return DRAWS if n <= MANY else FEWER


def calibrate(
    reference: Reference, level: float = LEVEL, draws: int = 0, *, pool: Pool | None = None
) -> Calibration:
    """From real-against-real exams (0: the usual number) of as many images as the reference has held out."""
    generator = torch.Generator().manual_seed(SEED)
    n = len(reference.real)
    draws, pool = draws or usual_draws(n), pool or Pool(reference, n)
    pairs = [pool.pair(generator) for _ in range(draws // 2)]
    values = {
        name: torch.tensor([[one[name], two[name]] for one, two in pairs], dtype=torch.float64)
        for name in pairs[0][0]
    }
    copies = copying(reference, n, draws // 2, generator)
    usual = {name: usual_of(name, both, pool.stretch, n) for name, both in values.items()}
    usual |= {name: usual_of(name, both, 1.0, n) for name, both in copies.items()}
    values |= copies
    limits, falls = {}, {}
    for alarm in dict.fromkeys(each.alarm for each in STATISTICS):
        names = [each.name for each in STATISTICS if each.alarm == alarm and each.name in values]
        stretch = 1.0 if alarm == "copying" else pool.stretch
        limits[alarm] = largest(names, values, usual, stretch, level)
        falls[alarm] = largest_fall(names, values, usual, level)
    return Calibration(n, level, draws, usual, limits, falls)


def usual_of(name: str, both: Tensor, stretch: float, n: int) -> Usual:
    """Mean and spreads of pairs (S, 2). A spread is at least a third of an image, or of the value 1e-3."""
    mean = float(both.mean())
    least = 1 / (3 * n) if name != "fid" else 1e-3 * abs(mean) + 1e-12
    change = float((both[:, 0] - both[:, 1]).square().mean().sqrt())
    return Usual(mean, max(least, stretch * float(both.std())), max(least, change))


def largest(
    names: list[str], values: Mapping[str, Tensor], usual: Mapping[str, Usual], stretch: float, level: float
) -> float:
    """The `level` quantile of the largest deviation among these statistics, over draws."""
    worst = torch.stack(
        [
            BY_NAME[name].sign * (usual[name].mean - values[name].flatten()) / (usual[name].spread / stretch)
            for name in names
        ]
    )
    return upper(worst.amax(0), level)


def largest_fall(
    names: list[str], values: Mapping[str, Tensor], usual: Mapping[str, Usual], level: float
) -> float:
    """The same of differences, in both directions: either could have come first."""
    apart = torch.stack([(values[name][:, 0] - values[name][:, 1]) / usual[name].change for name in names])
    return upper(torch.cat([apart, -apart], 1).amax(0), level)


def upper(values: Tensor, level: float) -> float:
    """What a new value of the same kind exceeds with a probability of at most `level`, from values (S,)."""
    ordered = values.sort().values
    place = math.ceil((1 - level) * (len(ordered) + 1)) - 1
    return max(float(ordered[min(place, len(ordered) - 1)]), 1e-6)


def copying(reference: Reference, n: int, pairs: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Pairs (S, 2) of the statistics of copying, of draws from a population known by H held-out images."""
    near = (reference.distances <= reference.near).cpu().double()
    authentic = reference.authentic.cpu().double()
    exponential = torch.rand(pairs, len(near), generator=generator, dtype=torch.float64).clamp_min(1e-300)
    weights = -exponential.log()  # normalised: Dirichlet(1, ..., 1)
    rows = torch.multinomial(weights, 2 * n, replacement=True, generator=generator).view(pairs, 2, n)
    return {"near_training": near[rows].mean(2), "authentic": authentic[rows].mean(2)}
