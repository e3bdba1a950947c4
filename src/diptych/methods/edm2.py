"""EDM2: EDM with a network, a loss and a learning rate that stay in balance throughout training
(Karras et al., 2024, arXiv:2312.02696)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from diptych.data.images import Images
from diptych.diffusion.denoiser import EDMDenoiser
from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.objective import Uncertainty, lognormal, uniform
from diptych.method import Clock, adam
from diptych.methods.denoising import Denoising, in_units
from diptych.networks.edm2 import EDM2UNet
from diptych.networks.magnitude import force_magnitudes
from diptych.recipe import AutoSize, Positive, Recipe, Share, Size, power, recipe


def inverse_sqrt(clock: Clock, warmup: float, decay: float) -> float:
    """Rises over the first `warmup` of training, then 1, and from `decay` on falls as 1 / sqrt(images)."""
    progress = max(clock.progress, 1e-9)
    rising = min(1.0, (progress + 1e-3) / (warmup + 1e-3))
    return rising / math.sqrt(max(1.0, progress / decay)) if decay > 0 else rising


def adam_on_the_sphere(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam that keeps weights at unit magnitude, so that the learning rate is the angle of a step (EDM2,
    section 2.3)."""
    optimizer = adam(module, lr, betas=(0.9, 0.99))
    optimizer.register_step_post_hook(lambda *_: force_magnitudes(module))
    return optimizer


@recipe(width=8, blocks=1, batch=8)
def edm2(
    data: Images,
    *,
    width: AutoSize = 0,
    blocks: AutoSize = 0,
    batch: Size = 64,
    lr: float = 0.0,
    decay: float = 0.07,
    dropout: Share = 0.0,
    checkpointing: bool = False,
    label_dropout: float = 0.1,
    sigma_data: Positive = 0.5,
    P_mean: float = -0.8,
    P_std: Positive = 1.6,
    sigma_rel: float = 0.1,
    steps: Size = 18,
) -> Recipe:
    """EDM2: EDM whose network, loss and learning rate keep their scale throughout training.

    Parameters
    ----------
    width
        Channels at full resolution; 0: 32 for images of up to 16 pixels, 48 up to 32, 64 above.
    blocks
        Residual blocks a level; 0: one for images of up to 16 pixels, two above.
    batch
        Images a step.
    lr
        Peak learning rate of Adam, the relative change of a weight in one step; 0: 0.136 / sqrt(width), as
        published for 64 to 192 channels.
    decay
        Share of training after which the learning rate falls as 1 / sqrt(images); 0: never.
    dropout
        Inside residual blocks; 0.1 helps where images are few.
    checkpointing
        Compute activations again in the backward pass: a third slower, a fraction of the memory.
    label_dropout
        Share of images trained without their label, for classifier-free guidance.
    sigma_data
        Standard deviation of the data in [-1, 1].
    P_mean, P_std
        Of the logarithm of the noise levels trained on, as published for pixels; -0.4 and 1 for latents.
    sigma_rel
        How far back the averaged weights reach: the deviation of their power profile, a share of training.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    shortest = min(data.shape[1:])
    width = width or (32 if shortest <= 16 else 48 if shortest <= 32 else 64)
    network = EDM2UNet(
        data.shape,
        classes=data.classes,
        attributes=data.told,
        width=width,
        multipliers=(
            1,
            *(
                wide
                for wide, size in zip((2, 3, 4, 4, 4), (8, 16, 64, 128, 256), strict=True)
                if shortest >= size
            ),
        ),
        blocks=blocks or (1 if shortest <= 16 else 2),
        attention=1,
        dropout=dropout,
        checkpointing=checkpointing,
    )
    method = Denoising(
        EDMDenoiser(in_units(network, data), sigma_data),
        levels=lognormal(P_mean, P_std),
        weight=uniform,  # of the network's own error: EDM's lambda(sigma) is 1 / c_out^2
        uncertainty=Uncertainty(),
        lr=lr or 0.136 / math.sqrt(width),
        lr_scale=partial(inverse_sqrt, warmup=0.01, decay=decay),
        optimize=adam_on_the_sphere,
        clip=math.inf,
        label_dropout=label_dropout,
        options=DiffusionOptions(steps=steps),
    )
    return Recipe(method, batch=batch, average=power(sigma_rel))
