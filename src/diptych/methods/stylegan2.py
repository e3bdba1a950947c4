"""StyleGAN2 (Karras et al., 2020, arXiv:1912.04958) with the settings of StyleGAN2-ADA (Karras et al., 2020,
arXiv:2006.06676): non-saturating loss, lazy R1, path length regularisation, style mixing."""

from __future__ import annotations

import math

from diptych.adversarial.augment import augmentation
from diptych.adversarial.gamma import Gamma, remedy_of, usual, weight_of
from diptych.adversarial.named import penalties_of
from diptych.adversarial.penalties import r1
from diptych.adversarial.regularisers import PathLength
from diptych.adversarial.style import StyleModel
from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.methods.adversarial import Adversarial, few, labels_of
from diptych.methods.units import units_of
from diptych.networks.stylegan2 import StyleGAN2Generator
from diptych.networks.stylegan2_critic import StyleGAN2Critic
from diptych.recipe import AutoSize, NotNegative, Recipe, Size, half_life, recipe


@recipe(width=8, largest=16, latent=16, style=16, batch=8)
def stylegan2(
    data: Images,
    *,
    width: AutoSize = 0,
    largest: AutoSize = 0,
    latent: Size = 512,
    style: Size = 512,
    mapping: Size = 2,
    label_gain: NotNegative = 0.1,
    architecture: str = "skip",
    critic: str = "",
    group: int = 4,
    batch: AutoSize = 0,
    gamma: Gamma = -1.0,
    r1_every: int = 16,
    path_length: float = -1.0,
    mixing: float = -1.0,
    clamp: float = 0.0,
    lr: NotNegative = 0.0,
    loss: str = "non-saturating",
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """StyleGAN2: a style for each layer, so that images can be mixed, edited and inverted.

    Parameters
    ----------
    width
        Channels at full resolution, doubled at each halving of the size; 0: 32 up to 16 pixels, 64 up to 512,
        above as many fewer as there are more pixels on a side.
    largest
        Most channels at any size; 0: 256 up to 64 pixels, 512 above.
    latent
        Length of the latent vector.
    style
        Length of the style vector.
    mapping
        Layers from latent to style: 2 as in StyleGAN2-ADA, 8 as in StyleGAN2.
    label_gain
        How loud labels are beside the latent; 1 in the paper, where generators of few steps draw one image
        for each label and forget the latent.
    architecture
        Of the generator: skip, resnet or orig.
    critic
        Architecture of the critic: resnet, skip or orig; none: orig up to 32 pixels, resnet above.
    group
        Images whose standard deviation the critic is shown together.
    batch
        Images a step; 0: 16 up to 32 pixels, 32 above. More keep a GPU busy.
    gamma
        Weight of the R1 penalty; -1: 0.0002 times pixels over batch, but at least 0.1; auto: follows from how
        far apart the critic holds reals and fakes; none: no penalty, to see what it is for.
    r1_every
        R1 is computed at each so many-th step, so many times as heavy.
    path_length
        Weight of the path length regularisation, at each fourth step; below 0: none up to 32 pixels, 2 above.
    mixing
        Share of images with styles of two latents; below 0: none up to 32 pixels, 0.9 above.
    clamp
        Largest activation, for half precision; 0: none. 256 in StyleGAN2-ADA.
    lr
        Learning rate of Adam for both networks, whose layers learn at one rate; 0: 0.01 up to 16 pixels, the
        papers' 0.0025 above.
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
    if not 0 <= clamp < math.inf:
        raise WrongUse(f"clamp is the largest activation, so not {clamp}", "256, or 0 for none")
    if not mixing <= 1:
        raise WrongUse(f"mixing is a share of images, at most 1, not {mixing}", "0.9, say; 0 is none")
    shape, side = data.shape, min(data.shape[1:])
    small = side <= 32  # the paper's CIFAR-10 setting
    batch = batch or few(data)
    width = width or (32 if side <= 16 else max(1, min(64, 2**15 // side)))
    largest = largest or (256 if side <= 64 else 512)
    sizes = {**labels_of(data), "base": width * side, "largest": largest}
    path_length = path_length if path_length >= 0 else (0.0 if small else 2.0)
    mixing = mixing if mixing >= 0 else (0.0 if small else 0.9)
    generator = StyleGAN2Generator(
        shape,
        latent=latent,
        style=style,
        mapping_layers=mapping,
        label_gain=label_gain,
        architecture=architecture,
        mixing=mixing,
        clamp=clamp,
        **sizes,
    )
    if critic in ("", "none"):
        critic = "orig" if small else "resnet"
    judge = StyleGAN2Critic(shape, architecture=critic, group=group, clamp=clamp, **sizes)
    lr = lr or (0.01 if side <= 16 else 0.0025)
    gamma = usual(gamma, max(0.1, 0.0002 * shape[1] * shape[2] / batch))
    lazy = (4 if path_length else 1, r1_every)
    method = Adversarial(
        StyleModel(generator, units=units_of(data)),
        judge,
        loss=loss,
        penalties=[r1(weight_of(gamma), every=r1_every), *penalties_of(penalties)],
        regularisers=[PathLength(path_length, every=4)] if path_length else [],
        lr=(lr * share(lazy[0]), lr * share(lazy[1])),
        betas=((0.0, 0.99 ** share(lazy[0])), (0.0, 0.99 ** share(lazy[1]))),
        augment=augmentation(augment),
        frozen=freeze,
        remedy=remedy_of(gamma),
    )
    return Recipe(method, batch=batch, average=half_life(batch * 312.5))


def share(every: int) -> float:
    """Of an optimizer's steps that are not of its lazy term: with fewer of them, each is to do less.

    Learning rate and decay rates are changed so that the same is learned in so many images (StyleGAN2,
    appendix B).
    """
    return every / (every + 1) if every > 1 else 1.0
