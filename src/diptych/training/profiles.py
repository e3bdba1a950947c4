"""What each moment of a training weighs in averaged weights, and how one average is made of others: post-hoc
EMA (EDM2, Karras et al., 2024, arXiv:2312.02696, section 3.2 and appendix C)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from diptych.errors import WrongUse
from diptych.recipe import power_exponent

Float64 = npt.NDArray[np.float64]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
NOTHING = 50.0  # e to minus this much of an integrand counts no longer


class Profile(ABC):
    """A density over [0, images]: what the weights after so many images weigh in an average."""

    images: float  # the moment that the average is of

    @abstractmethod
    def share(self, images: float) -> float:
        """What all moments up to this one weigh together, from 0 to 1."""

    @abstractmethod
    def dot(self, power: Power) -> float:
        """The inner product with a power profile, 1 / images."""

    @property
    @abstractmethod
    def square(self) -> float:
        """The inner product with itself, 1 / images."""


@dataclass(frozen=True)
class Power(Profile):
    """The moment tau weighs as tau^gamma, up to `images` (section 3.1)."""

    gamma: float
    images: float

    @classmethod
    def of(cls, sigma_rel: float, images: float) -> Power:
        """From the deviation as a share of `images`. Raises WrongUse outside of (0, 12^-1/2)."""
        return cls(power_exponent(sigma_rel), images)

    def share(self, images: float) -> float:
        """(tau / t)^(gamma + 1)."""
        return math.pow(min(1.0, images / self.images), self.gamma + 1)

    def dot(self, power: Power) -> float:
        """In closed form."""
        return float(products([self], [power])[0, 0])

    @property
    def square(self) -> float:
        """In closed form."""
        return self.dot(self)


@dataclass(frozen=True)
class HalfLife(Profile):
    """Half of the past is forgotten in so many images, or in the share `ramp` of the images seen so far where
    that is less: `diptych.recipe.half_life` in small steps.

    Without a ramp an average begins with the weights before training; here those weigh nothing.
    """

    half_life: float
    images: float
    ramp: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.half_life < math.inf:
            raise WrongUse(
                f"a half-life is a positive number of images, not {self.half_life}", "500_000 is EDM's"
            )
        if not 0 <= self.ramp <= 0.5:
            raise WrongUse(f"a ramp is a share from 0 (none) to 0.5, not {self.ramp}", "0.05 is EDM's")

    @cached_property
    def corner(self) -> float:
        """Images at which the ramp ends."""
        return min(self.images, self.half_life / self.ramp) if self.ramp else 0.0

    @property
    def rate(self) -> float:
        """What an image makes forgotten, in nats."""
        return math.log(2) / self.half_life

    @property
    def early(self) -> Power:
        """On the ramp the past is forgotten as a power of time, because its rate is ln 2 / (ramp tau)."""
        return Power(math.log(2) / self.ramp - 1, self.corner)

    @property
    def before(self) -> float:
        """What the ramp weighs."""
        return math.exp(-self.rate * (self.images - self.corner)) if self.ramp else 0.0

    @property
    def whole(self) -> float:
        """The exponential's integral, by which it is divided where there is no ramp."""
        return 1.0 if self.ramp else -math.expm1(-self.rate * self.images)

    def share(self, images: float) -> float:
        """A power up to the corner, an exponential after it."""
        if images <= self.corner:
            return self.before * self.early.share(images) if self.ramp else 0.0
        kept = math.exp(-self.rate * (self.images - min(images, self.images)))
        return (kept - (1 - self.whole)) / self.whole

    def dot(self, power: Power) -> float:
        """In closed form on the ramp, by quadrature after it."""
        ramp = self.before * self.early.dot(power) if self.ramp else 0.0
        return ramp + self._late(power)

    @property
    def square(self) -> float:
        """In closed form."""
        ramp = self.before**2 * self.early.square if self.ramp else 0.0
        late = -math.expm1(-2 * self.rate * (self.images - self.corner)) * self.rate / 2
        return ramp + late / self.whole**2

    def _late(self, power: Power) -> float:
        """By Gauss and Legendre's rule on pieces over which the product changes by about e, from the top."""
        high = top = min(self.images, power.images)
        total, rate, gamma = 0.0, self.rate, power.gamma

        def log_product(tau: Float64 | float) -> Float64:
            return rate * (tau - self.images) + gamma * np.log(np.asarray(tau) / power.images)

        least = float(log_product(top)) - NOTHING
        while high > self.corner and log_product(high) > least:
            low = max(self.corner, high - 1 / (rate + (gamma + 1) / high))
            tau = low + (high - low) * (NODES + 1) / 2
            total += float(WEIGHTS @ np.exp(log_product(tau))) * (high - low) / 2
            high = low
        return total * rate / self.whole * (gamma + 1) / power.images


def products(rows: Sequence[Power], columns: Sequence[Power]) -> Float64:
    """Inner products of power profiles, (rows, columns), 1 / images.

    Over tau up to the earlier of both moments, tau^(gamma_a + gamma_b) is integrated; logarithms keep large
    exponents finite.
    """
    a, ta = (np.array([getattr(p, name) for p in rows])[:, None] for name in ("gamma", "images"))
    b, tb = (np.array([getattr(p, name) for p in columns])[None, :] for name in ("gamma", "images"))
    t = np.minimum(ta, tb)
    parts = (a + 1) * np.log(t / ta) + (b + 1) * np.log(t / tb)
    found: Float64 = (a + 1) * (b + 1) / (a + b + 1) * np.exp(parts) / t
    return found


@dataclass(frozen=True)
class Mixture:
    """What stored averages weigh in a wanted one."""

    weights: tuple[float, ...]  # of each stored profile; together 1
    residual: float  # norm of the wanted profile's difference from what is made, as a share of its own norm


def mixture(wanted: Profile, stored: Sequence[Power]) -> Mixture:
    """The least squares of profiles: a system in their inner products, solved in float64 (appendix C).

    The weights add up to 1, which the paper does not ask for: what all averages have in common then stays.
    """
    if wanted in stored:
        return Mixture(tuple(float(profile == wanted) for profile in stored), 0.0)
    unit = max(profile.images for profile in stored)
    gram = products(stored, stored) * unit
    along = np.array([wanted.dot(profile) for profile in stored]) * unit
    square = wanted.square * unit
    ones = np.ones((len(stored), 1))
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])  # with a Lagrange multiplier
    solved = np.linalg.lstsq(system, np.append(along, 1.0), rcond=None)[0][:-1]
    left = float(solved @ gram @ solved - 2 * solved @ along + square)
    return Mixture(tuple(solved.tolist()), math.sqrt(max(0.0, left) / square))
