"""The one view of every diffusion network: a Denoiser says which clean image it sees in a noisy one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from diptych.model import Condition
from diptych.saveable import saveable


class Denoiser(nn.Module, ABC):
    """An estimate of E[x_0 | x] for x = x_0 + sigma * normal noise."""

    image_shape: tuple[int, int, int]
    classes: int

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); returns clean images (B, C, H, W)."""


@saveable
class EDMDenoiser(Denoiser):
    """A network behind EDM's preconditioning (Karras et al., 2022, arXiv:2206.00364, equation 7, table 1)."""

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data
        self.image_shape, self.classes = network.image_shape, network.classes  # type: ignore[assignment]

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); returns clean images (B, C, H, W)."""
        c_noise = sigma.log() / 4
        sigma, s = sigma.view(-1, 1, 1, 1), self.sigma_data
        c_skip = s**2 / (sigma**2 + s**2)
        c_out = sigma * s / (sigma**2 + s**2).sqrt()
        c_in = 1 / (sigma**2 + s**2).sqrt()
        F: Tensor = self.network(c_in * x, c_noise, condition.label)
        return c_skip * x + c_out * F.float()


@saveable
class Guided(Denoiser):
    """Classifier-free guidance: D(x) + scale (D(x, label) - D(x)) (Ho and Salimans, arXiv:2207.12598)."""

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        super().__init__()
        self.denoiser, self.scale = denoiser, scale
        self.image_shape, self.classes = denoiser.image_shape, denoiser.classes

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); both terms go through the network as one batch."""
        label = condition.label
        if label is None:
            return self.denoiser(x, sigma, condition)  # type: ignore[no-any-return]
        none = torch.full_like(label, self.classes)
        both = replace(condition, label=torch.cat([label, none]))
        sigma = sigma if sigma.shape[0] == 1 else torch.cat([sigma, sigma])
        found, n = self.denoiser(torch.cat([x, x]), sigma, both), x.shape[0]
        return torch.lerp(found[n:], found[:n], self.scale)


def without_labels(condition: Condition, classes: int, probability: float) -> Condition:
    """Forgets each image's label with this probability, so that one network learns both densities."""
    label = condition.label
    if label is None or probability == 0:
        return condition
    forgotten = torch.rand(label.shape, device=label.device) < probability
    return replace(condition, label=label.masked_fill(forgotten, classes))
