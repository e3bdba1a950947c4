"""EDM: weighted denoising over log-normal noise levels (Karras et al., 2022, arXiv:2206.00364)."""

from __future__ import annotations

from typing import Any

from torch import nn

from diptych.data.images import Images
from diptych.diffusion.denoiser import EDMDenoiser
from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.objective import lognormal, uniform
from diptych.errors import WrongUse, did_you_mean
from diptych.methods.augmented import TOLD, NonLeaking
from diptych.methods.denoising import Denoising, by_size, in_units, multipliers_of, unet_for
from diptych.networks.ncsnpp import DDPMPP, NCSNPP, NCSNpp
from diptych.recipe import AutoSize, Positive, Recipe, Share, Size, recipe

SONG: dict[str, dict[str, Any]] = {"ddpmpp": DDPMPP, "ncsnpp": NCSNPP}


@recipe(width=8, blocks=1, batch=8)
def edm(
    data: Images,
    *,
    network: str = "unet",
    width: AutoSize = 0,
    blocks: AutoSize = 0,
    batch: Size = 32,
    lr: float = 0.0,
    dropout: Share = 0.0,
    checkpointing: bool = False,
    label_dropout: float = 0.1,
    augment: float = 0.0,
    sigma_data: Positive = 0.5,
    P_mean: float = -1.2,
    P_std: Positive = 1.2,
    steps: Size = 18,
) -> Recipe:
    """Diffusion, EDM's way: the safe choice for quality and diversity; sampling takes several network calls.

    Parameters
    ----------
    network
        unet, or one of the paper's: ddpmpp (DDPM++) or ncsnpp (NCSN++, which sees the image at every size).
    width
        Channels at full resolution; 0: 32 for images of up to 16 pixels, 64 above.
    blocks
        Residual blocks a level; 0: one for images of up to 16 pixels, two above.
    batch
        Images a step; more of them pay once there are some ten thousand steps, and fill a GPU.
    lr
        Peak learning rate of AdamW, warmed up, then lowered to 0 along a cosine; 0: 0.064 / width.
    dropout
        Inside residual blocks; 0.1 to 0.2 helps where images are few.
    checkpointing
        Compute activations again in the backward pass: a third slower, a fraction of the memory.
    label_dropout
        Share of images trained without their label, for classifier-free guidance.
    augment
        Probability of each augmentation, of which the network is told so that samples do not show them; 0:
        none. 0.12 to 0.15 helps where images are few.
    sigma_data
        Standard deviation of the data in [-1, 1].
    P_mean
        Mean of log sigma in training, log-normal; -0.4 looks at higher noise levels.
    P_std
        Deviation of log sigma in training, log-normal.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    told = TOLD if augment else 0
    seeing = network_for(
        data,
        network,
        width=width,
        blocks=blocks,
        dropout=dropout,
        checkpointing=checkpointing,
        augments=told,
    )
    method = Denoising(
        EDMDenoiser(seeing, sigma_data),
        levels=lognormal(P_mean, P_std),
        weight=uniform,  # of the network's own error: EDM's lambda(sigma) is 1 / c_out^2
        lr=lr,
        label_dropout=label_dropout,
        augment=NonLeaking(augment) if augment else None,
        options=DiffusionOptions(steps=steps),
    )
    return Recipe(method, batch=batch)


def network_for(data: Images, name: str, *, width: int, **settings: Any) -> nn.Module:
    """The U-Net, or one of SONG of the same width and depth; settings are those of `unet_for`.

    Raises WrongUse for another name.
    """
    if name == "unet":
        return unet_for(data, width=width, **settings)
    if name not in SONG:
        raise WrongUse(f"there is no network called {name}", did_you_mean(name, ["unet", *SONG]))
    told: dict[str, Any] = {"classes": data.classes, "attributes": data.told}
    network = NCSNpp(
        data.shape, width=width, multipliers=multipliers_of(data), **told, **settings, **SONG[name]
    )
    return in_units(network, data)
