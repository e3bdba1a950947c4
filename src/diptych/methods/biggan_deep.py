"""BigGAN-deep (Brock et al., 2019, arXiv:1809.11096, appendix B)."""

from __future__ import annotations

from diptych.adversarial.augment import augmentation
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.named import penalties_of
from diptych.adversarial.regularisers import Orthogonal
from diptych.data.images import Images
from diptych.methods.adversarial import Adversarial, few, labels_of
from diptych.methods.biggan import check, say_unlabelled
from diptych.methods.units import counts_of, units_of
from diptych.networks.biggan_deep import DeepCritic, DeepGenerator
from diptych.recipe import AutoSize, Recipe, Size, recipe


@recipe(width=8, largest=16, blocks=1, latent=16, shared=8, batch=8)
def biggan_deep(
    data: Images,
    *,
    width: AutoSize = 0,
    largest: Size = 1024,
    blocks: Size = 2,
    latent: Size = 128,
    shared: Size = 128,
    attention: int = 64,
    orthogonal: float = 1e-4,
    batch: AutoSize = 0,
    critic_steps: int = 2,
    lr: float = 0.0,
    critic_lr: float = 0.0,
    loss: str = "hinge",
    penalties: str = "none",
    augment: str = "none",
    freeze: int = 0,
) -> Recipe:
    """BigGAN of four times as many layers in bottleneck blocks: better for fewer weights, slower to run.

    Parameters
    ----------
    width
        Channels at full resolution, doubled at each halving of the size; 0: 64 up to 16 pixels, 128 above.
    largest
        Most channels at any size; inside of a block there are a quarter.
    blocks
        At each size.
    latent
        Length of the latent vector, which every block is told whole.
    shared
        Length of the class embedding.
    attention
        Self-attention where features are at most so many pixels high or wide, and half of the image's; 0:
        none.
    orthogonal
        Weight of the orthogonal regularisation, which makes generators bear truncation.
    batch
        Images a step; 0: 64 up to 8 pixels, 16 up to 32, 32 above. The paper takes 2048, and finds
        that more is better.
    critic_steps
        Turns of the critic for each of the generator.
    lr
        Learning rate of the generator's Adam; 0: 0.0256 / width. The paper takes 5e-5 for batches of 2048.
    critic_lr
        Learning rate of the critic's Adam; 0: 0.0256 / width. The paper takes 2e-4.
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
    check(attention, orthogonal)
    if not (data.classes or data.told):
        say_unlabelled("biggan-deep", data.sha256)
    width = width or (64 if min(data.shape[1:]) <= 16 else 128)
    sizes = {
        **labels_of(data),
        "width": width,
        "largest": largest,
        "blocks": blocks,
        "attention": attention,
    }
    generator = DeepGenerator(data.shape, latent=latent, shared=shared, **sizes)
    method = Adversarial(
        LatentModel(generator, units=units_of(data), counts=counts_of(data)),
        DeepCritic(data.shape, **sizes),
        loss=loss,
        penalties=penalties_of(penalties),
        regularisers=[Orthogonal(orthogonal)] if orthogonal else [],
        lr=(lr or 0.0256 / width, critic_lr or 0.0256 / width),
        betas=(0.0, 0.999),
        critic_steps=critic_steps,
        augment=augmentation(augment),
        frozen=freeze,
    )
    return Recipe(method, batch=batch or few(data, tiny=64))
