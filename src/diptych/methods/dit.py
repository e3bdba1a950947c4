"""DiT: a transformer that denoises (Peebles and Xie, 2022, arXiv:2212.09748), along straight lines as in SiT
(Ma et al., 2024, arXiv:2401.08740) or on the cosine schedule."""

from __future__ import annotations

from functools import partial

from diptych.data.images import Images
from diptych.diffusion.denoiser import ScheduleDenoiser
from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.objective import logit_normal_times, min_snr, uniform, uniform_times
from diptych.diffusion.schedules import Cosine, Flow
from diptych.errors import WrongUse, did_you_mean
from diptych.method import adam, warmup_cosine
from diptych.methods.denoising import Denoising, in_units
from diptych.networks.dit import POSITIONS, DiT
from diptych.recipe import AutoSize, Recipe, Size, recipe

SIZES = {16: (64, 4), 32: (192, 6), 64: (384, 8)}  # of images, up to so many pixels: width and depth


@recipe(width=32, depth=1, batch=8)
def dit(
    data: Images,
    *,
    width: AutoSize = 0,
    depth: AutoSize = 0,
    patch: AutoSize = 0,
    batch: Size = 32,
    lr: float = 0.0,
    checkpointing: bool = False,
    label_dropout: float = 0.1,
    target: str = "flow",
    shift: float = 0.0,
    positions: str = "both",
    qk_norm: bool = True,
    steps: Size = 20,
) -> Recipe:
    """A diffusion transformer: no convolutions, no scales; what it costs is set by width, depth and patch.

    Parameters
    ----------
    width
        Channels of a token, a multiple of 64 (or less than that, of 8); 0: 64 for images of up to 16 pixels,
        192 up to 32, 384 above.
    depth
        Blocks; 0: 4 for images of up to 16 pixels, 6 up to 32, 8 above.
    patch
        Pixels along the side of a token; half as many make training four times as slow. 0: the image's / 16.
    batch
        Images a step; more of them pay once there are some ten thousand steps, and fill a GPU.
    lr
        Peak learning rate of AdamW, warmed up, then lowered to 0 along a cosine; 0: 0.4 / width.
    checkpointing
        Compute activations again in the backward pass: a third slower, a fraction of the memory.
    label_dropout
        Share of images trained without their label, for classifier-free guidance.
    target
        flow: rectified flow, logit-normal times; v: the cosine schedule, velocity, weight min-SNR.
    shift
        Of flow: more than 1 spends more time in noise; 0: by the size of the images, 1 up to 32 pixels.
    positions
        How tokens know where they are: sincos (as published), rotary or both.
    qk_norm
        Normalise queries and keys: steadier where the learning rate is high.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    shortest = min(data.shape[1:])
    usual = next((sizes for pixels, sizes in SIZES.items() if shortest <= pixels), SIZES[64])
    width, depth = width or usual[0], depth or usual[1]
    if width % (64 if width > 64 else 8):
        raise WrongUse(
            f"width {width} cannot be split into heads", "take a multiple of 64, or of 8 below that"
        )
    if patch < 0:
        raise WrongUse(f"patch must be at least 1, not {patch}", "leave it away: it follows the images' size")
    if positions not in POSITIONS:
        raise WrongUse(f"there are no positions called {positions}", did_you_mean(positions, [*POSITIONS]))
    if target not in ("flow", "v"):
        raise WrongUse(f"dit is not trained for {target!r}", "target is flow or v")
    network = DiT(
        data.shape,
        classes=data.classes,
        attributes=data.told,
        width=width,
        depth=depth,
        patch=patch or max(1, 2 ** ((shortest - 1).bit_length() - 4)),
        positions=positions,
        qk_norm=qk_norm,
        checkpointing=checkpointing,
    )
    line = target == "flow"
    schedule = Flow(shift or max(1.0, shortest / 32)) if line else Cosine()
    method = Denoising(
        ScheduleDenoiser(in_units(network, data), schedule, target),
        levels=logit_normal_times(schedule) if line else uniform_times(schedule),
        weight=uniform if line else min_snr(),
        lr=lr or 0.4 / width,
        lr_scale=warmup_cosine,
        optimize=partial(adam, betas=(0.9, 0.99)),
        label_dropout=label_dropout,
        options=DiffusionOptions(steps=steps, sampler="dpm++2m", grid="log-snr"),
    )
    return Recipe(method, batch=batch)
