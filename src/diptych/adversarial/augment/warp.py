"""Images moved by any affine map: doubled in size with a wavelet's filter, looked up, and halved with it.

Karras et al., 2020, arXiv:2006.06676, appendix B.1: lossless where images move by whole pixels, nearly free
of aliasing elsewhere. Flips and quarter turns lose some of the finest detail, as in its code, for the filter
is not symmetric. Images go on by reflection, for one size on each side; beyond lies 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.adversarial.augment.wavelets import SYM6, folded

PAD = 3  # pixels around the result that its halving looks at
CENTRE = 5  # the tap where the filter's weight lies
LARGEST = 2**26  # values of the doubled images that are made at once: 256 MiB


def warp(image: Tensor, inverse: Tensor) -> Tensor:
    """image (B, C, H, W); inverse (B, 3, 3) leads from where pixels go to where they come from, both counted
    in pixels from the image's centre, x to the right, y down. Differentiable twice in the image."""
    height, width = image.shape[2:]
    at_once = max(1, LARGEST // (image.shape[1] * 36 * height * width))
    if len(image) > at_once:  # nothing of a part is needed by the next, nor by the derivative
        parts = [slice(start, start + at_once) for start in range(0, len(image), at_once)]
        return torch.cat([warp(image[part], inverse[part]) for part in parts])
    device = image.device
    x, y = places(inverse, height, width)
    columns, rows = used(x, width), used(y, height)
    axes = [
        (2 * (index - span.start) + 1) / (span.stop - span.start) - 1
        for index, span in ((x, columns), (y, rows))
    ]
    large = (doubling(height, device)[rows] @ image) @ doubling(width, device)[columns].T
    seen: Tensor = Look.apply(large, torch.stack(axes, -1))  # type: ignore[no-untyped-call]
    return (halving(height, device) @ seen) @ halving(width, device).T


def places(inverse: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """In which columns and rows of the doubled source the doubled result's pixels lie.

    (B, 2 (H + 6), 2 (W + 6)) each; pixel i has the index 2 i when doubled, after the pixels of its padding.
    """
    device = inverse.device
    x, y = (torch.arange(-2 * PAD, 2 * (n + PAD), device=device) / 2 - (n - 1) / 2 for n in (width, height))
    a = inverse[:, :2, :, None, None]
    place = a[:, :, 0] * x + a[:, :, 1] * y[:, None] + a[:, :, 2]
    return 2 * place[:, 0] + 3 * (width - 1), 2 * place[:, 1] + 3 * (height - 1)


def used(index: Tensor, n: int) -> slice:
    """What of the doubled source is looked at. Other devices than the CPU are not waited for: all of it."""
    whole = 2 * (3 * n - 2)
    if index.device.type != "cpu":
        return slice(0, whole)
    first, last = (int(bound) for bound in index.aminmax())
    start = min(max(0, first - 1), whole - 2)
    return slice(start, max(start + 2, min(whole, last + 3)))


@lru_cache(maxsize=16)
def doubling(n: int, device: torch.device) -> Tensor:
    """(2 (3n - 2), n): n samples reflected on both sides and doubled."""
    index = np.arange(-(n - 1), 2 * n - 1)
    rows = 2 * np.arange(len(index))
    result = np.zeros((2 * len(index), n))
    for tap, weight in enumerate(SYM6 * 2**0.5):
        at = rows + tap - CENTRE
        inside = (at >= 0) & (at < len(result))
        np.add.at(result, (at[inside], folded(index, n)[inside]), weight)
    return constant(result, device)


@lru_cache(maxsize=16)
def halving(n: int, device: torch.device) -> Tensor:
    """(n, 2 (n + 6)): the doubled result to n samples; the adjoint of the doubling's filter."""
    result = np.zeros((n, 2 * (n + 2 * PAD)))
    for tap, weight in enumerate(SYM6 / 2**0.5):
        rows = np.arange(n)
        result[rows, 2 * (rows + PAD) + tap - CENTRE] = weight
    return constant(result, device)


def constant(values: Any, device: torch.device) -> Tensor:
    """float32 on a device, of use in training whatever mode it was made in."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


class Look(torch.autograd.Function):
    """Bilinear values of an image at a grid, 0 outside. torch has no second derivative of `grid_sample`; as
    a function of the image it is linear, so that the derivative is its transpose and all is known."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        """image (B, C, H, W), grid (B, h, w, 2)."""
        ctx.save_for_backward(grid)
        ctx.size = image.shape
        return F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The transpose; the grid is taken for a constant."""
        (grid,) = ctx.saved_tensors
        return Scatter.apply(gradient, grid, ctx.size), None  # type: ignore[no-untyped-call]


class Scatter(torch.autograd.Function):
    """The transpose of `Look`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        """values (B, C, h, w) to an image of this size."""
        ctx.save_for_backward(grid)
        if values.is_cuda and torch.are_deterministic_algorithms_enabled():
            return spread(values, grid, size)
        place = values.new_empty(size)
        backward = torch.ops.aten.grid_sampler_2d_backward
        found: Tensor = backward(values.contiguous(), place, grid, 0, 0, False, [True, False])[0]
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Look again."""
        (grid,) = ctx.saved_tensors
        return Look.apply(gradient, grid), None, None  # type: ignore[no-untyped-call]


def spread(values: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
    """The same as `Scatter`, by sums that torch can keep in order: its own adds as threads come.

    values (B, C, h, w), grid (B, h, w, 2); each value goes to the four pixels around its place, by nearness.
    """
    height, width = size[2:]
    x, y = ((grid[..., 0] + 1) * width - 1) / 2, ((grid[..., 1] + 1) * height - 1) / 2
    left, above = x.floor(), y.floor()
    image = values.new_zeros(*size[:2], height * width)
    for column, near_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, near_y in ((above, above + 1 - y), (above + 1, y - above)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            pixel = (row * width + column).where(inside, 0).long().flatten(1)[:, None]
            weight = (near_x * near_y * inside)[:, None]
            image.scatter_add_(2, pixel.expand(-1, size[1], -1), (values * weight).flatten(2))
    return image.view(size)
