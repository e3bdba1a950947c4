"""What a sampler sees of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser, one_level
from diptych.model import RECORDING, Condition


@dataclass(frozen=True)
class Sight:
    """A denoiser under a condition, as samplers call it."""

    denoiser: Denoiser
    condition: Condition

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Clean images (B, C, H, W)."""
        return self.denoiser(x, self.level(x, sigma), self.condition)  # type: ignore[no-any-return]

    def towards(self, x: Tensor, sigma: float, kept: float) -> Tensor:
        """kept x + (1 - kept) D(x)."""
        return self.denoiser.towards(x, self.level(x, sigma), self.condition, kept)

    def moments(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Clean images and the learned variances, 0 to 1."""
        return self.denoiser.moments(x, self.level(x, sigma), self.condition)

    def level(self, x: Tensor, sigma: float) -> Tensor:
        """The noise level as (1,), on the images' device."""
        traced = torch.compiler.is_compiling() or type(x) is not Tensor
        if traced or RECORDING.get():  # a graph holds its constants itself
            return torch.full((1,), sigma, device=x.device, dtype=x.dtype)
        return one_level(sigma, x.device, x.dtype)
