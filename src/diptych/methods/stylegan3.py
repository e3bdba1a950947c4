"""StyleGAN3 (Karras et al., 2021, arXiv:2106.12423): an alias-free generator against StyleGAN2's critic, with
lazy R1; neither path length regularisation nor style mixing."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import nn

from diptych.adversarial.augment import augmentation
from diptych.adversarial.blur import fading
from diptych.adversarial.gamma import Gamma, remedy_of, usual, weight_of
from diptych.adversarial.named import penalties_of
from diptych.adversarial.penalties import r1
from diptych.adversarial.style import StyleModel
from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.method import Clock
from diptych.methods.adversarial import Adversarial, few, labels_of
from diptych.methods.stylegan2 import share
from diptych.methods.units import units_of
from diptych.networks.stylegan2_critic import StyleGAN2Critic
from diptych.networks.stylegan3 import AliasFreeLayer, StyleGAN3Generator
from diptych.recipe import AutoSize, NotNegative, Recipe, Size, Within, half_life, recipe

Config = Literal["t", "r"]
WholeShare = Annotated[float, Within(lambda value: 0 <= value <= 1, "a share between 0 and 1")]


@recipe(width=8, largest=16, latent=16, style=16, layers=4, margin=4, batch=8)
def stylegan3(
    data: Images,
    *,
    config: Config = "t",
    width: AutoSize = 0,
    largest: AutoSize = 0,
    layers: int = 0,
    margin: int = -1,
    latent: Size = 512,
    style: Size = 512,
    mapping: Size = 2,
    label_gain: NotNegative = 0.1,
    group: int = 4,
    batch: AutoSize = 0,
    gamma: Gamma = -1.0,
    r1_every: int = 16,
    blur: float = -1.0,
    blur_share: WholeShare = 0.02,
    lr: NotNegative = 0.0,
    critic_lr: NotNegative = 0.0,
    loss: str = "non-saturating",
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """StyleGAN3: details move with what they belong to, not with the pixels; for video and animation.

    Parameters
    ----------
    config
        t: equivariant to translation; r: to rotation as well, with 1x1 convolutions of twice the channels.
    width
        Channels of the generator at full resolution, and of the critic; 0: 64 up to 512 pixels, above as many
        fewer as there are more pixels on a side.
    largest
        Most channels at any size; 0: twice the side of the image, 64 to 512.
    layers
        Of the generator; 0: 14 from 256 pixels on, two fewer for each halving of the size.
    margin
        Pixels around the image that layers compute as well, at each sampling rate; below 0: 10, but at most
        half the image's side.
    latent
        Length of the latent vector.
    style
        Length of the style vector.
    mapping
        Layers from latent to style.
    label_gain
        How loud labels are beside the latent; 1 in the paper, where generators of few steps draw one image
        for each label and forget the latent.
    group
        Images whose standard deviation the critic is shown together.
    batch
        Images a step; 0: 16 up to 32 pixels, 32 above. More keep a GPU busy.
    gamma
        Weight of the R1 penalty; -1: 0.001 times pixels over batch, but at least 0.05; auto: follows from how
        far apart the critic holds reals and fakes; none: no penalty, to see what it is for.
    r1_every
        R1 is computed at each so many-th step, so many times as heavy.
    blur
        The critic sees images blurred by a Gaussian of so many pixels at first; below 0: none for t, for r
        10 pixels of 256.
    blur_share
        The share of training after which the blur is gone; 0: there is none.
    lr
        Learning rate of Adam for the generator; 0: 0.01 up to 16 pixels, the paper's 0.0025 above.
    critic_lr
        Learning rate of Adam for the critic; 0: 0.8 of the generator's, as in the paper.
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
    shape, side, turns = data.shape, max(data.shape[1:]), config == "r"
    if not blur <= side:
        raise WrongUse(
            f"blur is at most the image's side, {side} pixels, not {blur}", "below 0: by the configuration"
        )
    if margin > side:
        raise WrongUse(
            f"margin is at most the image's side, {side} pixels, not {margin}", "below 0: by the size"
        )
    batch, lr = batch or few(data), lr or (0.01 if side <= 16 else 0.0025)
    gamma = usual(gamma, max(0.05, 0.001 * shape[1] * shape[2] / batch))
    width = width or max(1, min(64, 2**15 // side))
    base, largest = width * side, largest or min(512, max(64, 2 * side))
    critic_base = width * min(shape[1:])  # its channels go by the shorter side
    generator = StyleGAN3Generator(
        shape,
        **labels_of(data),
        latent=latent,
        style=style,
        mapping_layers=mapping,
        label_gain=label_gain,
        layers=layers,
        base=base * (1 + turns),
        largest=largest * (1 + turns),
        kernel=1 if turns else 3,
        radial=turns,
        margin=margin if margin >= 0 else min(10, side // 2),
    )
    critic = StyleGAN2Critic(
        shape, **labels_of(data), architecture="resnet", base=critic_base, largest=largest, group=group
    )
    sigma = blur if blur >= 0 else 10 * side / 256 * turns
    method = Adversarial(
        StyleModel(generator, units=units_of(data)),
        critic,
        loss=loss,
        penalties=[r1(weight_of(gamma), every=r1_every), *penalties_of(penalties)],
        lr=(lr, (critic_lr or 0.8 * lr) * share(r1_every)),
        betas=((0.0, 0.99), (0.0, 0.99 ** share(r1_every))),
        augment=augmentation(augment),
        frozen=freeze,
        remedy=remedy_of(gamma),
        grow=grow,
        blur=fading(sigma, blur_share) if sigma and blur_share > 0 else None,
    )
    return Recipe(method, batch=batch, average=half_life(batch * 312.5))


def grow(network: nn.Module, clock: Clock) -> None:
    """Tells the generator's layers how many images all shards of a step have."""
    for layer in network.modules():
        if isinstance(layer, AliasFreeLayer):
            layer.batch = clock.batch
