"""StyleModel: a generator with a style for each layer seen as a Model (StyleGAN, Karras et al., 2018,
arXiv:1812.04948; 2020, arXiv:1912.04958; 2021, arXiv:2106.12423)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from torch import Tensor, nn

from diptych.adversarial.latent import GeneratorModel
from diptych.errors import WrongUse, did_you_mean
from diptych.model import Condition, Noise
from diptych.saveable import saveable

Inputs = Literal["const", "random", "none"]
TRUNCATION = "0.7, say: less is safer and less diverse; 1 is all"


@saveable
@dataclass(frozen=True)
class StyleOptions:
    """How styles are drawn."""

    truncation: float = 1.0  # psi: 0 is the mean image, 1 all of the diversity
    cutoff: int = 0  # so many layers, from the coarsest on, are truncated; 0: all
    noise: Inputs = "const"  # the noise inputs of layers: the same for all images, drawn by the seed, or none

    def __post_init__(self) -> None:
        if not -2 <= self.truncation <= 2:
            raise WrongUse(f"truncation must lie in -2..2, not {self.truncation}", TRUNCATION)
        if self.cutoff < 0:
            raise WrongUse(f"cutoff is a number of layers, at least 0, not {self.cutoff}", "0: all of them")
        if self.noise not in get_args(Inputs):
            kinds = list(get_args(Inputs))
            raise WrongUse(f"noise inputs cannot be {self.noise!r}", did_you_mean(self.noise, kinds))


@saveable
class StyleModel(GeneratorModel):
    """A network of two parts: `mapping(z, label) -> styles (B, L, D)` and `synthesis(styles, noise)`.

    It has `latent`, `image_shape`, `classes`, `layers` (L), the mean style `mean` (D,) or (L, D), and
    `noise_shapes`, one (1, h, w) for each noise input. synthesis takes noise as a sequence of tensors, one
    for each input, or "const" or "none".
    """

    def __init__(
        self,
        network: nn.Module,
        options: StyleOptions = StyleOptions(),
        units: nn.Module | None = None,
    ) -> None:
        super().__init__(network, options, units)
        if options.cutoff > (layers := self.network.layers):
            raise WrongUse(
                f"cutoff {options.cutoff} is beyond the {layers} layers that this model has",
                f"1 to {layers}, counted from the coarsest on; 0 truncates all",
            )
        if options.noise != "const" and not self.network.noise_shapes:
            raise WrongUse(
                f"{type(network).__name__} has no noise inputs, so noise cannot be {options.noise}",
                "stylegan2 has them",
            )

    def using(self, **changes: Any) -> Self:
        """The same weights with other options. Raises WrongUse for a cutoff where nothing is truncated."""
        twin = super().using(**changes)
        if changes.get("cutoff") and "truncation" not in changes and twin.options.truncation == 1:
            raise WrongUse("cutoff means nothing without a truncation", "--truncation 0.7, say")
        return twin

    def latents(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Styles (B, L, D), drawn towards the mean style by the truncation."""
        z = noise.normal(self.network.latent)
        styles = self.network.mapping(z, self.heard(condition))
        return self.truncated(styles)

    def truncated(self, styles: Tensor) -> Tensor:
        """mean + psi (w - mean) in the layers before the cutoff."""
        options = self.options
        if options.truncation == 1:
            return styles
        pulled = self.network.mean.lerp(styles, options.truncation)
        if not options.cutoff:
            return pulled  # type: ignore[no-any-return]
        kept = styles.new_ones(styles.shape[1], 1)
        kept[: options.cutoff] = 0
        return pulled.lerp(styles, kept)  # type: ignore[no-any-return]

    def render(
        self, latents: Tensor, condition: Condition = Condition(), noise: Noise | None = None
    ) -> Tensor:
        """latents (B, L, D)."""
        inputs: str | Sequence[Tensor] = self.options.noise
        if inputs == "random":
            inputs = [noise.normal(*shape) for shape in self.network.noise_shapes] if noise else "const"
        return self.network.synthesis(latents, inputs)  # type: ignore[no-any-return]

    def networks(self) -> Sequence[nn.Module]:
        """The two parts."""
        return (self.network.mapping, self.network.synthesis)
