"""A generator network seen as a Model: one call, one image; and where an image lies in latent space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from diptych.adversarial.standing import Standings
from diptych.adversarial.truncated import LARGEST, truncated_normal
from diptych.errors import WrongUse
from diptych.model import Condition, Model, Noise, takes_after
from diptych.saveable import rebuilt, saveable


class GeneratorModel(Model):
    """A Model with a latent space: an image is `render(latents(noise, condition), condition, noise)`.

    Latents are (B, L, D): one vector (L = 1), or one style for each layer.
    units: changes continuous labels from the user's units to the network's, and knows their names.
    """

    network: Any  # an nn.Module with more attributes than one has
    counts: tuple[int, ...] = ()  # training images of each class, where batch norms are to know

    def __init__(self, network: nn.Module, options: Any, units: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.options, self.units = network, options, units
        self.standings = Standings()
        takes_after(self, network)
        if units is not None:
            takes_after(self, units)

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        return self.render(self.latents(noise, condition), condition, noise)

    def using(self, **changes: Any) -> Self:
        """The same weights with other options; batch norms that follow a threshold, with its statistics.

        It makes some images for those, once for the same threshold; see `Standings`.
        """
        twin = super().using(**changes)
        network = self.standings.network(self, twin.options)
        if network is not self.network:
            twin = rebuilt(twin, network=network)
        twin.standings = self.standings
        return twin

    @abstractmethod
    def latents(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Points of latent space (B, L, D), truncated as the options say."""

    @abstractmethod
    def render(
        self, latents: Tensor, condition: Condition = Condition(), noise: Noise | None = None
    ) -> Tensor:
        """Images of points in latent space. noise: for what is drawn beside them; without it, none is."""

    def equivariance(
        self, n: int, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> Mapping[str, Tensor]:
        """As `transform_errors` has them."""
        from diptych.adversarial.equivariance import transform_errors

        return transform_errors(self, n, seed=seed, device=device)

    def heard(self, condition: Condition) -> Tensor | None:
        """The label as networks are told it."""
        label = condition.label
        return label if self.units is None or label is None else self.units(label)


@saveable
@dataclass(frozen=True)
class LatentOptions:
    """How latents are drawn."""

    truncation: float = 1.0  # standard deviation of the latents: less is safer and less diverse
    threshold: float = 0.0  # BigGAN's truncation: latents are drawn within it, before they are scaled; 0: all

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 2:
            raise WrongUse(
                f"truncation must lie in 0..2, not {self.truncation}", "0.7, say: less is safer, less diverse"
            )
        if self.threshold and not 0.01 <= self.threshold <= LARGEST:
            raise WrongUse(
                f"threshold must be 0 or lie in 0.01..{LARGEST:g}, not {self.threshold}",
                "0.5, say: less is safer and less diverse; 0 cuts nothing off",
            )


@saveable
class LatentModel(GeneratorModel):
    """A network that maps a latent vector, and a label where there are labels, to an image.

    The network has `latent`, `image_shape`, `classes`, and is called as network(z, label) with z (B, latent).
    It says that it `normalises` where it brings each z to one length, and that its `norms_follow` where batch
    norms are to have other statistics for each threshold. counts: how many images of each class it learned
    from, so that standing statistics are those of the mixture that its batch norms met.
    """

    def __init__(
        self,
        network: nn.Module,
        options: LatentOptions = LatentOptions(),
        units: nn.Module | None = None,
        counts: tuple[int, ...] = (),
    ) -> None:
        super().__init__(network, options, units)
        if counts and len(counts) != self.classes:
            raise WrongUse(f"there are {len(counts)} counts for {self.classes} classes")
        self.counts = counts
        if getattr(network, "normalises", False) and (options.truncation != 1 or options.threshold):
            raise WrongUse(
                f"{type(network).__name__} brings each latent to one length, so truncation and threshold do "
                "nothing to it",
                "stylegan2 and stylegan3 truncate styles; sngan, biggan and r3gan truncate latents",
            )

    def latents(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Normal vectors (B, 1, latent), or truncated normal ones."""
        z = noise.normal(self.network.latent)[:, None]
        if self.options.threshold:
            z = truncated_normal(z, self.options.threshold)
        return z * self.options.truncation  # type: ignore[no-any-return]

    def render(
        self, latents: Tensor, condition: Condition = Condition(), noise: Noise | None = None
    ) -> Tensor:
        """latents (B, 1, latent)."""
        return self.network(latents[:, 0], self.heard(condition))  # type: ignore[no-any-return]
