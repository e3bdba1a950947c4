"""A denoiser that knows the answer: E[x_0 | x] where images are a Gaussian, and what follows from it."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.schedules import VE, Schedule
from diptych.model import Condition, Noise


class Gaussian(Denoiser):
    """Images of mean `mean` (D,) and covariance `covariance` (D, D); with labels, that of label k is k."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        mean: Tensor,
        covariance: Tensor,
        classes: int = 0,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.schedule = shape, classes, schedule or VE()
        values, vectors = torch.linalg.eigh(covariance.double())
        self.mean = mean.float()
        self.values, self.vectors = values.clamp_min(0).float(), vectors.float()

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        mean = self.mean
        if condition.label is not None:
            mean = torch.where(condition.label < self.classes, condition.label, 0).float()[:, None]
        level = sigma.view(-1, 1).square()
        along = (x.flatten(1) - mean) @ self.vectors * (self.values / (self.values + level))
        return (mean + along @ self.vectors.T).view_as(x)


class LabelledMean(Gaussian):
    """White noise around a grey: the label's number."""

    def __init__(self, shape: tuple[int, int, int], classes: int, variance: float = 0.01) -> None:
        n = shape[0] * shape[1] * shape[2]
        super().__init__(shape, torch.zeros(n), variance * torch.eye(n), classes)


def correlated(height: int, width: int, length: float = 2.0, variance: float = 0.25) -> Tensor:
    """variance exp(-distance / length) between pixels: stationary, (H W, H W)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()], 1).double()
    return variance * (-torch.cdist(place, place) / length).exp()


def conditional(
    mean: Tensor, covariance: Tensor, A: Tensor, y: Tensor, noise: float
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given y = A x + noise z, in float64."""
    mean, covariance, A = mean.double(), covariance.double(), A.double()
    innovation = A @ covariance @ A.T + (noise**2 + 1e-10) * torch.eye(len(A), dtype=torch.float64)
    gain = torch.linalg.solve(innovation, A @ covariance).T
    return mean + gain @ (y.double() - A @ mean), covariance - gain @ A @ covariance


def many(n: int, seed: int = 0) -> Noise:
    """Noise for n images from one stream: quicker than a stream an image."""
    noise, stream = Noise(()), torch.Generator().manual_seed(seed)
    noise._draw = lambda shape: torch.randn(n, *shape, generator=stream)
    return noise


def model_of(denoiser: Denoiser, **options: object) -> DiffusionModel:
    """Behind Euler's method on 50 steps, unless told otherwise."""
    return DiffusionModel(denoiser, DiffusionOptions(**{"steps": 50, "sampler": "euler", **options}))  # type: ignore[arg-type]
