"""R3GAN: a relativistic pairing loss with R1 and R2 penalties on a modern residual network
(Huang et al., 2025, arXiv:2501.05441)."""

from __future__ import annotations

from diptych.adversarial.augment import augmentation
from diptych.adversarial.gamma import Gamma, remedy_of, usual, weight_of
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.named import penalties_of
from diptych.adversarial.penalties import r1_r2
from diptych.data.images import Images
from diptych.method import Clock, warmup_cosine
from diptych.methods.adversarial import Adversarial, few, labels_of
from diptych.methods.units import units_of
from diptych.networks.r3gan import R3Critic, R3Generator
from diptych.recipe import AutoSize, Recipe, Size, recipe


@recipe(width=8, largest=16, blocks=1, batch=8)
def r3gan(
    data: Images,
    *,
    width: AutoSize = 0,
    largest: Size = 256,
    blocks: AutoSize = 0,
    group: Size = 16,
    latent: Size = 64,
    batch: AutoSize = 0,
    gamma: Gamma = -1.0,
    lr: float = 0.0,
    loss: str = "relativistic",
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """A modern GAN: one network call an image, the fastest to sample; watch coverage.

    Parameters
    ----------
    width
        Channels at full resolution, doubled at each halving of the size; 0: 32 up to 16 pixels, 64 above.
    largest
        Most channels at any size.
    blocks
        Residual blocks at each size; 0: one for images of up to 16 pixels, two above.
    group
        Channels of each group in the 3x3 convolutions.
    latent
        Length of the latent vector.
    batch
        Images a step; 0: 32 up to 8 pixels, 16 up to 32, 32 above. More keep a GPU busy.
    gamma
        Weight of the R1 and R2 penalties at the start; it falls to a tenth. More is stabler and blurrier. -1:
        1 up to 64 pixels, more above, as slopes get smaller: 12 at 128, 150 at 256; auto: follows from how
        far apart the critic holds reals and fakes; none: no penalty.
    lr
        Peak learning rate of Adam for both networks; 0: 0.032 / width.
    loss
        relativistic as in the paper, non-saturating, minimax, least-squares, hinge, wasserstein or
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
    shape, tiny = data.shape, min(data.shape[1:]) <= 16
    width, blocks = width or (32 if tiny else 64), blocks or (1 if tiny else 2)
    sizes = {**labels_of(data), "width": width, "largest": largest, "blocks": blocks, "group": group}
    gamma = usual(gamma, max(1.0, (shape[1] * shape[2] / 64**2) ** 1.8))  # the authors' 1 at 64, 150 at 256
    generator, critic = R3Generator(shape, latent=latent, **sizes), R3Critic(shape, **sizes)
    method = Adversarial(
        LatentModel(generator, units=units_of(data)),
        critic,
        loss=loss,
        penalties=[r1_r2(weight_of(gamma, falling)), *penalties_of(penalties)],
        lr=lr or 0.032 / width,
        lr_scale=lr_scale,
        augment=augmentation(augment),
        frozen=freeze,
        remedy=remedy_of(gamma),
    )
    return Recipe(method, batch=batch or few(data, tiny=32))


def falling(gamma: float, clock: Clock) -> float:
    """The penalties' weight falls to a tenth over training (appendix D): geometrically, where the authors'
    code has a cosine, which lies above."""
    return float(gamma * 0.1**clock.progress)


def lr_scale(clock: Clock) -> float:
    """Warm-up, then a cosine to a quarter, as in the paper's 2e-4 to 5e-5."""
    return warmup_cosine(clock, final=0.25)
