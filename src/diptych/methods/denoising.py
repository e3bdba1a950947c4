"""What methods that train a denoiser share: the loss, the phase, the U-Net by size, a run to start from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.images import Images
from diptych.diffusion.denoiser import Denoiser, NetworkDenoiser, each, without_labels
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.objective import Levels, Uncertainty, Weight
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Loss, Method, Phase, Schedule, adam, warmup_cosine
from diptych.methods.units import units_of
from diptych.model import Condition
from diptych.networks.labels import Attributed
from diptych.networks.unet import UNet
from diptych.runs import load_model
from diptych.saveable import arguments, change

HEARD = (0.3, 1.0)  # noise levels at which a denoiser may know its training images: content is half hidden
Augment = Callable[[Tensor], tuple[Tensor, Tensor]]  # images to augmented ones, and what was done (B, K)
Optimize = Callable[[nn.Module, float], torch.optim.Optimizer]  # over a module's parameters, at this rate


class DenoiserMethod(Method):
    """Trains one denoiser; its model is that denoiser behind a sampler.

    label_dropout: share of images trained without their label, so that one network learns both densities; at
    0 the denoiser is marked as one that must not be asked for none.
    optimize, lr_scale, clip: the optimizer, how its learning rate moves, the largest norm of the gradient.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        label_dropout: float = 0.1,
        lr: float = 1e-3,
        lr_scale: Schedule = warmup_cosine,
        optimize: Optimize = adam,
        clip: float = 1.0,
        options: DiffusionOptions = DiffusionOptions(),
    ) -> None:
        super().__init__()
        if not 0 <= label_dropout <= 1:
            raise WrongUse(
                f"label_dropout is a share, from 0 to 1, not {label_dropout:g}", "0.1 is one in ten"
            )
        if denoiser.classes or denoiser.attributes:
            change(denoiser, unlabelled=label_dropout > 0)
        self.label_dropout = label_dropout
        self.model: DiffusionModel = DiffusionModel(denoiser, options)
        self.lr, self.lr_scale, self.optimize, self.clip = lr, lr_scale, optimize, clip

    @property
    def denoiser(self) -> Denoiser:
        """The network in training, as the model sees it."""
        return self.model.denoiser

    def told(self, condition: Condition) -> Condition:
        """What the network hears of these images."""
        return without_labels(condition, self.denoiser.classes, self.label_dropout)

    def phases(self) -> Sequence[Phase]:
        """One: the denoiser learns, and what else the loss has to learn."""
        optimizer = self.optimize(self, self.lr)
        return [Phase("denoiser", self.loss, optimizer, lr_scale=self.lr_scale, clip=self.clip)]

    def memory(self, train: Batch, held_out: Batch, clock: Clock) -> Mapping[str, Tensor]:
        """How well noise is taken off each image: -log of the mean squared error, over some noise levels."""
        noise = [torch.randn_like(train.image) for _ in HEARD]  # both sets meet the same
        sets = {"train": train, "held_out": held_out}
        return {name: self._taken_off(batch, noise) for name, batch in sets.items()}

    def _taken_off(self, batch: Batch, noise: Sequence[Tensor]) -> Tensor:
        x, condition = batch
        scores = torch.zeros(len(x), device=x.device)
        for level, eps in zip(HEARD, noise, strict=True):
            sigma = torch.full((len(x),), level, device=x.device)
            clean = self.denoiser(x + level * eps, sigma, condition)
            scores -= (clean - x).square().mean((1, 2, 3)).clamp_min(1e-12).log() / len(HEARD)
        return scores

    @abstractmethod
    def loss(self, batch: Batch, clock: Clock) -> Loss:
        """What the denoiser minimises."""


