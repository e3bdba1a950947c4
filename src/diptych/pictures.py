"""Pictures for people: sheets of samples as PNG files, sequences of them as GIF, WebP or MP4."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from diptych.errors import WrongUse
from diptych.system.files import write

MOVING = (".gif", ".webp", ".mp4")


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


def stacked(sheets: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Sheets of one width and mode below each other."""
    rows = [np.asarray(one) for one in sheets]
    white = np.full((gap, *rows[0].shape[1:]), 255, np.uint8)
    parts = [part for row in rows for part in (white, row)]
    return Image.fromarray(np.concatenate(parts[1:]))


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture atomically, in the format of its suffix (PNG where there is none); a JPEG on white."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    shown = _on_white(picture) if kind == "JPEG" else picture  # which knows no transparency
    write(path, lambda temporary: shown.save(temporary, format=kind))


def check_moving(path: Path, fps: float) -> None:
    """Raises WrongUse where `save_moving` could not write such a file: before the frames are drawn."""
    suffix = path.suffix.lower()
    if suffix not in MOVING:
        raise WrongUse(f"{path} is no film", f"its suffix is {', '.join(MOVING)}")
    if not 0 < fps <= (50 if suffix == ".gif" else 240):
        raise WrongUse(f"{suffix} files do not show {fps:g} frames a second", "30 are usual")
    if suffix == ".mp4" and importlib.util.find_spec("av") is None:
        raise WrongUse(
            "an .mp4 needs PyAV, which is not installed", "pip install 'diptych[video]', or write a .gif"
        )


def save_moving(frames: Sequence[Image.Image], path: Path, fps: float = 30.0) -> None:
    """Writes pictures of one size as a film that loops, atomically: .gif, .webp (lossless) or .mp4 (PyAV).

    GIF counts time in 1/100 s, and players slow down below two of them: 50 frames a second are its most.
    """
    check_moving(path, fps)
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        write(path, lambda temporary: _save_mp4([_on_white(frame) for frame in frames], temporary, fps))
        return
    unit = 10 if suffix == ".gif" else 1  # ms
    ends = [round(1000 * i / fps / unit) * unit for i in range(len(frames) + 1)]  # so that no error adds up
    if suffix == ".gif":
        frames = [_paletted(_on_white(frame)) for frame in frames]
    kind: dict[str, Any] = {"format": "GIF"} if suffix == ".gif" else {"format": "WEBP", "lossless": True}
    times = [end - begin for begin, end in pairwise(ends)]
    first, *rest = frames
    write(
        path,
        lambda temporary: first.save(
            temporary, save_all=True, append_images=rest, duration=times, loop=0, **kind
        ),
    )


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _paletted(picture: Image.Image) -> Image.Image:
    """In 256 colours of its own; greys are no more than that."""
    if picture.mode == "L":
        return picture
    return picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def _save_mp4(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    """H.264 in 4:2:0, which every player shows; sides are made even by repeating the last pixels."""
    import av

    with av.open(str(path), "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = (side + side % 2 for side in frames[0].size)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16"}
        for frame in frames:
            pixels = np.asarray(frame.convert("RGB"))
            pixels = np.pad(pixels, [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)], "edge")
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        film.mux(stream.encode())
