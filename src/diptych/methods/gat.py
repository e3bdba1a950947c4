"""GAT: transformers as generator and critic, supervised at several depths, under a relativistic loss with R1
and R2 (Hyun et al., 2025, arXiv:2509.24935).

Positions are added once, where the authors' code rotates queries and keys too; labels reach the critic
through one layer, where theirs has two.
"""

from __future__ import annotations

import math

from diptych.adversarial.augment import augmentation
from diptych.adversarial.gamma import Gamma, remedy_of, weight_of
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.named import penalties_of
from diptych.adversarial.penalties import r1_r2
from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.methods.adversarial import Adversarial, labels_of
from diptych.methods.r3gan import lr_scale
from diptych.methods.units import units_of
from diptych.networks.gat import GATCritic, GATGenerator
from diptych.recipe import AutoSize, Count, NotNegative, Recipe, Size, recipe


@recipe(width=16, depth=2, levels=2, batch=8)
def gat(
    data: Images,
    *,
    width: AutoSize = 0,
    depth: AutoSize = 0,
    patch: AutoSize = 0,
    levels: Count = 0,
    latent: Size = 64,
    label_gain: NotNegative = 1.0,
    batch: Size = 64,
    gamma: Gamma = 1.0,
    lr: float = 0.0,
    loss: str = "relativistic",
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """A GAN of transformers: no convolution, grows by width and depth alone; wants many images and long runs.

    Parameters
    ----------
    width
        Channels of a token, a multiple of 64, or less and a multiple of 8; 0: 64 up to 16 pixels, 192 above.
    depth
        Blocks of each network; 0: 4 up to 16 pixels, 8 above.
    patch
        Pixels on a side of a token; 0: so that there are 8 tokens on a side up to 32 pixels, 16 above.
    levels
        Depths at which the generator's image is judged, coarse to fine through less and less noise; 1: its
        end alone; 0: 4, but at most the depth.
    latent
        Length of the latent vector.
    label_gain
        How loud labels are beside the latent; less where a generator draws one image for each label.
    batch
        Images a step.
    gamma
        Weight of the R1 and R2 penalties; 0.1 in the paper, on latents. auto: follows from how far apart the
        critic holds reals and fakes.
    lr
        Peak learning rate of Adam for both networks; 0: 0.154 / width, but at most 0.001.
    loss
        relativistic as in the paper, non-saturating, minimax, least-squares, hinge, wasserstein or
        relativistic-average.
    penalties
        Further terms of the critic's loss, name:weight:every with commas between (r1:0.1:16,lecam): r1, r2,
        r1r2, approximate-r1r2, gradient-penalty, dragan, consistency, lecam, drift.
    augment
        What the critic sees images through, all levels of one alike: none, ada (adaptive, for a few hundred
        to a few thousand images; ada-bg, ada-bgcfnc and others say which groups), or diffaugment.
    freeze
        So many of the critic's first stages hold still: for training from another run with `--init`.
    """
    shape = data.shape
    shortest = min(shape[1:])
    width, depth = width or (64 if shortest <= 16 else 192), depth or (4 if shortest <= 16 else 8)
    if patch > shortest:
        raise WrongUse(
            f"patch is at most the image's shorter side, {shortest}, not {patch}", "0: by the size of images"
        )
    patch = patch or max(1, 2 ** round(math.log2(shortest / (8 if shortest <= 32 else 16))))
    levels = levels or min(4, depth)
    if levels > depth:
        raise WrongUse(f"levels must lie in 1..{depth}, the depth, not at {levels}", "0: at most the depth")
    if width % 64 and (width > 64 or width % 8):
        raise WrongUse(f"width is a multiple of 64, or less and a multiple of 8, not {width}", "64, say")
    sizes = {**labels_of(data), "width": width, "depth": depth, "patch": patch, "levels": levels}
    method = Adversarial(
        LatentModel(GATGenerator(shape, latent=latent, label_gain=label_gain, **sizes), units=units_of(data)),
        GATCritic(shape, **sizes),
        loss=loss,
        penalties=[r1_r2(weight_of(gamma)), *penalties_of(penalties, channels=shape[0])],
        lr=lr or min(1e-3, 0.154 / width),  # 2e-4 at the paper's 768 (section 3.3)
        lr_scale=lr_scale,
        clip=1.0,  # as the authors' code
        augment=augmentation(augment, channels=shape[0]),
        frozen=freeze,
        remedy=remedy_of(gamma),
    )
    return Recipe(method, batch=batch)
