"""Inpainting: what is unknown of an image, given the rest (RePaint, Lugmayr et al., 2022,
arXiv:2201.09865)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser
from diptych.diffusion.editing.edit import Edit, label_only, start
from diptych.diffusion.editing.inverse import METHODS, solve
from diptych.diffusion.editing.operators import Masked
from diptych.diffusion.model import DiffusionModel
from diptych.errors import WrongUse, did_you_mean
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


@saveable
@dataclass(frozen=True)
class InpaintOptions:
    """How the known part enters."""

    method: str = (
        "repaint"  # or "ddnm", ten times cheaper, "pigdm" or "dps": see diptych.diffusion.editing.inverse
    )
    resamplings: int = 10  # of each stretch of noise levels; 1: the known part is put in place, no more
    jump: int = 0  # steps a stretch; 0: a twenty-fifth of all, as in the paper

    def __post_init__(self) -> None:
        known = ["repaint", *METHODS]
        if self.method not in known:
            raise WrongUse(
                f"there is no way to inpaint called {self.method}", did_you_mean(self.method, known)
            )
        if self.resamplings < 1 or self.jump < 0:
            raise WrongUse(
                f"resamplings {self.resamplings} and jump {self.jump} are not possible",
                "at least 1 resampling, and a jump of at least 1 step (0: chosen)",
            )
        if self.method != "repaint" and (self.resamplings, self.jump) != (10, 0):
            raise WrongUse(
                f"resamplings and jump are of repaint: {self.method} looks at each noise level once",
                "leave them out, or take repaint",
            )

    def check(self, steps: int) -> None:
        """Raises WrongUse where a model of so many steps would resample nothing."""
        if self.resamplings > 1 and self.jump >= steps:
            raise WrongUse(
                f"with {steps} steps and a jump of {self.jump} nothing is looked at again",
                "a smaller jump, more steps, or 1 resampling",
            )


@saveable
class Inpaint(Edit):
    """Keeps an image's pixels where the mask is 1 and makes the others anew.

    Wants the image (B, C, H, W) in [-1, 1] and the mask (B, 1, H, W). Kept pixels come out as they went in.
    """

    needs = frozenset({"image", "mask"})

    def __init__(self, model: Model, options: InpaintOptions = InpaintOptions()) -> None:
        super().__init__(model, options)
        options.check(len(self.model.sigmas) - 1)

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        image, keep = self.read(condition, "image", self.image_shape), self.kept(condition)
        return inpainted(self.model, image, keep, noise, label_only(condition), self.options)


def inpainted(
    model: DiffusionModel, image: Tensor, keep: Tensor, noise: Noise, told: Condition, options: InpaintOptions
) -> Tensor:
    """The image with what is not kept, bool (B, 1, H, W), made anew."""
    denoiser = model.guided()
    if options.method != "repaint":
        seen = Masked(model.image_shape, keep)
        found = solve(model, denoiser, seen, seen(image), noise, told, options.method)
        return torch.where(keep, image, found)
    jump = options.jump or max(1, round((len(model.sigmas) - 1) / 25))
    return repaint(model, denoiser, image, keep, noise, told, options.resamplings, jump)


def repaint(
    model: DiffusionModel,
    denoiser: Denoiser,
    image: Tensor,
    keep: Tensor,
    noise: Noise,
    told: Condition,
    resamplings: int,
    jump: int,
) -> Tensor:
    """RePaint around any sampler's step (algorithm 1, with jumps as in appendix B).

    Going back up from the level s to t adds noise of the variance t^2 - s^2: no schedule enters.
    """
    sigmas = model.sigmas
    x = torch.where(keep, image, 0.0) + sigmas[0] * start(noise, denoiser)
    for first, last, turns in stretches(len(sigmas) - 1, jump, resamplings):
        for turn in range(turns):
            if turn:
                up = math.sqrt(sigmas[first] ** 2 - sigmas[last] ** 2)
                x = x + up * noise.normal(*denoiser.image_shape)
            for i in range(first, last):
                x = model.walk(x, sigmas[i : i + 2], noise, told, denoiser)
                known = image
                if sigmas[i + 1] > 0:
                    known = image + sigmas[i + 1] * noise.normal(*denoiser.image_shape)
                x = torch.where(keep, known, x)
    return torch.where(keep, image, x)


def stretches(steps: int, jump: int, resamplings: int) -> Iterator[tuple[int, int, int]]:
    """Where each stretch of `jump` steps begins and ends, and how often it is walked.

    Counted from the clean end; the first, in nothing but noise, is walked once.

    >>> list(stretches(5, 2, 3))
    [(0, 1, 1), (1, 3, 3), (3, 5, 3)]
    """
    ends = range(steps, 0, -jump)
    for last in reversed(ends):
        first = max(0, last - jump)
        yield first, last, 1 if first == 0 else resamplings
