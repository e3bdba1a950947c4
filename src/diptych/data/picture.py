"""One picture, mask or map at a time, from a file or a tensor, in the shape that a model needs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.decode import (
    Channels,
    Fit,
    Policy,
    Unreadable,
    fitted,
    open_image,
    recolour,
    strict_pillow,
)
from diptych.data.images import UInt8
from diptych.errors import DataError, WrongUse

__all__ = ["Fit", "Source", "areas", "picture", "read", "selection"]

Source = str | Path | Tensor  # a file, or uint8 (C, H, W)
GREY = {1: "grey", 3: "RGB", 4: "RGBA"}


def picture(source: Source, shape: tuple[int, ...], fit: Fit | None = None, hint: str = "") -> Tensor:
    """uint8 (C, H, W) in exactly this shape.

    Raises WrongUse for another size or more colours, unless `fit` says how to bring it there; hint: what a
    caller knows to be the likelier remedy for another size.
    """
    channels, height, width = shape
    pixels = _pixels(source)
    name = source if isinstance(source, str | Path) else "the image"
    if pixels.shape[:2] != (height, width):
        pixels = _resized(pixels, (height, width), fit, name, hint)
    if pixels.shape[2] > channels and fit is None:
        raise WrongUse(
            f"{name} is {GREY.get(pixels.shape[2], 'odd')}, but {GREY[channels]} is needed",
            "fit (--fit crop) converts it",
        )
    return _tensor(recolour(pixels, cast(Channels, channels)))


def read(source: Source, channels: int) -> Tensor:
    """uint8 (C, H, W), of its own size, in this many channels."""
    return _tensor(recolour(_pixels(source), cast(Channels, channels)))


def selection(source: Source, size: tuple[int, ...], fit: Fit | None = None) -> Tensor:
    """A mask as bool (1, H, W): whether a pixel is nearer to white than to black. Tensors may be bool."""
    if isinstance(source, Tensor) and source.dtype == torch.bool:
        source = source.to(torch.uint8) * 255
    if isinstance(source, Tensor) and source.ndim == 2:
        source = source[None]
    pixels = recolour(_pixels(source), 1)
    name = source if isinstance(source, str | Path) else "the mask"
    if pixels.shape[:2] != tuple(size):
        pixels = _resized(pixels, (size[0], size[1]), fit, name)
    chosen = _tensor(pixels) >= 128
    if not chosen.any():
        raise WrongUse(f"{name} is black all over", "white is where the image is made anew")
    return chosen


def areas(source: Source, size: tuple[int, ...], n: int) -> Tensor:
    """A map as float (n, H, W) of 0 and 1: one area for each of its n greys, dark to light."""
    pixels = recolour(_pixels(source), 1)[..., 0]
    name = source if isinstance(source, str | Path) else "the map"
    if pixels.shape != tuple(size):
        raise WrongUse(
            f"{name} is {pixels.shape[0]}x{pixels.shape[1]}, but {size[0]}x{size[1]} is needed",
            "a map is drawn in the images' own pixels",
        )
    greys = np.unique(pixels)
    if len(greys) != n:
        raise WrongUse(
            f"{name} has {len(greys)} greys, but there are {n} labels",
            "one flat grey an area, saved as PNG: JPEG and soft edges add greys of their own",
        )
    return torch.from_numpy(np.stack([pixels == grey for grey in greys])).float()


def _pixels(source: Source) -> UInt8:
    """(H, W, C), C = 1, 3 or 4."""
    if isinstance(source, Tensor):
        if source.dtype != torch.uint8 or source.ndim != 3 or source.shape[0] not in GREY:
            shape = tuple(source.shape)
            raise WrongUse(f"an image is uint8 (C, H, W), C 1, 3 or 4, not {source.dtype} {shape}")
        return source.permute(1, 2, 0).cpu().numpy()
    path = Path(source)
    try:
        with strict_pillow():
            pixels = np.asarray(open_image(path.read_bytes()).image)
    except Unreadable as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except OSError as error:
        hint = "" if path.exists() else "there is no file of this name"
        raise DataError(f"{path} cannot be read: {error.strerror}", hint) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _resized(pixels: UInt8, size: tuple[int, int], fit: Fit | None, name: object, hint: str = "") -> UInt8:
    height, width = size
    if fit is None:
        raise WrongUse(
            f"{name} is {pixels.shape[0]}x{pixels.shape[1]}, but {height}x{width} is needed",
            hint or "fit (--fit crop, pad or stretch) brings it there",
        )
    if height == width and fit != "stretch":
        return fitted(pixels, Policy(height, fit))
    if fit == "stretch":
        flat = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return np.asarray(flat.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
    raise WrongUse(f"{fit} brings images to a square, but {height}x{width} is needed", "stretch does not")


def _tensor(pixels: UInt8) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # Pillow's pixels are read-only
