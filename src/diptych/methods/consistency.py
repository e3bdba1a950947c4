"""Easy Consistency Tuning: from denoising to one-step sampling by tightening a finite difference
(Geng et al., 2024, arXiv:2406.14548)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from diptych.data.images import Images
from diptych.diffusion.denoiser import Denoiser, EDMDenoiser
from diptych.diffusion.model import DiffusionOptions
from diptych.method import Batch, Clock, Loss
from diptych.methods.denoising import DenoiserMethod, by_size, load_denoiser, unet_for
from diptych.networks.equalized import full_precision
from diptych.recipe import (
    AboveOne,
    AutoSize,
    Count,
    NamesRun,
    NotNegative,
    Positive,
    Recipe,
    Share,
    Size,
    recipe,
)
from diptych.saveable import rebuilt

FINE = 16  # parts of a level: with q = 2, at stage 5 that error is a sixth of the difference, at 8 all of it


class Consistency(DenoiserMethod):
    """Trains a denoiser to give the same clean image from each two neighbouring noise levels."""

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        q: float = 2.0,
        stages: int = 8,
        first_stage: int = 0,
        P_mean: float = -1.1,
        P_std: float = 2.0,
        huber: float = 0.0,
        **how: Any,
    ) -> None:
        super().__init__(denoiser, **how)
        self.q, self.stages, self.first_stage = q, stages, first_stage
        self.P_mean, self.P_std, self.huber = P_mean, P_std, huber

    def loss(self, batch: Batch, clock: Clock) -> Loss:
        """||f(x_t, t) - sg f(x_r, r)|| / (t - r), the same noise in both (equations 9 to 12)."""
        x, condition = batch
        condition = self.told(condition)
        t = (self.P_mean + self.P_std * torch.randn(x.shape[0], device=x.device)).exp()
        r = self.earlier(t, clock)
        eps = torch.randn_like(x)
        seed = int(torch.randint(2**62, ()))  # both calls must see the same dropout mask
        torch.manual_seed(seed)
        with full_precision(x) if self.fine(clock) else nullcontext():
            predicted = self.denoiser(x + t.view(-1, 1, 1, 1) * eps, t, condition)
            target = x
            if self.stage(clock) > 0:
                torch.manual_seed(seed)
                with torch.no_grad():
                    near = self.denoiser(x + r.view(-1, 1, 1, 1) * eps, r.clamp_min(1e-4), condition)
                target = torch.where(r.view(-1, 1, 1, 1) > 0, near, x)
        squared = (predicted - target).square().sum((1, 2, 3))
        distance = (squared + self.huber**2).clamp_min(
            1e-12
        ).sqrt() - self.huber  # at 0 the root has no slope
        return (distance / (t - r)).mean(), {"distance": distance.detach().mean()}

    def fine(self, clock: Clock) -> bool:
        """Whether the levels are so near that bfloat16's error is a part of the images' difference."""
        return self.q ** self.stage(clock) > FINE

    def stage(self, clock: Clock) -> int:
        """Equal shares of training from the first stage to the last; stage 0 is plain diffusion."""
        return min(self.stages, self.first_stage + int(clock.progress * (self.stages + 1 - self.first_stage)))

    def earlier(self, t: Tensor, clock: Clock) -> Tensor:
        """r(t) = t (1 - n(t) / q^stage), at least 0, with n(t) = 1 + 8 sigmoid(-t) (section 3.3)."""
        n = 1 + 8 * torch.sigmoid(-t)
        return (t * (1 - n / self.q ** self.stage(clock))).clamp_min(0)


@recipe(width=8, blocks=1, batch=8)
def consistency(
    data: Images,
    *,
    teacher: NamesRun = "",
    width: AutoSize = 0,
    blocks: AutoSize = 0,
    batch: Size = 64,
    lr: float = 0.0,
    dropout: Share = 0.0,
    checkpointing: bool = False,
    label_dropout: float = 0.0,
    q: AboveOne = 2.0,
    stages: Count = 8,
    huber: NotNegative = 0.0,
    sigma_data: Positive = 0.5,
    steps: Size = 1,
) -> Recipe:
    """A consistency model: one to four network calls an image; from scratch or from a diffusion model.

    Parameters
    ----------
    teacher
        A run of edm to start from; its network is taken, and width, blocks and dropout here are not used.
    width
        Channels at full resolution; 0: 32 for images of up to 16 pixels, 64 above.
    blocks
        Residual blocks a level; 0: one for images of up to 16 pixels, two above.
    batch
        Images a step.
    lr
        Peak learning rate of AdamW, warmed up, then lowered to 0 along a cosine; 0: 0.064 / width.
    dropout
        Inside residual blocks; the same mask for both noise levels.
    checkpointing
        Compute activations again in the backward pass: a third slower, a fraction of the memory.
    label_dropout
        Share of images trained without their label, for edits and guidance, which may ask for none. 0: the
        model answers to labels alone.
    q
        How fast neighbouring noise levels approach each other: their gap shrinks by 1/q each stage.
    stages
        How often in a training; stage 0, the first, is plain diffusion. With a teacher stage 1 is the first.
    huber
        Constant c of the pseudo-Huber distance; 0 is the plain norm.
    sigma_data
        Standard deviation of the data in [-1, 1].
    steps
        Default number of sampling steps, 1 to 4; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    denoiser: Denoiser
    if teacher:
        denoiser = rebuilt(load_denoiser(teacher, data), jumps=True)
    else:
        network = unet_for(data, width=width, blocks=blocks, dropout=dropout, checkpointing=checkpointing)
        denoiser = EDMDenoiser(network, sigma_data, jumps=True)
    options = DiffusionOptions(steps=steps, sampler="consistency", grid="geometric", sigma_min=0.0084)
    method = Consistency(
        denoiser,
        lr=lr,
        q=q,
        stages=stages,
        first_stage=1 if teacher else 0,
        huber=huber,
        label_dropout=label_dropout,
        options=options,
    )
    return Recipe(method, batch=batch)
