"""DDPM: a thousand small steps, each learned as the noise in it (Ho et al., 2020, arXiv:2006.11239)."""

from __future__ import annotations

from diptych.data.images import Images
from diptych.diffusion.denoiser import ScheduleDenoiser
from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.objective import LEARNED, Uncertainty, uniform_times, weight
from diptych.diffusion.schedules import LARGEST, ZERO_SNR, schedule
from diptych.errors import WrongUse
from diptych.methods.augmented import TOLD, NonLeaking
from diptych.methods.denoising import Denoising, by_size, unet_for
from diptych.recipe import AutoSize, Recipe, Share, Size, recipe


@recipe(width=8, blocks=1, batch=8)
def ddpm(
    data: Images,
    *,
    width: AutoSize = 0,
    blocks: AutoSize = 0,
    batch: Size = 32,
    lr: float = 0.0,
    dropout: Share = 0.0,
    checkpointing: bool = False,
    label_dropout: float = 0.1,
    augment: float = 0.0,
    betas: str = "linear",
    zero_snr: bool = False,
    target: str = "eps",
    weighting: str = "uniform",
    sampler: str = "dpm++2m",
    steps: Size = 20,
) -> Recipe:
    """Diffusion as it began: a discrete schedule, the network predicts the noise, the simple loss.

    Parameters
    ----------
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
    betas
        The schedule: linear, scaled-linear, cosine, sigmoid, or one of the continuous ones (vp, flow, flow:3
        for large images ...).
    zero_snr
        The last of the thousand steps is noise alone, which helps very dark or bright images; needs a target
        other than eps.
        The same as --betas linear:zero-snr.
    target
        What the network predicts: eps, x0, v, flow, or F, which is EDM's, behind EDM's preconditioning.
    weighting
        Of the squared error by noise level: uniform, snr, min-snr, edm or p2; or uncertainty, learned beside
        the network: all levels come to count the same, as in EDM2.
    sampler
        ddpm with 1000 steps is the paper's; the default needs 20.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    told = TOLD if augment else 0
    network = unet_for(
        data, width=width, blocks=blocks, dropout=dropout, checkpointing=checkpointing, augments=told
    )
    name = f"{betas.removesuffix(f':{ZERO_SNR}')}:{ZERO_SNR}" if zero_snr else betas
    followed = schedule(name)
    if target == "eps" and followed.ends()[1] > LARGEST / 2:
        raise WrongUse(
            f"{name} ends at noise alone, where eps says nothing of an image",
            "add --target v, or x0, or flow",
        )
    denoiser = ScheduleDenoiser(network, followed, target, told="level")
    method = Denoising(
        denoiser,
        levels=uniform_times(denoiser.schedule),
        weight=weight(weighting),
        uncertainty=Uncertainty() if weighting == LEARNED else None,
        lr=lr,
        label_dropout=label_dropout,
        augment=NonLeaking(augment) if augment else None,
        options=DiffusionOptions(steps=steps, sampler=sampler, grid="log-snr", threshold=1.0),
    )
    return Recipe(method, batch=batch)
