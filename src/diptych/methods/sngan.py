"""SNGAN (Miyato et al., 2018, arXiv:1802.05957) with a projection critic (Miyato and Koyama, 2018,
arXiv:1802.05637)."""

from __future__ import annotations

from typing import Any

from diptych.adversarial.augment import augmentation
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.named import penalties_of
from diptych.data.images import Images
from diptych.methods.adversarial import Adversarial, few, labels_of
from diptych.methods.units import counts_of, units_of
from diptych.methods.wgan_gp import late_fall
from diptych.networks.resgan import ResCritic, ResGenerator
from diptych.recipe import AutoSize, Recipe, Size, recipe


@recipe(width=8, largest=16, latent=16, batch=8)
def sngan(
    data: Images,
    *,
    width: AutoSize = 0,
    largest: Size = 256,
    latent: Size = 128,
    batch: AutoSize = 0,
    critic_steps: int = 2,
    lr: float = 0.0,
    loss: str = "hinge",
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """A residual GAN whose critic is spectrally normalised: stable without penalties, strong with labels.

    Parameters
    ----------
    width
        Channels at full resolution, doubled at each halving of the size; 0: 32 up to 16 pixels, 64 above.
    largest
        Most channels at any size; 1024 in the paper's networks for 128 pixels.
    latent
        Length of the latent vector.
    batch
        Images a step; 0: 64 up to 8 pixels, 16 up to 32, 32 above. More keep a GPU busy.
    critic_steps
        Turns of the critic for each of the generator; 5 in the paper, for trainings of some 100,000 steps.
    lr
        Learning rate of Adam for both networks; 0: 0.02 / width, near the papers' 2e-4 for wide networks. It
        falls to nothing in the last ninth of training.
    loss
        hinge as in the paper, non-saturating, minimax, least-squares, wasserstein, relativistic or
        relativistic-average.
    penalties
        Further terms of the critic's loss, name:weight:every with commas between (r1:0.1:16,lecam): r1, r2,
        r1r2, approximate-r1r2, gradient-penalty, dragan, consistency, lecam, drift.
    augment
        What the critic sees images through: none, ada (adaptive, for a few hundred to a few thousand images;
        ada-bg, ada-bgcfnc and others say which groups), or diffaugment.
    freeze
        So many of the critic's first stages hold still: for training from another run with `--init`.
    """
    width = width or (32 if min(data.shape[1:]) <= 16 else 64)
    sizes: dict[str, Any] = {**labels_of(data), "width": width, "largest": largest}
    method = Adversarial(
        LatentModel(
            ResGenerator(data.shape, latent=latent, **sizes), units=units_of(data), counts=counts_of(data)
        ),
        ResCritic(data.shape, normalised=True, **sizes),
        loss=loss,
        penalties=penalties_of(penalties),
        lr=lr or 0.02 / width,
        betas=(0.0, 0.9),
        lr_scale=late_fall,
        critic_steps=critic_steps,
        augment=augmentation(augment),
        frozen=freeze,
    )
    return Recipe(method, batch=batch or few(data, tiny=64))
