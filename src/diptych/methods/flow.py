"""Rectified flow: a straight line from noise to image, and its velocity (Liu et al., 2022, arXiv:2209.03003;
Lipman et al., 2022, arXiv:2210.02747), times drawn as by Esser et al. (2024, arXiv:2403.03206).

Reflow trains again on pairs of a noise and the image that it led to, so that the paths no longer cross.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diptych.data.images import Images
from diptych.diffusion.denoiser import NetworkDenoiser, ScheduleDenoiser, each
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.objective import logit_normal_times, uniform, uniform_times
from diptych.diffusion.samplers import SAMPLERS
from diptych.diffusion.schedules import Flow
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Condition, Loss, Phase
from diptych.methods.augmented import TOLD, NonLeaking
from diptych.methods.denoising import (
    DenoiserMethod,
    Denoising,
    by_size,
    load_denoiser,
    unet_for,
)
from diptych.model import Noise
from diptych.recipe import AutoSize, NamesRun, Positive, Recipe, Share, Size, recipe
from diptych.runs import load_model, open_run
from diptych.saveable import rebuilt
from diptych.system.blocks import while_it_fits
from diptych.system.device import moved

log = logging.getLogger("diptych")


class Pairs(NamedTuple):
    """What seeds 0 to N led a teacher to."""

    image: Tensor  # (N, C, H, W)
    noise: Tensor  # (N, C, H, W), standard normal
    label: Tensor  # (N,) or (N, K)


class Reflow(DenoiserMethod):
    """Learns the straight lines between a teacher's noises and its images (Liu et al., 2022, section 2.2).

    couple: makes the pairs on a device, a function of the teacher; asked once a training begins.
    how: as DenoiserMethod takes it.
    """

    # on the CPU, for there are many; no buffers: they hold still, and are made again where one resumes
    pairs: Pairs

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        couple: Callable[[torch.device], Pairs],
        **how: Any,
    ) -> None:
        super().__init__(denoiser, **how)
        self.couple = couple
        self.levels, self.c_out, self.ends = uniform_times(Flow()), denoiser.c_out, denoiser.schedule.ends()

    def phases(self) -> Sequence[Phase]:
        """One; and from here on there are pairs."""
        self.pairs = self.couple(next(self.parameters()).device)
        return super().phases()

    def loss(self, batch: Batch, clock: Clock) -> Loss:
        """|v(x_s, s) - (noise - image)|^2 along x_s = (1 - s) image + s noise; the data are the teacher's.

        Of a network that predicts something else, that error: the same straight lines are best for it.
        """
        n, device = batch.image.shape[0], batch.image.device
        drawn = torch.randint(len(self.pairs.image), (n,))
        x, eps, label = (moved(values[drawn], device) for values in self.pairs)
        sigma = self.levels(n, device).clamp(*self.ends)  # sampling never meets others
        known = self.denoiser.classes or self.denoiser.attributes
        condition = self.told(Condition(label=label if known else None))
        error = (self.denoiser(x + each(sigma) * eps, sigma, condition) - x).square()
        weighted = each(uniform(sigma, self.c_out(sigma))) * error
        return weighted.mean(), {"mse": error.detach().mean()}


@torch.no_grad()
def coupled(teacher: DiffusionModel, pairs: int, batch: int = 256) -> Pairs:
    """So many pairs of a noise and the image that a teacher makes of it.

    Raises WrongUse where the teacher's images are not those of one noise.
    """
    if pairs < 1:
        raise WrongUse(f"pairs must be at least 1, not {pairs}")
    teacher = noiseless(teacher)
    device = teacher.device
    noises: dict[int, Tensor] = {}

    def draw(seeds: range) -> Tensor:
        noise, drawn = Noise(seeds, device).recorded()
        image: Tensor = teacher(noise, Condition(label=teacher.labels_for(seeds)).to(device)).cpu()
        if len(drawn) > 1:
            raise WrongUse(
                f"the teacher's sampler {teacher.options.sampler} draws noise on its way, "
                "so that no noise alone leads to an image",
                "take a teacher whose sampler does not, or a consistency model of --steps 1",
            )
        noises[seeds.start] = drawn[0].cpu()
        return image

    images = [image for _, image in while_it_fits(draw, pairs, batch)]
    last = torch.channels_last  # as the batches of other trainings lie in memory
    both = images, list(noises.values())
    image, eps = (torch.cat(parts).contiguous(memory_format=last) for parts in both)
    label = teacher.labels_for(range(pairs))
    return Pairs(image, eps, torch.zeros(pairs, dtype=torch.int64) if label is None else label)


def noiseless(teacher: DiffusionModel) -> DiffusionModel:
    """A teacher whose sampler draws nothing but its start: itself, or along the same noise levels by Euler.

    One that jumps is left as it is: other samplers do not take it.
    """
    options = teacher.options
    settled = SAMPLERS[options.sampler].deterministic
    if teacher.denoiser.jumps or (settled and not options.eta and not options.churn):
        return teacher
    name = options.sampler if settled else "euler"
    log.warning(
        "the teacher's sampler %s draws noise on its way: the pairs are made by %s, which draws none",
        options.sampler,
        name,
    )
    return teacher.using(sampler=name, eta=None, churn=None, variance=None)


@lru_cache(maxsize=1)
def coupled_of(run: str, written: float, pairs: int, device: torch.device) -> Pairs:
    """The pairs of a run, drawn on a device, once: the probe builds a training, and then it is built.

    written: when its model was, so that another one gets pairs of its own.
    """
    teacher = load_model(run, device)
    assert isinstance(teacher, DiffusionModel)
    return coupled(teacher, pairs)


@recipe(width=8, blocks=1, batch=8)
def flow(
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
    shift: float = 0.0,
    t_mean: float = 0.0,
    t_std: Positive = 1.5,
    reflow: NamesRun = "",
    pairs: int = 8192,
    steps: Size = 20,
) -> Recipe:
    """Rectified flow: diffusion along straight lines; few steps take it far.

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
    shift
        More than 1 spends more time in noise; 0: by the size of the images, 1 up to 32 pixels.
    t_mean, t_std
        Of the logit of the times trained on. As published (0, 1) a network hardly ever meets the last noise,
        and fifty steps become worse than ten.
    reflow
        A run of a diffusion model to straighten: its network is trained on between its own noises and images.
    pairs
        How many of them are made for it before training, with the run's own sampler; with euler where that
        draws noise on its way.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    straight_lines = DiffusionOptions(steps=steps, sampler="euler", grid="trailing")
    # trailing ends far above the image where images are large, and what is finest would be left out
    options = straight_lines if reflow else DiffusionOptions(steps=steps, sampler="dpm++2m", grid="log-snr")
    if reflow:
        if augment:
            raise WrongUse("pairs of a noise and its image cannot be augmented", "--reflow without --augment")
        denoiser = rebuilt(load_denoiser(reflow, data, led=True), jumps=False)
        written = (open_run(reflow).path / "model.safetensors").stat().st_mtime
        couple = partial(coupled_of, reflow, written, pairs)
        straighter = Reflow(denoiser, couple, lr=lr / 4, label_dropout=label_dropout, options=options)
        return Recipe(straighter, batch=batch)
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
