"""LatentModel: a generator network seen as a Model. One call, one image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


@saveable
@dataclass(frozen=True)
class LatentOptions:
    """How latents are drawn."""

    truncation: float = 1.0  # standard deviation of the latents: less is safer and less diverse

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 2:
            raise WrongUse(f"truncation must lie in 0..2, not {self.truncation}")


@saveable
class LatentModel(Model):
    """A network that maps a latent vector, and a label where there are classes, to an image.

    The network has `latent`, `image_shape`, `classes`, and is called as network(z, label) with z (B, latent).
    """

    def __init__(self, network: nn.Module, options: LatentOptions = LatentOptions()) -> None:
        super().__init__()
        self.network, self.options = network, options
        self.image_shape, self.classes = network.image_shape, network.classes  # type: ignore[assignment]

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        z = noise.normal(self.network.latent) * self.options.truncation  # type: ignore[arg-type]
        return self.network(z, condition.label)  # type: ignore[no-any-return]
