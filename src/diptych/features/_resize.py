"""How published scores resize, to the digit: TensorFlow 1's bilinear grid and Pillow's bicubic in 8 bits.

Both are products with matrices that are kept per size, on the device that the images are on.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.features.extractor import to_rgb

Floats = npt.NDArray[np.float64]
BANDS = 8  # 8 to 24 are equally fast from 32 to 512 pixels, 3 to 5 times as fast as one
FIXED = 2.0**22  # Pillow's coefficients are integers of this many parts


def rgb(image: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) of uint8 (N, 1 | 3 | 4, H, W): grey repeated, transparency laid on white."""
    return image if image.shape[1] == 3 else ((to_rgb(image) + 1) * 127.5).round().to(torch.uint8)


def tf1_bilinear(image: Tensor, size: int) -> Tensor:
    """(N, C, size, size) float32 of float32 (N, C, H, W), as TensorFlow 1's `resize_bilinear` by default.

    Output pixel i lies at i * H / size (align_corners=False, half_pixel_centers=False), without antialiasing.
    """
    rows, columns = (_tf1_bands(length, size, str(image.device)) for length in image.shape[2:])
    image = torch.cat([image[..., place] @ band.T for place, band in columns], 3)
    return torch.cat([band @ image[..., place, :] for place, band in rows], 2)


@lru_cache(maxsize=32)
def _tf1_bands(length: int, size: int, device: str) -> list[tuple[slice, Tensor]]:
    """Bands of the (size, length) matrix, and the input pixels that each needs: elsewhere it is zero."""
    # the positions are rounded to float32 where TensorFlow rounds them
    place = np.arange(size, dtype=np.float32) * np.float32(length / size)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    part = place - low.astype(np.float32)
    matrix = np.zeros((size, length), np.float32)
    np.add.at(matrix, (np.arange(size), low), 1 - part)
    np.add.at(matrix, (np.arange(size), high), part)
    bands = []
    for rows in np.array_split(np.arange(size), BANDS):
        needed = slice(int(low[rows[0]]), int(high[rows[-1]]) + 1)
        bands.append((needed, torch.from_numpy(matrix[rows, needed].copy()).to(device)))
    return bands


def pillow_bicubic(image: Tensor, size: int) -> Tensor:
    """uint8 (N, C, size, size) of uint8 (N, C, H, W), the very levels of Pillow's `resize(..., BICUBIC)`.

    Antialiased where it shrinks; rounded to levels after each direction. Widths come first, as in the Pillow
    of the papers; since 13 it turns that round for some images that are not square.
    """
    # sums of 2^22 parts need 36 bits; MPS has no float64
    where = torch.device("cpu") if image.device.type == "mps" else image.device
    level = image.to(where, torch.float64)
    level = _levels(level @ _pillow_matrix(image.shape[3], size, str(where)).T)
    level = _levels(_pillow_matrix(image.shape[2], size, str(where)) @ level)
    return level.to(torch.uint8).to(image.device)


def _levels(parts: Tensor) -> Tensor:
    return ((parts + FIXED / 2) / FIXED).floor_().clamp_(0, 255)


@lru_cache(maxsize=32)
def _pillow_matrix(length: int, size: int, device: str) -> Tensor:
    """(size, length), whole numbers of 2^-22: Keys' cubic with a = -1/2, stretched where it shrinks."""
    scale = length / size
    stretch = max(scale, 1.0)
    matrix = np.zeros((size, length))
    for i in range(size):
        centre = (i + 0.5) * scale
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), length)
        weight = _cubic((np.arange(first, last, dtype=np.float64) - centre + 0.5) * (1 / stretch))
        matrix[i, first:last] = weight * (1 / sum(weight.tolist()))
    whole = np.trunc(matrix * FIXED + np.copysign(0.5, matrix))
    return torch.from_numpy(whole).to(device)


def _cubic(x: Floats, a: float = -0.5) -> Floats:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
