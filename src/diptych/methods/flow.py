"""Rectified flow: a straight line from noise to image, and its velocity (Liu et al., 2022, arXiv:2209.03003;
Lipman et al., 2022, arXiv:2210.02747), times drawn as by Esser et al. (2024, arXiv:2403.03206).

Reflow trains again on pairs of a noise and the image that it led to, so that the paths no longer cross.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.data.images import Images
from diptych.diffusion.denoiser import Denoiser, ScheduleDenoiser, each
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.objective import logit_normal_times, uniform, uniform_times
from diptych.diffusion.schedules import Flow
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Condition, Loss
from diptych.methods.augmented import TOLD, NonLeaking
from diptych.methods.denoising import DenoiserMethod, Denoising, by_size, load_denoiser, unet_for
from diptych.model import Noise
from diptych.recipe import Recipe, recipe
from diptych.runs import load_model


class Pairs(NamedTuple):
    """What seeds 0 to N led a teacher to."""

    image: Tensor  # (N, C, H, W)
    noise: Tensor  # (N, C, H, W), standard normal
    label: Tensor  # (N,) or (N, K)


class Reflow(DenoiserMethod):
    """Learns the straight lines between a teacher's noises and its images (Liu et al., 2022, section 2.2)."""

    image: Tensor
    noise: Tensor
    label: Tensor

    def __init__(self, denoiser: Denoiser, pairs: Pairs, *, lr: float, options: DiffusionOptions) -> None:
        super().__init__(denoiser, lr=lr, options=options)
        for name, values in pairs._asdict().items():
            self.register_buffer(name, values, persistent=False)  # a function of the teacher: made again
        self.levels = uniform_times(Flow())

    def loss(self, batch: Batch, clock: Clock) -> Loss:
        """|v(x_s, s) - (noise - image)|^2 along x_s = (1 - s) image + s noise; the data are the teacher's."""
        n, device = batch.image.shape[0], batch.image.device
        drawn = torch.randint(len(self.image), (n,), device=device)
        x, eps = self.image[drawn], self.noise[drawn]
        sigma = self.levels(n, device)
        known = self.denoiser.classes or self.denoiser.attributes
        condition = Condition(label=self.label[drawn] if known else None)
        error = (self.denoiser(x + each(sigma) * eps, sigma, condition) - x).square()
        velocity = each((1 + sigma) / sigma).square() * error  # v = (x_s - x) / s
        return velocity.mean(), {"mse": error.detach().mean()}


@torch.no_grad()
def coupled(teacher: DiffusionModel, pairs: int, batch: int = 256) -> Pairs:
    """So many pairs of a noise and the image that a teacher makes of it."""
    if pairs < 1:
        raise WrongUse(f"pairs must be at least 1, not {pairs}")
    device = next(teacher.parameters()).device
    images, noises, labels = [], [], []
    for start in range(0, pairs, batch):
        seeds = range(start, min(pairs, start + batch))
        noise, drawn = Noise(seeds, device).recorded()
        label = teacher.labels_for(list(seeds))
        images.append(teacher(noise, Condition(label=label).to(device)).cpu())
        noises.append(drawn[0].cpu())
        labels.append(torch.zeros(len(seeds), dtype=torch.int64) if label is None else label)
    return Pairs(torch.cat(images), torch.cat(noises), torch.cat(labels))


@lru_cache(maxsize=1)
def coupled_of(run: str, written: float, pairs: int) -> Pairs:
    """The pairs of a run, once: a training is built several times, for the probe and for itself."""
    teacher = load_model(run)
    assert isinstance(teacher, DiffusionModel)
    return coupled(teacher, pairs)


@recipe(width=8, blocks=1, batch=8)
def flow(
    data: Images,
    *,
    width: int = 0,
    blocks: int = 0,
    batch: int = 64,
    lr: float = 0.0,
    dropout: float = 0.0,
    checkpointing: bool = False,
    label_dropout: float = 0.1,
    augment: float = 0.0,
    shift: float = 0.0,
    t_mean: float = 0.0,
    t_std: float = 1.0,
    reflow: str = "",
    pairs: int = 8192,
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
    checkpointing
        Compute activations again in the backward pass: a third slower, a fraction of the memory.
    label_dropout
        Share of images trained without their label, for classifier-free guidance.
    augment
        Probability of each augmentation, of which the network is told so that samples do not show them; 0:
        none. 0.12 to 0.15 helps where images are few.
    shift
        More than 1 spends more time in noise; 0: by the size of the images, 1 up to 32 pixels.
    t_mean, t_std
        Of the logit of the times trained on.
    reflow
        A run of a diffusion model to straighten: its network is trained on between its own noises and images.
    pairs
        How many of them are made for it before training, with the run's own sampler.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    options = DiffusionOptions(steps=steps, sampler="euler" if reflow else "dpm++2m", grid="trailing")
    if reflow:
        if augment:
            raise WrongUse("pairs of a noise and its image cannot be augmented", "--reflow without --augment")
        denoiser = load_denoiser(reflow, data)
        written = (Path(reflow) / "model.safetensors").stat().st_mtime
        known = coupled_of(reflow, written, pairs)
        return Recipe(Reflow(denoiser, known, lr=lr / 4, options=options), batch=batch)
    told = TOLD if augment else 0
    network = unet_for(
        data, width=width, blocks=blocks, dropout=dropout, checkpointing=checkpointing, augments=told
    )
    shift = shift or max(1.0, min(data.shape[1:]) / 32)  # the noise of a blurred pixel falls with its size
    straight = ScheduleDenoiser(network, Flow(shift), "flow", told="level")
    method = Denoising(
        straight,
        levels=logit_normal_times(straight.schedule, t_mean, t_std),
        weight=uniform,
        lr=lr,
        label_dropout=label_dropout,
        augment=NonLeaking(augment) if augment else None,
        options=options,
    )
    return Recipe(method, batch=batch)
