"""DCGAN (Radford et al., 2015, arXiv:1511.06434): the convolutional GAN that later ones are measured by."""

from __future__ import annotations

from diptych.adversarial.augment import augmentation
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.losses import game
from diptych.adversarial.named import penalties_of
from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.methods.adversarial import Adversarial, few, labels_of
from diptych.methods.units import counts_of, units_of
from diptych.networks.dcgan import DCCritic, DCGenerator
from diptych.recipe import AutoSize, Recipe, Size, recipe


@recipe(width=8, largest=16, latent=16, batch=8)
def dcgan(
    data: Images,
    *,
    width: AutoSize = 0,
    largest: Size = 512,
    latent: Size = 100,
    batch: AutoSize = 0,
    lr: float = 2e-4,
    loss: str = "non-saturating",
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """The classical convolutional GAN: small and quick, a baseline; it covers less than later ones.

    Parameters
    ----------
    width
        Channels at half of the full size, doubled at each halving; 0: 64 up to 32 pixels, 128 above.
    largest
        Most channels at any size; the paper's largest network has 1024.
    latent
        Length of the latent vector.
    batch
        Images a step; 0: 64 up to 8 pixels, 16 up to 32, 32 above. More keep a GPU busy.
    lr
        Learning rate of Adam for both networks, with a first moment of 0.5.
    loss
        non-saturating as in the paper, minimax, least-squares, hinge, wasserstein, relativistic or
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
    terms = penalties_of(penalties)
    if game(loss).unbounded and not terms:
        raise WrongUse("a Wasserstein critic needs a bounded slope", "--penalties gradient-penalty")
    width = width or (64 if min(data.shape[1:]) <= 32 else 128)
    sizes = {**labels_of(data), "width": width, "largest": largest}
    method = Adversarial(
        LatentModel(
            DCGenerator(data.shape, latent=latent, **sizes), units=units_of(data), counts=counts_of(data)
        ),
        DCCritic(data.shape, **sizes),
        loss=loss,
        penalties=terms,
        lr=lr,
        betas=(0.5, 0.999),
        augment=augmentation(augment),
        frozen=freeze,
    )
    return Recipe(method, batch=batch or few(data, tiny=64))
