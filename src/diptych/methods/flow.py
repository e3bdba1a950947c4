"""Rectified flow: a straight line from noise to image, and its velocity (Liu et al., 2022, arXiv:2209.03003;
Lipman et al., 2022, arXiv:2210.02747), times drawn as by Esser et al. (2024, arXiv:2403.03206)."""

from __future__ import annotations

from diptych.data.images import Images
from diptych.diffusion.denoiser import ScheduleDenoiser
from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.objective import logit_normal_times, uniform
from diptych.diffusion.schedules import Flow
from diptych.methods.denoising import Denoising, by_size, unet_for
from diptych.recipe import Recipe, recipe


@recipe(width=8, blocks=1, batch=8)
def flow(
    data: Images,
    *,
    width: int = 0,
    blocks: int = 0,
    batch: int = 64,
    lr: float = 0.0,
    dropout: float = 0.0,
    label_dropout: float = 0.1,
    shift: float = 0.0,
    t_mean: float = 0.0,
    t_std: float = 1.0,
    steps: int = 20,
) -> Recipe:
    """Rectified flow: diffusion along straight lines; few steps take it far.

    Parameters
    ----------
    width
        Channels at full resolution; 0: 32 for images of up to 16 pixels, 64 above.
    blocks
        Residual blocks a level; 0: one for images of up to 16 pixels, two above.
    batch
        Images a step.
    lr
        Peak learning rate of AdamW, warmed up, then lowered to 0 along a cosine; 0: 0.064 / width.
    dropout
        Inside residual blocks; 0.1 to 0.2 helps where images are few.
    label_dropout
        Share of images trained without their label, for classifier-free guidance.
    shift
        More than 1 spends more time in noise; 0: by the size of the images, 1 up to 32 pixels.
    t_mean, t_std
        Of the logit of the times trained on.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    network = unet_for(data, width=width, blocks=blocks, dropout=dropout)
    shift = shift or max(1.0, min(data.shape[1:]) / 32)  # the noise of a blurred pixel falls with its size
    denoiser = ScheduleDenoiser(network, Flow(shift), "flow", told="level")
    method = Denoising(
        denoiser,
        levels=logit_normal_times(denoiser.schedule, t_mean, t_std),
        weight=uniform,
        lr=lr,
        label_dropout=label_dropout,
        options=DiffusionOptions(steps=steps, sampler="euler", grid="trailing"),
    )
    return Recipe(method, batch=batch)
