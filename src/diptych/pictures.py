"""Pictures for people: sheets of samples as PNG files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from diptych.files import write


def sheet(images: Tensor, columns: int = 0, gap: int = 1, least: int = 32) -> Image.Image:
    """uint8 (N, C, H, W) as one picture, rows first; small images are enlarged to at least `least` pixels."""
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    zoom = max(1, math.ceil(least / height))
    tiles = images.permute(0, 2, 3, 1).numpy().repeat(zoom, 1).repeat(zoom, 2)
    rows, h, w = math.ceil(n / columns), height * zoom + gap, width * zoom + gap
    canvas = np.full((rows * h - gap, columns * w - gap, channels), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * h, i % columns * w
        canvas[y : y + h - gap, x : x + w - gap] = tile
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture atomically, in the format of its suffix (PNG where there is none)."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    write(path, lambda temporary: picture.save(temporary, format=kind))
