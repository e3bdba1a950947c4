"""Improved DDPM: learned variances and the cosine schedule (Nichol and Dhariwal, 2021, arXiv:2102.09672)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diptych.data.images import Images
from diptych.diffusion.denoiser import ScheduleDenoiser, each
from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.samplers import SAMPLERS
from diptych.diffusion.schedules import Discrete
from diptych.diffusion.variational import (
    bounds,
    discretized_nll,
    ending,
    learned,
    normal_kl,
    posterior_mean,
)
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Loss
from diptych.methods.denoising import DenoiserMethod, by_size, in_units
from diptych.networks.adm import ADM, multipliers_for
from diptych.recipe import AutoSize, NotNegative, Recipe, Share, Size, recipe


class Hybrid(DenoiserMethod):
    """L_simple + vlb_weight L_vlb, where the bound teaches the variances alone (equation 16).

    The denoiser must predict eps on a schedule with steps, and variances. how: as DenoiserMethod takes it.
    """

    levels: Tensor
    log_small: Tensor
    log_large: Tensor

    def __init__(
        self,
        denoiser: ScheduleDenoiser,
        *,
        vlb_weight: float = 0.001,
        **how: Any,
    ) -> None:
        super().__init__(denoiser, **how)
        if not isinstance(schedule := denoiser.schedule, Discrete):
            raise WrongUse("variances are learned for the steps of a discrete schedule")
        self.vlb_weight, self.c_out = vlb_weight, denoiser.c_out
        levels = torch.tensor((0.0, *schedule.exact), dtype=torch.float64)  # step i leads from i + 1 to i
        small, large = bounds(levels[1:], levels[:-1], ending(*schedule.exact[:2]))
        for name, table in (("levels", levels), ("log_small", small), ("log_large", large)):
            self.register_buffer(name, table.float(), persistent=False)

    def loss(self, batch: Batch, clock: Clock) -> Loss:
        """The error of eps, and the bound in bits a dimension (as the paper's code counts it)."""
        x, condition = batch
        condition = self.told(condition)
        step = torch.randint(len(self.log_small), (x.shape[0],), device=x.device)
        sigma = self.levels[step + 1]
        noisy = x + each(sigma) * torch.randn_like(x)
        clean, fraction = self.denoiser.moments(noisy, sigma, condition)
        simple = ((clean - x).square() / each(self.c_out(sigma)).square()).mean()
        # the bound does not move the mean: its gradient would be much noisier than the simple loss's
        bound = len(self.log_small) * self.term(x, noisy, clean.detach(), fraction, step).mean() / math.log(2)
        return simple + self.vlb_weight * bound, {"simple": simple.detach(), "vlb": bound.detach()}

    def term(self, x: Tensor, noisy: Tensor, clean: Tensor, fraction: Tensor, step: Tensor) -> Tensor:
        """The bound's term of each image's step, nats by element: KL, or at step 0 the decoder's -log p."""
        sigma, following = each(self.levels[step + 1]), each(self.levels[step])
        small, large = each(self.log_small[step]), each(self.log_large[step])
        log_variance = learned(small, large, fraction)
        true, ours = (posterior_mean(noisy, image, sigma, following) for image in (x, clean))
        kl = normal_kl(true, small, ours, log_variance)
        last = each(step) == 0
        # elsewhere the density of the image itself may lie outside of what floats can say
        nll = discretized_nll(x, torch.where(last, ours, x), torch.where(last, log_variance, 0.0))
        return torch.where(last, nll, kl)


def numbers(text: str, name: str) -> tuple[int, ...]:
    """Whole positive numbers, "32,16,8". Raises WrongUse, naming the argument, where they are none."""
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (0,)
    if any(number < 1 for number in found):
        raise WrongUse(f"{name} must be positive whole numbers with commas between them, not {text!r}")
    return found


def adm_denoiser(
    data: Images,
    betas: str,
    diffusion_steps: int,
    *,
    width: int,
    blocks: int,
    multipliers: str,
    attention: str,
    dropout: float,
    checkpointing: bool = False,
) -> ScheduleDenoiser:
    """ADM's U-Net behind a discrete schedule, predicting eps and variances."""
    network = ADM(
        data.shape,
        classes=data.classes,
        attributes=data.told,
        out_channels=2 * data.shape[0],
        width=width,
        multipliers=numbers(multipliers, "multipliers") or multipliers_for(min(data.shape[1:])),
        blocks=blocks,
        attention=numbers(attention, "attention"),
        dropout=dropout,
        checkpointing=checkpointing,
    )
    schedule = Discrete(betas, diffusion_steps)
    return ScheduleDenoiser(in_units(network, data), schedule, "eps", learned_variance=True)


def ancestral(steps: int, sampler: str, guidance: float = 1.0) -> DiffusionOptions:
    """A sampler along the schedule's own steps, with the learned variances where it takes any.

    Where it does, from the first step to the last and evenly between, as in the papers' code: a last step
    from far above the image would leave out what is finest. Others end at the lowest level anyway.
    """
    takes = SAMPLERS[sampler].takes if sampler in SAMPLERS else frozenset()
    return DiffusionOptions(
        steps=steps,
        sampler=sampler,
        grid="linspace" if "variance" in takes else "log-snr",
        threshold=1.0,
        guidance=guidance,
        variance="learned" if "variance" in takes else None,
    )


@recipe(width=8, blocks=1, batch=8, steps=4)
def iddpm(
    data: Images,
    *,
    width: AutoSize = 0,
    blocks: AutoSize = 0,
    batch: Size = 32,
    lr: float = 0.0,
    dropout: Share = 0.0,
    multipliers: str = "",
    attention: str = "16,8",
    label_dropout: float = 0.1,
    betas: str = "cosine",
    diffusion_steps: int = 1000,
    vlb_weight: NotNegative = 0.001,
    sampler: str = "ddpm",
    steps: Size = 50,
) -> Recipe:
    """Improved DDPM: a cosine schedule, and variances that are learned, so that fewer random steps do.

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
    multipliers
        Of the width at each level, as 1,2,2; empty: by the images' size.
    attention
        Resolutions with attention.
    label_dropout
        Share of images trained without their label, for classifier-free guidance.
    betas
        The schedule: cosine, linear, scaled-linear or sigmoid.
    diffusion_steps
        Steps of the process that is learned.
    vlb_weight
        Of the variational bound, which teaches the variances, beside the simple loss.
    sampler
        ddpm draws with the learned variances; the deterministic ones make good images in fewer steps.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    denoiser = adm_denoiser(
        data,
        betas,
        diffusion_steps,
        width=width,
        blocks=blocks,
        multipliers=multipliers,
        attention=attention,
        dropout=dropout,
    )
    method = Hybrid(
        denoiser,
        vlb_weight=vlb_weight,
        label_dropout=label_dropout,
        lr=lr,
        options=ancestral(steps, sampler),
    )
    return Recipe(method, batch=batch)
