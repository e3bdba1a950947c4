"""Progressive growing of GANs (Karras et al., 2017, arXiv:1710.10196): both networks begin at 4x4 pixels and
grow, the layers of each new size faded in."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from diptych.adversarial.augment import augmentation
from diptych.adversarial.gamma import Gamma, remedy_of, usual, weight_of
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.named import penalties_of
from diptych.adversarial.penalties import Drift, LipschitzPenalty, Penalty, r1
from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.method import Clock
from diptych.methods.adversarial import Adversarial, labels_of
from diptych.methods.units import units_of
from diptych.networks.pggan import PGCritic, PGGenerator, seen_at
from diptych.networks.shapes import pyramid
from diptych.recipe import AutoSize, NotNegative, Recipe, Size, half_life, recipe
from diptych.saveable import change


@recipe(width=8, largest=16, latent=16, batch=8)
def pggan(
    data: Images,
    *,
    width: AutoSize = 0,
    largest: AutoSize = 0,
    latent: Size = 128,
    label_gain: NotNegative = 0.1,
    batch: Size = 64,
    loss: str = "wasserstein",
    gamma: Gamma = -1.0,
    grown: float = 0.6,
    group: int = 4,
    lr: float = 0.0,
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """Progressive growing: from 4x4 pixels to the full size; the early part of a training is cheap.

    Parameters
    ----------
    width
        Channels at full resolution, doubled at each halving of the size; 0: 32 up to 16 pixels, 64 up to 256,
        above as many fewer as there are more pixels on a side.
    largest
        Most channels at any size; 0: 256 up to 64 pixels, 512 above.
    latent
        Length of the latent vector; 512 in the paper.
    label_gain
        How loud labels are beside the latent; 1 in the paper, where generators of few steps draw one image
        for each label and forget the latent.
    batch
        Images a step; 16 in the paper.
    loss
        wasserstein: with gradient penalty and drift term, as the paper; or, with R1, non-saturating, minimax,
        least-squares, hinge, relativistic or relativistic-average.
    gamma
        Weight of R1 where the loss is not wasserstein; -1: 0.0002 times pixels over batch, but at least 0.01;
        auto: follows from how far apart the critic holds reals and fakes; none: no penalty.
    grown
        The share of training after which the networks have their full size; 0: from the start.
    group
        Images whose standard deviation the critic is shown together.
    lr
        Learning rate of Adam for both networks; 0: the paper's 0.001 for each 16 images of the batch.
    penalties
        Further terms of the critic's loss, name:weight:every with commas between (r1:0.1:16,lecam): r1, r2,
        r1r2, approximate-r1r2, gradient-penalty, dragan, consistency, lecam, drift.
    augment
        What the critic sees images through: none, ada (adaptive, for a few hundred to a few thousand images;
        ada-bg, ada-bgcfnc and others say which groups), or diffaugment.
    freeze
        So many of the critic's first stages hold still: for training from another run with `--init`.
    """
    if not 0 <= grown <= 1:
        raise WrongUse(f"grown is a share of training, between 0 and 1, not {grown}", "0.6, say")
    if loss == "wasserstein" and gamma not in (-1, 0, "none"):
        raise WrongUse("gamma is of R1, which a wasserstein critic has not", "--loss non-saturating has it")
    shape, side = data.shape, min(data.shape[1:])
    gamma = usual(gamma, max(0.01, 0.0002 * shape[1] * shape[2] / batch))
    width = width or (32 if side <= 16 else max(1, min(64, 2**14 // side)))
    largest = largest or (256 if side <= 64 else 512)
    sizes = {**labels_of(data), "base": width * side, "largest": largest}
    doublings = pyramid(shape)[0]

    def reals(image: Tensor, clock: Clock) -> Tensor:
        return seen_at(image, level_at(clock.progress, doublings, grown))

    method = Adversarial(
        LatentModel(PGGenerator(shape, latent=latent, label_gain=label_gain, **sizes), units=units_of(data)),
        PGCritic(shape, group=group, **sizes),
        loss=loss,
        penalties=[*own_penalties(loss, gamma), *penalties_of(penalties)],
        lr=lr or 1e-3 * batch / 16,
        betas=(0.0, 0.99),
        grow=partial(grow, grown=grown),
        reals=reals,
        augment=augmentation(augment),
        frozen=freeze,
        remedy="" if loss == "wasserstein" else remedy_of(gamma),
    )
    return Recipe(method, batch=batch, average=half_life(10_000))


def own_penalties(loss: str, gamma: Gamma) -> list[Penalty]:
    """What keeps the critic's slope in bounds."""
    if loss == "wasserstein":
        return [LipschitzPenalty(10.0), Drift(1e-3)]
    return [r1(weight_of(gamma))]


def level_at(progress: float, doublings: int, grown: float = 0.6) -> float:
    """How far the networks have grown: stages hold still for as long as the next takes to fade in.

    0 for the first 1 / (2 doublings) of the share `grown` of training, `doublings` after it.
    """
    if progress >= grown:
        return float(doublings)
    turn = 2 * doublings * progress / grown
    stage = int(turn / 2)
    return stage + max(0.0, turn - 2 * stage - 1)


def grow(network: nn.Module, clock: Clock, grown: float) -> None:
    """Sets the level of a generator or a critic."""
    doublings: int = network.doublings  # type: ignore[assignment]
    change(network, level=level_at(clock.progress, doublings, grown))
