"""Adversarial losses: what a critic minimises, what a generator minimises, as functions of logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor

from diptych.errors import WrongUse, did_you_mean


class Game(ABC):
    """The two sides of an adversarial loss; each takes the logits (B,) of as many reals as fakes."""

    compares: bool = False  # whether the generator's side looks at reals too
    unbounded: bool = False  # whether the critic's loss has no lower bound: it needs a bounded slope
    boundary: float = 0.0  # the logit of an image as likely real as fake

    @abstractmethod
    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the critic minimises, a scalar."""

    @abstractmethod
    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """What the generator minimises, a scalar. `real` is looked at where `compares` says so."""


class NonSaturating(Game):
    """-log D(G(z)) in place of log(1 - D(G(z))) (Goodfellow et al., 2014, arXiv:1406.2661, section 3)."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """-log D(x) - log(1 - D(G(z)))."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """-log D(G(z))."""
        return F.softplus(-fake).mean()


class Minimax(Game):
    """The zero-sum game of the first GAN (Goodfellow et al., 2014, equation 1); it saturates."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """-log D(x) - log(1 - D(G(z)))."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """log(1 - D(G(z)))."""
        return -F.softplus(fake).mean()


class LeastSquares(Game):
    """Targets 1 for reals, 0 for fakes, 1 for the generator's (Mao et al., 2017, arXiv:1611.04076)."""

    boundary = 0.5

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Half of the squared errors (equation 9)."""
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Half of the squared distance to 1."""
        return (fake - 1).square().mean() / 2


class Hinge(Game):
    """Margins of 1 (Lim and Ye, 2017, arXiv:1705.02894; Miyato et al., 2018, arXiv:1802.05957)."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """max(0, 1 - D(x)) + max(0, 1 + D(G(z)))."""
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """-D(G(z))."""
        return -fake.mean()


class Wasserstein(Game):
    """The distance of means under a critic of bounded slope (Arjovsky et al., 2017, arXiv:1701.07875)."""

    unbounded = True

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """D(G(z)) - D(x)."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """-D(G(z))."""
        return -fake.mean()


class Relativistic(Game):
    """Each real against one fake (Jolicoeur-Martineau, 2018, arXiv:1807.00734; R3GAN, Huang et al., 2025,
    arXiv:2501.05441, equation 2)."""

    compares = True

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Reals above fakes."""
        return relativistic(real, fake)

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Fakes above reals."""
        return relativistic(fake, real)


class RelativisticAverage(Game):
    """Each image against the mean of the other kind (Jolicoeur-Martineau, 2018, equations 13 and 14)."""

    compares = True

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Reals above the mean fake, fakes below the mean real."""
        return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """The critic's loss with the roles exchanged."""
        return self.critic(fake, real)


def relativistic(better: Tensor, worse: Tensor) -> Tensor:
    """Softplus of how far `worse` scores above `better`, pair by pair: (B,) logits each, a scalar."""
    return F.softplus(worse - better).mean()


GAMES: Mapping[str, Game] = MappingProxyType(
    {
        "non-saturating": NonSaturating(),
        "minimax": Minimax(),
        "least-squares": LeastSquares(),
        "hinge": Hinge(),
        "wasserstein": Wasserstein(),
        "relativistic": Relativistic(),
        "relativistic-average": RelativisticAverage(),
    }
)


def game(name: str) -> Game:
    """The adversarial loss of this name. Raises WrongUse with those that there are."""
    if name not in GAMES:
        raise WrongUse(f"there is no adversarial loss called {name}", did_you_mean(name, list(GAMES)))
    return GAMES[name]
