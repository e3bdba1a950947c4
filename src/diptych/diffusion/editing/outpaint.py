"""Outpainting: an image on a larger canvas, the rest made to go with it: inpainting through windows."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.diffusion.editing.edit import Edit, label_only
from diptych.diffusion.editing.inpaint import InpaintOptions, inpainted
from diptych.diffusion.editing.windows import wide
from diptych.errors import WrongUse, dimensions
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


@saveable
class Outpaint(Edit):
    """A canvas of height x width around an image whose upper left corner lies at (top, left).

    Wants the image (B, C, h, w) in [-1, 1], of any size that fits on the canvas. The model's own images must
    fit too.
    """

    needs = frozenset({"image"})

    def __init__(
        self,
        model: Model,
        height: int,
        width: int,
        *,
        top: int = 0,
        left: int = 0,
        overlap: float = 0.5,
        options: InpaintOptions = InpaintOptions(),
    ) -> None:
        super().__init__(wide(model, height, width, overlap), options)
        options.check(len(self.model.sigmas) - 1)
        self.top, self.left = top, left

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Canvases (B, C, height, width) in about [-1, 1]."""
        channels, height, width = self.image_shape
        given = condition.image
        if given is None:
            raise WrongUse("Outpaint needs 'image' as a condition")
        h, w = given.shape[2:]
        fits = 0 <= self.top <= height - h and 0 <= self.left <= width - w
        if given.shape[1] != channels or not fits:
            raise WrongUse(
                f"an image of {dimensions(given.shape[1:])} at ({self.top}, {self.left}) does not lie "
                f"on a canvas of {dimensions(self.image_shape)}"
            )
        image = given.new_zeros(given.shape[0], *self.image_shape)
        keep = torch.zeros(given.shape[0], 1, height, width, dtype=torch.bool, device=given.device)
        spot = (..., slice(self.top, self.top + h), slice(self.left, self.left + w))
        image[spot], keep[spot] = given, True
        return inpainted(self.model, image, keep, noise, label_only(condition), self.options)
