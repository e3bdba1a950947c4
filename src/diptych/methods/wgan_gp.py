"""WGAN (Arjovsky et al., 2017, arXiv:1701.07875) with a gradient penalty (Gulrajani et al., 2017,
arXiv:1704.00028), on the residual networks of the latter."""

from __future__ import annotations

import math
from typing import Any

from diptych.adversarial.augment import augmentation
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.named import penalties_of
from diptych.adversarial.penalties import LipschitzPenalty
from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.method import Clock
from diptych.methods.adversarial import Adversarial, few, labels_of
from diptych.methods.units import counts_of, units_of
from diptych.networks.resgan import ResCritic, ResGenerator
from diptych.recipe import AutoSize, Recipe, Size, recipe


@recipe(width=8, largest=16, latent=16, batch=8, critic_steps=2)
def wgan_gp(
    data: Images,
    *,
    width: AutoSize = 0,
    largest: Size = 256,
    latent: Size = 128,
    batch: AutoSize = 0,
    penalty: float = 10.0,
    clip: float = 0.0,
    layer_norm: bool = False,
    critic_steps: int = 5,
    lr: float = 0.0,
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """A Wasserstein GAN: its critic's loss falls as images get better; slow, as the critic trains more.

    Parameters
    ----------
    width
        Channels at full resolution, doubled at each halving of the size; 0: 32 up to 16 pixels, 64 above.
    largest
        Most channels at any size.
    latent
        Length of the latent vector.
    batch
        Images a step; 0: 64 up to 8 pixels, 16 up to 32, 32 above. More keep a GPU busy.
    penalty
        Weight of the gradient penalty, which holds the critic's slope at 1.
    clip
        Above 0: the critic's weights are kept within this bound in place of the penalty: the WGAN of Arjovsky
        et al., with 0.01 there.
    layer_norm
        Layer norm in the critic, as in the paper's networks for 64 pixels; those for 32 have none.
    critic_steps
        Turns of the critic for each of the generator.
    lr
        Learning rate of Adam for both networks; 0: 0.02 / width, near the papers' 2e-4 for wide networks. It
        falls to nothing in the last ninth of training.
    penalties
        Further terms of the critic's loss, name:weight:every with commas between (r1:0.1:16,lecam): r1, r2,
        r1r2, approximate-r1r2, gradient-penalty, dragan, consistency, lecam, drift.
    augment
        What the critic sees images through: none, ada (adaptive, for a few hundred to a few thousand images;
        ada-bg, ada-bgcfnc and others say which groups), or diffaugment.
    freeze
        So many of the critic's first stages hold still: for training from another run with `--init`.
    """
    if not (0 <= clip < math.inf and 0 <= penalty < math.inf):
        raise WrongUse(
            f"penalty and clip are at least 0 and finite, not {penalty} and {clip}", "--penalty 10, say"
        )
    if not clip and not penalty:
        raise WrongUse("a Wasserstein critic needs a bounded slope", "give --penalty or --clip more than 0")
    width = width or (32 if min(data.shape[1:]) <= 16 else 64)
    sizes: dict[str, Any] = {**labels_of(data), "width": width, "largest": largest}
    method = Adversarial(
        LatentModel(
            ResGenerator(data.shape, latent=latent, **sizes), units=units_of(data), counts=counts_of(data)
        ),
        ResCritic(data.shape, norm="layer" if layer_norm else "none", **sizes),
        loss="wasserstein",
        penalties=[*([] if clip else [LipschitzPenalty(penalty)]), *penalties_of(penalties)],
        clip_weights=clip,
        lr=lr or 0.02 / width,
        betas=(0.0, 0.9),
        lr_scale=late_fall,
        augment=augmentation(augment),
        frozen=freeze,
        remedy="" if clip else "a larger --penalty",
        critic_steps=critic_steps,
    )
    return Recipe(method, batch=batch or few(data, tiny=64))


def late_fall(clock: Clock) -> float:
    """All of the learning rate, and in the last ninth a line to nothing (Miyato and Koyama, 2018,
    arXiv:1802.05637, section 5.1): the line over all of training, WGAN-GP's, loses short ones."""
    return min(1.0, 9 * (1 - clock.progress))
