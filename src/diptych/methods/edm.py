"""EDM: weighted denoising over log-normal noise levels (Karras et al., 2022, arXiv:2206.00364)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.data.images import Images
from diptych.diffusion.denoiser import Denoiser, EDMDenoiser, without_labels
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.method import Batch, Clock, Loss, Method, Phase, adam, warmup_cosine
from diptych.networks.unet import UNet
from diptych.recipe import Recipe, recipe


class EDM(Method):
    """Trains a denoiser; its model is the denoiser behind Heun's sampler."""

    def __init__(
        self,
        denoiser: EDMDenoiser,
        *,
        lr: float = 1e-3,
        label_dropout: float = 0.1,
        P_mean: float = -1.2,
        P_std: float = 1.2,
        options: DiffusionOptions = DiffusionOptions(),
    ) -> None:
        super().__init__()
        self.model: DiffusionModel = DiffusionModel(denoiser, options)
        self.sigma_data = denoiser.sigma_data
        self.lr, self.label_dropout, self.P_mean, self.P_std = lr, label_dropout, P_mean, P_std

    @property
    def denoiser(self) -> Denoiser:
        """The network in training, as the model sees it."""
        return self.model.denoiser

    def phases(self) -> Sequence[Phase]:
        """One: the denoiser learns."""
        return [Phase("denoiser", self.loss, adam(self.denoiser, self.lr), lr_scale=warmup_cosine, clip=1.0)]

    def loss(self, batch: Batch, clock: Clock) -> Loss:
        """lambda(sigma) ||D(x + sigma eps) - x||^2 (equation 2 with the weights of table 1)."""
        x, condition = batch
        condition = without_labels(condition, self.denoiser.classes, self.label_dropout)
        sigma = (self.P_mean + self.P_std * torch.randn(x.shape[0], device=x.device)).exp()
        noisy = x + sigma.view(-1, 1, 1, 1) * torch.randn_like(x)
        error = (self.denoiser(noisy, sigma, condition) - x).square()
        return (edm_weight(sigma, self.sigma_data) * error).mean(), {"mse": error.detach().mean()}


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """1 / c_out(sigma)^2, as (B, 1, 1, 1): every level weighs the same at the start (EDM, table 1)."""
    return ((sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2).view(-1, 1, 1, 1)


def unet_for(data: Images, *, width: int, blocks: int, dropout: float) -> UNet:
    """A U-Net whose coarsest level has 4 to 8 pixels, with attention there."""
    shortest = min(data.shape[1:])
    multipliers = (1, *(2 for size in (8, 16, 64, 128) if shortest >= size))
    return UNet(
        data.shape, classes=data.classes, width=width, multipliers=multipliers, blocks=blocks, dropout=dropout
    )


def by_size(data: Images, width: int, blocks: int, lr: float) -> tuple[int, int, float]:
    """Width, blocks and learning rate, those that are 0 chosen by the images' size."""
    small = min(data.shape[1:]) <= 16
    width = width or (32 if small else 64)
    return width, blocks or (1 if small else 2), lr or 0.064 / width


def load_denoiser(run: str, data: Images) -> Denoiser:
    """The averaged denoiser of another run, for the same kind of images.

    Raises WrongUse where it does not fit.
    """
    from diptych.errors import WrongUse
    from diptych.runs import load_model

    model = load_model(run, "cpu")
    if not isinstance(model, DiffusionModel):
        raise WrongUse(f"teacher {run} has no denoiser", "a teacher is a run of edm or of consistency")
    if (model.image_shape, model.classes) != (data.shape, data.classes):
        raise WrongUse(
            f"teacher {run} makes images {model.image_shape} of {model.classes} classes, "
            f"but the data has {data.shape} and {data.classes}"
        )
    return model.denoiser.requires_grad_(True)


@recipe(width=8, blocks=1, batch=8)
def edm(
    data: Images,
    *,
    width: int = 0,
    blocks: int = 0,
    batch: int = 64,
    lr: float = 0.0,
    dropout: float = 0.0,
    label_dropout: float = 0.1,
    sigma_data: float = 0.5,
    P_mean: float = -1.2,
    P_std: float = 1.2,
    steps: int = 18,
) -> Recipe:
    """Diffusion, EDM's way: the safe choice for quality and diversity; sampling takes several network calls.

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
    sigma_data
        Standard deviation of the data in [-1, 1].
    P_mean, P_std
        Of the logarithm of the noise levels trained on.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    width, blocks, lr = by_size(data, width, blocks, lr)
    network = unet_for(data, width=width, blocks=blocks, dropout=dropout)
    options = DiffusionOptions(steps=steps)
    method = EDM(
        EDMDenoiser(network, sigma_data),
        lr=lr,
        label_dropout=label_dropout,
        P_mean=P_mean,
        P_std=P_std,
        options=options,
    )
    return Recipe(method, batch=batch)
