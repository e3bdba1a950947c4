"""EDM: weighted denoising over log-normal noise levels (Karras et al., 2022, arXiv:2206.00364)."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.data.images import Images
from diptych.diffusion.denoiser import EDMDenoiser, without_labels
from diptych.diffusion.model import DiffusionOptions
from diptych.method import Batch, Clock, Loss
from diptych.methods.denoising import DenoiserMethod, by_size, unet_for
from diptych.recipe import Recipe, recipe


class EDM(DenoiserMethod):
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
        super().__init__(denoiser, lr, options)
        self.sigma_data, self.label_dropout = denoiser.sigma_data, label_dropout
        self.P_mean, self.P_std = P_mean, P_std

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
