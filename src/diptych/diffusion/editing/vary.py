"""Image to image and stroke guidance: some noise on an image, and down again (SDEdit, Meng et al., 2021,
arXiv:2108.01073)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser
from diptych.diffusion.editing.edit import Edit, label_only, start
from diptych.diffusion.editing.inverse import Consistent
from diptych.diffusion.editing.operators import Masked
from diptych.errors import WrongUse
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


@saveable
@dataclass(frozen=True)
class VaryOptions:
    """How far an image is left."""

    strength: float = 0.5  # share of the steps that are done; 0: the image itself, 1: it is forgotten

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise WrongUse(
                f"strength {self.strength} is out of range", "0, the image itself, to 1, a new one"
            )


@saveable
class Vary(Edit):
    """Images near a given one, or that follow a painted one.

    Wants the image (B, C, H, W) in [-1, 1]; takes a mask (B, 1, H, W), 1 where pixels are kept as they are.
    """

    needs, takes = frozenset({"image"}), frozenset({"mask"})

    def __init__(self, model: Model, options: VaryOptions = VaryOptions()) -> None:
        super().__init__(model, options)
        self.levels()  # raises where there is no such share of the steps

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        image = self.read(condition, "image", self.image_shape)
        sigmas, denoiser = self.levels(), self.model.guided()
        if len(sigmas) < 2:
            return image
        forgotten = self.options.strength == 1  # then the start is that of sampling, to the bit
        x = sigmas[0] * start(noise, denoiser)
        x = x if forgotten else image + x
        if condition.mask is None:
            return self.model.walk(x, sigmas, noise, label_only(condition), denoiser)
        keep = self.kept(condition)
        seen = Masked(self.image_shape, keep)
        led: Denoiser = Consistent(denoiser, seen, seen(image))
        return torch.where(keep, image, self.model.walk(x, sigmas, noise, label_only(condition), led))

    def levels(self) -> tuple[float, ...]:
        """The last of the model's noise levels, as many as the strength asks for.

        Between 0 and 1 neither none nor all of the steps are done. Raises WrongUse where there is but one.
        """
        sigmas, strength = tuple(self.model.sigmas), self.options.strength
        steps = len(sigmas) - 1
        if strength in (0, 1):
            return sigmas[-1:] if strength == 0 else sigmas
        if steps == 1:
            raise WrongUse(
                f"strength {strength:g} of 1 step is none or all of it: the image itself, or a new one",
                "more steps: --steps 4, say",
            )
        done = min(max(1, round(strength * steps)), steps - 1)
        return sigmas[steps - done :]
