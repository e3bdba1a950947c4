"""ADM: improved DDPM with a better U-Net, the first diffusion model to beat GANs on ImageNet (Dhariwal and
Nichol, 2021, arXiv:2105.05233)."""

from __future__ import annotations

from diptych.data.images import Images
from diptych.methods.denoising import by_size
from diptych.methods.iddpm import Hybrid, adm_denoiser, ancestral
from diptych.recipe import AutoSize, NotNegative, Recipe, Share, Size, recipe


@recipe(width=8, blocks=1, batch=8, steps=4)
def adm(
    data: Images,
    *,
    width: AutoSize = 0,
    blocks: AutoSize = 0,
    batch: Size = 32,
    lr: float = 0.0,
    dropout: Share = 0.1,
    multipliers: str = "",
    attention: str = "32,16,8",
    checkpointing: bool = False,
    label_dropout: float = 0.1,
    betas: str = "",
    diffusion_steps: int = 1000,
    vlb_weight: NotNegative = 0.001,
    guidance: float = 1.0,
    sampler: str = "ddpm",
    steps: Size = 50,
) -> Recipe:
    """ADM: much attention, learned variances; noisy-classifier --denoiser RUN adds its classifier guidance.

    The paper's model for 64x64 is --width 192 --blocks 3 --lr 1e-4, from 128x128 on --width 256 --blocks 2.

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
        Inside residual blocks.
    multipliers
        Of the width at each level, as 1,2,3,4; empty: by the images' size, from 64 pixels on the paper's.
    attention
        Resolutions with attention.
    checkpointing
        Compute activations again in the backward pass: a third slower, a fraction of the memory.
    label_dropout
        Share of images trained without their label, for classifier-free guidance.
    betas
        The schedule: cosine, linear, scaled-linear or sigmoid; empty: cosine up to 64 pixels, linear above.
    diffusion_steps
        Steps of the process that is learned.
    vlb_weight
        Of the variational bound, which teaches the variances, beside the simple loss.
    guidance
        Default strength of classifier-free guidance, for data with labels; 1: none.
    sampler
        ddpm draws with the learned variances; the deterministic ones make good images in fewer steps.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    denoiser = adm_denoiser(
        data,
        betas or ("cosine" if min(data.shape[1:]) <= 64 else "linear"),
        diffusion_steps,
        width=width,
        blocks=blocks,
        multipliers=multipliers,
        attention=attention,
        dropout=dropout,
        checkpointing=checkpointing,
    )
    method = Hybrid(
        denoiser,
        vlb_weight=vlb_weight,
        label_dropout=label_dropout,
        lr=lr,
        options=ancestral(steps, sampler, guidance),
    )
    return Recipe(method, batch=batch)
