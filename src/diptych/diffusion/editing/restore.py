"""Restoring and steering by a measurement: super-resolution, deblurring, colouring, and colour guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from diptych.diffusion.editing.edit import Edit, label_only, start
from diptych.diffusion.editing.inverse import METHODS, Consistent, solve
from diptych.diffusion.editing.operators import Operator, Pooling
from diptych.errors import WrongUse, did_you_mean
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


@saveable
@dataclass(frozen=True)
class RestoreOptions:
    """How the measurement enters; see diptych.diffusion.editing.inverse."""

    method: str = "ddnm"  # cheapest; "pigdm" and "dps" take a gradient through the network at each step
    noise: float = 0.0  # deviation of the measurement's own noise, where white - black is 2; not for dps
    deviation: float = 0.5  # of images in [-1, 1], for pigdm
    scale: float = 1.0  # of dps: the length of its steps

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise WrongUse(
                f"there is no method called {self.method}", did_you_mean(self.method, list(METHODS))
            )
        inside = self.noise >= 0 and self.scale >= 0 and self.deviation > 0
        if not inside or not all(map(math.isfinite, (self.noise, self.scale, self.deviation))):
            raise WrongUse(
                f"noise {self.noise} and scale {self.scale} must not be negative, "
                f"deviation {self.deviation} must be positive, and all of them finite",
                "0, 1 and 0.5 are usual, for pixels from -1 to 1",
            )
        for of, name, usual in (("dps", "scale", 1.0), ("pigdm", "deviation", 0.5)):
            if self.method != of and getattr(self, name) != usual:
                raise WrongUse(
                    f"{name} is of {of}: it means nothing to {self.method}", f"leave it out, or take {of}"
                )
        if self.method == "dps" and self.noise:
            raise WrongUse(
                f"dps does not hear how noisy the measurement is: noise {self.noise:g} means nothing to it",
                "ddnm and pigdm do: take one of them, or leave it at 0",
            )


@saveable
class Restore(Edit):
    """Images that a linear operator turns into what was measured.

    Wants the measurement as the condition's image, (B, *operator.measured_shape) in [-1, 1].
    """

    needs = frozenset({"image"})

    def __init__(self, model: Model, operator: Operator, options: RestoreOptions = RestoreOptions()) -> None:
        super().__init__(model, options)
        if operator.image_shape != self.image_shape:
            raise WrongUse(
                f"the operator reads images {operator.image_shape}, the model makes {self.image_shape}"
            )
        self.operator = operator.to(self.model.device)

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        measured = self.read(condition, "image", self.operator.measured_shape)
        o, told = self.options, label_only(condition)
        return solve(
            self.model,
            self.model.guided(),
            self.operator,
            measured,
            noise,
            told,
            o.method,
            level=o.noise,
            deviation=o.deviation,
            scale=o.scale,
        )


@saveable
@dataclass(frozen=True)
class ColourOptions:
    """How coarse the colours are that are followed, and how far down."""

    cells: int = 4  # a grid of so many by so many mean colours; 1: one colour in the mean
    above: float = 0.0  # the noise level below which the image may drift from them

    def __post_init__(self) -> None:
        if self.cells < 1 or not 0 <= self.above < math.inf:
            raise WrongUse(
                f"cells {self.cells} must be at least 1, and above {self.above} finite and not negative",
                "4 and 0 are usual: above is a noise level",
            )


@saveable
class Colour(Edit):
    """New images with the coarse colours of a given one, as ILVR follows its low frequencies
    (Choi et al., 2021, arXiv:2108.02938): its low-pass filter is the mean over cells, in the clean image.

    Wants the image (B, C, H, W) in [-1, 1].
    """

    needs = frozenset({"image"})

    def __init__(self, model: Model, options: ColourOptions = ColourOptions()) -> None:
        super().__init__(model, options)
        _, height, width = self.image_shape
        pooled = Pooling(self.image_shape, min(options.cells, height), min(options.cells, width))
        self.operator = pooled.to(self.model.device)

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        colours = self.operator(self.read(condition, "image", self.image_shape))
        denoiser = Consistent(self.model.guided(), self.operator, colours, self.options.above)
        sigmas = self.model.sigmas
        return self.model.walk(
            sigmas[0] * start(noise, denoiser), sigmas, noise, label_only(condition), denoiser
        )
