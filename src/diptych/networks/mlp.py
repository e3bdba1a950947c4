"""Plain layers for points instead of images: generator, critic and denoiser of mode-coverage experiments."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diptych.networks.embedding import Sinusoids
from diptych.networks.equalized import full_precision
from diptych.networks.spectral import spectral
from diptych.saveable import saveable

Shape = tuple[int, int, int]


@saveable
class MLPGenerator(nn.Module):
    """From latents (B, latent) to points (B, C, H, W): `mapping` to one style, then `synthesis`."""

    mean: Tensor

    def __init__(self, image_shape: Shape = (2, 1, 1), *, latent: int = 8, width: int = 128) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, 0, 0
        self.latent, self.layers = latent, 1
        self.noise_shapes: list[Shape] = []
        self.register_buffer("mean", torch.zeros(width))
        self.enter = nn.Sequential(nn.Linear(latent, width), nn.ReLU())
        self.leave = stack(width, math.prod(image_shape))

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Styles (B, 1, width)."""
        return self.enter(z)[:, None]  # type: ignore[no-any-return]

    def synthesis(self, styles: Tensor, noise: object = "const") -> Tensor:
        """Points of styles (B, 1, width)."""
        return self.leave(styles[:, 0]).unflatten(1, self.image_shape)  # type: ignore[no-any-return]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent)."""
        return self.synthesis(self.mapping(z))


@saveable
class MLPCritic(nn.Module):
    """From points (B, C, H, W) to logits (B,). spectrally: with spectral normalisation of each layer."""

    def __init__(self, image_shape: Shape = (2, 1, 1), *, width: int = 128, spectrally: bool = False) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(math.prod(image_shape), width), nn.LeakyReLU(0.2))
        self.leave = stack(width, 1, slope=0.2)
        for layer in [*self.enter, *self.leave]:
            spectral(layer, spectrally and isinstance(layer, nn.Linear))

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the point on."""
        return [self.enter, self.leave]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W)."""
        with full_precision(image):
            return self.leave(self.enter(image.flatten(1))).squeeze(1)  # type: ignore[no-any-return]


@saveable
class MLPDenoiser(nn.Module):
    """Reads points (B, C, H, W) and a noise level; returns points."""

    def __init__(self, image_shape: Shape = (2, 1, 1), *, width: int = 128) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, 0, 0
        self.level = nn.Sequential(Sinusoids(32), nn.Linear(32, width))
        self.enter = nn.Linear(math.prod(image_shape), width)
        self.leave = nn.Sequential(nn.SiLU(), stack(width, math.prod(image_shape)))

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """level (B,) or (1,), as the denoiser around it tells it."""
        told = self.level(100 * level)  # EDM's log(sigma) / 4 moves by about 3: sinusoids want more
        return self.leave(self.enter(x.flatten(1)) + told).unflatten(1, self.image_shape)  # type: ignore[no-any-return]


def stack(width: int, out: int, slope: float = 0.0) -> nn.Sequential:
    """Two hidden layers and one that answers."""
    return nn.Sequential(
        nn.Linear(width, width),
        nn.LeakyReLU(slope),
        nn.Linear(width, width),
        nn.LeakyReLU(slope),
        nn.Linear(width, out),
    )