class Denoising(DenoiserMethod):
    """Diffusion: some noise levels, and the weight of an error at each.

    uncertainty: learns how large the weighted error is at each level, so that all levels count the same.
    augment: the network is told what it did, in a fourth argument. how: as DenoiserMethod takes it.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        *,
        levels: Levels,
        weight: Weight,
        uncertainty: Uncertainty | None = None,
        augment: Augment | None = None,
        **how: Any,
    ) -> None:
        super().__init__(denoiser, **how)
        self.levels, self.weight, self.c_out = levels, weight, denoiser.c_out
        self.uncertainty, self.augment = uncertainty, augment

    def loss(self, batch: Batch, clock: Clock) -> Loss:
        """weight(sigma) ||D(x + sigma eps) - x||^2, or that over exp(u(sigma)), plus u(sigma)."""
        x, condition = batch
        condition = self.told(condition)
        x, *done = (x,) if self.augment is None else self.augment(x)
        sigma = self.levels(x.shape[0], x.device)
        noisy = x + each(sigma) * torch.randn_like(x)
        error = (self.denoiser(noisy, sigma, condition, *done) - x).square()
        weighted = each(self.weight(sigma, self.c_out(sigma))) * error
        if self.uncertainty is not None:
            weighted = self.uncertainty.balance(weighted, sigma)
        return weighted.mean(), {"mse": error.detach().mean()}


def unet_for(
    data: Images, *, width: int, blocks: int, dropout: float, checkpointing: bool = False, augments: int = 0
) -> nn.Module:
    """A U-Net whose coarsest level has 4 to 8 pixels, with attention there.

    augments: numbers that say how an image was augmented.
    """
    network = UNet(
        data.shape,
        classes=data.classes,
        attributes=data.told,
        width=width,
        multipliers=multipliers_of(data),
        blocks=blocks,
        dropout=dropout,
        checkpointing=checkpointing,
        augments=augments,
    )
    return in_units(network, data)


def multipliers_of(data: Images) -> tuple[int, ...]:
    """Widths of a U-Net's levels, in those of the first: as many as leave 4 to 8 pixels at the coarsest."""
    shortest = min(data.shape[1:])
    return (1, *(2 for size in (8, 16, 64, 128, 256) if shortest >= size))


def in_units(network: nn.Module, data: Images) -> nn.Module:
    """A network of `data.told` attributes, in the data's own units; as it is where there are none."""
    units = units_of(data)
    return network if units is None else Attributed(network, **arguments(units))


def by_size(data: Images, width: int, blocks: int, lr: float) -> tuple[int, int, float]:
    """Width, blocks and learning rate, those that are 0 chosen by the images' size."""
    small = min(data.shape[1:]) <= 16
    width = width or (32 if small else 64)
    return width, blocks or (1 if small else 2), lr or 0.064 / width


def load_denoiser(run: str, data: Images, led: bool = False) -> NetworkDenoiser:
    """The averaged denoiser of another run, for the same kind of images, to be trained further.

    led: what a guide adds to it is in what it is trained on. Raises WrongUse where it does not fit, or would
    be without its guide.
    """
    teacher = load_teacher(run, data)
    denoiser = teacher.denoiser.requires_grad_(True)
    if teacher.guide is not None and not (led and denoiser.classes == teacher.classes):
        raise led_already(f"teacher {run}")
    assert isinstance(denoiser, NetworkDenoiser)  # as all are that a run is made of
    return denoiser


def led_already(what: str) -> WrongUse:
    """Why a model that has a guide is not taken for the denoiser in it."""
    return WrongUse(f"{what} is led by a guide, which would be lost", "take the run that it was made from")


def load_teacher(run: str, data: Images, what: str = "teacher", unlabelled: bool = False) -> DiffusionModel:
    """The diffusion model of another run, for the same images. Raises WrongUse where it does not fit.

    what: the argument that names it. unlabelled: one that is told nothing of the images fits as well.
    """
    model = load_model(run, "cpu")
    if not isinstance(model, DiffusionModel):
        raise WrongUse(f"{what} {run} has no denoiser", f"a {what} is a run of a diffusion model")
    untold = unlabelled and not (model.classes or model.attributes)
    if model.image_shape != data.shape or not (untold or model.classes == data.classes):
        raise WrongUse(
            f"{what} {run} makes images {model.image_shape} of {model.classes} classes, "
            f"but the data has {data.shape} and {data.classes}"
        )
    if untold:
        return model
    if model.attributes != data.told or (data.told and model.attribute_names != data.attribute_names):
        raise WrongUse(
            f"{what} {run} is told {', '.join(model.attribute_names) or 'no attributes'}, "
            f"but the data has {', '.join(data.attribute_names[: data.told]) or 'none'}"
        )
    return model
