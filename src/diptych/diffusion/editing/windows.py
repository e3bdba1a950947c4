"""Canvases larger than a denoiser's images: overlapping windows of its own size, whose clean images are
averaged (MultiDiffusion, Bar-Tal et al., 2023, arXiv:2302.08113), less towards the windows' edges."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser, Wrapper
from diptych.diffusion.editing.edit import diffusion_of
from diptych.diffusion.guidance import Guide, Strength
from diptych.diffusion.model import DiffusionModel
from diptych.errors import WrongUse
from diptych.model import Condition, Model
from diptych.saveable import rebuilt, saveable

See = Callable[[Tensor, Tensor, Condition], tuple[Tensor, ...]]


@saveable
class Windows(Wrapper):
    """A denoiser of (C, height, width), made of one of smaller images.

    overlap: the share of a window that the next one sees too, 0 to below 1. One window alone is the
    denoiser itself.
    """

    shares: Tensor  # (windows, 1, h, w), what each says of its pixels; over the canvas they add up to 1

    def __init__(self, denoiser: Denoiser, height: int, width: int, overlap: float = 0.5) -> None:
        super().__init__(denoiser)
        channels, *sides = denoiser.image_shape
        if not 0 <= overlap < 1:
            raise WrongUse(f"overlap {overlap} is out of range", "0 to below 1; 0.5 is a good choice")
        if height < sides[0] or width < sides[1]:
            raise WrongUse(
                f"a canvas of {height}x{width} is smaller than the model's images, {sides[0]}x{sides[1]}"
            )
        self.image_shape = (channels, height, width)
        rows, columns = (places(n, m, overlap) for n, m in zip((height, width), sides, strict=True))
        self.corners = [(top, left) for top in rows for left in columns]
        weight = hann(sides[0])[:, None] * hann(sides[1])
        total = torch.zeros(height, width, dtype=torch.float64)
        for spot in map(self.spot, self.corners):
            total[spot[2:]] += weight
        shares = torch.stack([weight / total[self.spot(corner)[2:]] for corner in self.corners])
        self.register_buffer("shares", shares[:, None].float(), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, height, width), sigma (B,) or (1,)."""
        return self._merged(self._clean, x, sigma, condition)[0]

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The clean image and the learned variance, both averaged."""
        clean, fraction = self._merged(self.denoiser.moments, x, sigma, condition)
        return clean, fraction

    def spot(self, corner: tuple[int, int]) -> tuple[slice, slice, slice, slice]:
        """The window with this corner, as an index into a batch."""
        _, height, width = self.denoiser.image_shape
        top, left = corner
        return slice(None), slice(None), slice(top, top + height), slice(left, left + width)

    def _clean(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor]:
        return (self.denoiser(x, sigma, condition),)

    def _merged(self, see: See, x: Tensor, sigma: Tensor, condition: Condition) -> list[Tensor]:
        """The windows as batches of at most AT_ONCE of each image, then their weighted sum."""
        merged: list[Tensor] = []
        for first in range(0, len(self.corners), AT_ONCE):
            spots = [self.spot(corner) for corner in self.corners[first : first + AT_ONCE]]
            n = len(spots)
            told = Condition(label=None if condition.label is None else torch.cat([condition.label] * n))
            level = sigma if sigma.shape[0] == 1 else sigma.repeat(n)
            for i, found in enumerate(see(torch.cat([x[spot] for spot in spots]), level, told)):
                if len(merged) <= i:
                    merged.append(torch.zeros_like(x))
                seen = found.reshape(n, x.shape[0], *found.shape[1:])
                weighed = seen * self.shares[first : first + n, None]
                for spot, part in zip(spots, weighed, strict=True):
                    merged[i][spot] += part
        return merged


AT_ONCE = 16


@saveable
class WindowsGuide(Guide):
    """A guide that leads each window, for what it leads with knows no larger images either."""

    def __init__(self, guide: Guide) -> None:
        super().__init__()
        self.guide, self.neutral = guide, guide.neutral
        self.composes, self.needs_label = guide.composes, guide.needs_label

    def around(self, denoiser: Denoiser, strength: Strength) -> Denoiser:
        """The same windows around the denoiser, led."""
        if not isinstance(denoiser, Windows):
            raise TypeError("WindowsGuide leads Windows")
        led: Windows = rebuilt(denoiser, denoiser=self.guide.around(denoiser.denoiser, strength))
        return led.to(denoiser.shares.device)


def wide(model: Model, height: int, width: int, overlap: float = 0.5) -> DiffusionModel:
    """The model on a larger canvas: panoramas from noise, and a model for every other edit.

    Has the model's options and guide; a model of that size already is returned as it is.
    """
    small = diffusion_of(model)
    if (height, width) == small.image_shape[1:]:
        return small
    guide = None if small.guide is None else WindowsGuide(small.guide)
    windows = Windows(small.denoiser, height, width, overlap)
    found = DiffusionModel(windows, small.options, guide).train(small.training)
    return found.to(small.device)


def places(canvas: int, window: int, overlap: float) -> list[int]:
    """Where windows begin, evenly, at most (1 - overlap) of a window apart.

    >>> places(20, 8, 0.5)
    [0, 4, 8, 12]
    """
    stride = max(1, int(window * (1 - overlap)))
    gaps = math.ceil((canvas - window) / stride)
    return [round(i * (canvas - window) / max(1, gaps)) for i in range(gaps + 1)]


def hann(n: int) -> Tensor:
    """sin^2 at the middles of n pixels, never 0."""
    return ((torch.arange(n, dtype=torch.float64) + 0.5) * (math.pi / n)).sin().square()
