"""DiffusionModel: a denoiser, a sampler and a number of steps, seen as a Model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser, Guided
from diptych.diffusion.samplers import GRIDS, SAMPLERS
from diptych.errors import WrongUse, did_you_mean
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


@saveable
@dataclass(frozen=True)
class DiffusionOptions:
    """How a denoiser is turned into images."""

    steps: int = 18
    sampler: str = "heun"
    guidance: float = 1.0  # 1: the conditional density itself; more: classifier-free guidance
    grid: str = "karras"
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise WrongUse(f"steps must be at least 1, not {self.steps}")
        if self.sampler not in SAMPLERS:
            raise WrongUse(
                f"there is no sampler called {self.sampler}", did_you_mean(self.sampler, list(SAMPLERS))
            )
        if self.grid not in GRIDS:
            raise WrongUse(f"there is no grid called {self.grid}", did_you_mean(self.grid, list(GRIDS)))
        if not 0 < self.sigma_min < self.sigma_max:
            raise WrongUse(f"sigma_min {self.sigma_min} must lie between 0 and sigma_max {self.sigma_max}")


@saveable
class DiffusionModel(Model):
    """Starts from noise of the highest level and lets a sampler walk a denoiser down to a clean image."""

    def __init__(self, denoiser: Denoiser, options: DiffusionOptions = DiffusionOptions()) -> None:
        super().__init__()
        self.denoiser, self.options = denoiser, options
        self.image_shape, self.classes = denoiser.image_shape, denoiser.classes
        if options.guidance != 1 and not self.classes:
            raise WrongUse("guidance needs a model that knows labels", "leave guidance at 1 for this model")

    def dial(self) -> Sequence[dict[str, int]]:
        """Quality is a curve over the number of steps."""
        few = self.options.sampler == "consistency"  # its quality is flat after a few jumps
        return [{"steps": steps} for steps in ((1, 2, 4) if few else (1, 2, 4, 8, 18, 35))]

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        options = self.options
        denoiser = self.denoiser if options.guidance == 1 else Guided(self.denoiser, options.guidance)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return denoiser(x, torch.full((1,), sigma, device=x.device), condition)  # type: ignore[no-any-return]

        sigmas = GRIDS[options.grid](options.steps, options.sigma_min, options.sigma_max)
        start = noise.normal(*self.image_shape).contiguous(memory_format=torch.channels_last)
        return SAMPLERS[options.sampler](denoise, sigmas[0] * start, sigmas, noise)
