"""From the bytes of one untrusted file to upright pixels, and to the shape that was asked for."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from diptych.data.images import UInt8
from diptych.errors import WrongUse

Fit = Literal["crop", "pad", "stretch"]
Channels = Literal[1, 3, 4]
Note = tuple[str, str]  # what was odd, what was done

# A short list: Pillow knows forty more, among them EPS, which starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 89_478_485  # Pillow's own limit; kept here because that one can be switched off
MAX_BYTES = 24 * MAX_PIXELS  # 2 GiB: what decoding may take; the hungriest modes take 16 bytes a pixel
LARGE = 1 << 24  # pixels; above it images are decoded one at a time, so that threads do not add up

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAGIC = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8", "JPEG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WEBP"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
_one_large_at_a_time = threading.Lock()


class Unreadable(Exception):
    """A file that is not a picture we can read; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Policy:
    """How images are brought to one shape."""

    size: int | None = None  # pixels on a side; None keeps the size that all images share
    fit: Fit = "crop"
    channels: Channels | None = None  # None: 1 where everything is grey, else 3

    def __post_init__(self) -> None:
        if self.size is not None and not 4 <= self.size <= 2048:
            raise WrongUse(f"size {self.size} is out of range", "4 to 2048 pixels on a side")
        if self.fit not in ("crop", "pad", "stretch"):
            raise WrongUse(f"there is no fit called {self.fit!r}", "there are: crop, pad, stretch")
        if self.channels not in (None, 1, 3, 4):
            raise WrongUse(f"{self.channels} channels are not possible", "1 (grey), 3 (RGB) or 4 (RGBA)")

    def __str__(self) -> str:
        if self.size is None:
            return "kept at the size that they have"
        how = {
            "crop": "crop to the central square",
            "pad": "pad to a square with " + ("transparency" if self.channels == 4 else "white"),
            "stretch": "stretch to a square",
        }
        return f"{how[self.fit]}, bicubic antialiased, {self.size} px"


class Opened(NamedTuple):
    """A decoded picture and what there is to say about it."""

    image: Image.Image  # upright; mode L, RGB or RGBA
    mode: str  # as it was stored
    size: tuple[int, int]  # (width, height) upright, before any reduction
    notes: list[Note]


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Pillow as it is safe to use on strangers' files: bombs are errors, truncated files too.

    Warning filters belong to the process, so this is entered once, around the threads that decode.
    """
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def open_image(data: bytes, target: int | None = None) -> Opened:
    """Decodes the first frame of a file's bytes; raises Unreadable with a reason, and nothing else.

    `target` is the side in pixels that the image will be brought to; large JPEGs are reduced while decoding.
    """
    try:
        with _open(data) as image, _turn(image.width * image.height):
            return _decode(image, target)
    except Unreadable:
        raise
    except Exception as error:  # mutated files raise anything: ValueError, SyntaxError, struct.error ...
        raise Unreadable(_reason(data, error)) from error


def _turn(pixels: int) -> AbstractContextManager[object]:
    return _one_large_at_a_time if pixels > LARGE else nullcontext()


def header_size(data: bytes) -> tuple[int, int]:
    """(width, height), upright, from a file's header alone; raises Unreadable."""
    try:
        with _open(data) as image:
            turned = image.format in ("JPEG", "MPO") and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except Exception as error:
        raise Unreadable(_reason(data, error)) from error


def _open(data: bytes) -> ImageFile.ImageFile:
    if not data:
        raise Unreadable("empty file (0 bytes)")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"{image.width:,} x {image.height:,} pixels, too many to decode safely")
    return image


def _decode(image: ImageFile.ImageFile, target: int | None) -> Opened:
    mode, size = image.mode, image.size
    notes: list[Note] = []
    with suppress(Exception):  # a broken second frame does not spoil the first
        if getattr(image, "is_animated", False):
            notes.append(("several frames", "first frame taken"))
    if target is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (3 * target, 3 * target))  # the inverse DCT at 1/2, 1/4 or 1/8
    stored = _orientation(image)
    image.load()
    if stored in _UPRIGHT:
        notes.append(("turned by its EXIF orientation", "turned upright"))
    plain, note = _plain(image)
    # Asked again: for TIFF, Pillow has turned the image itself on loading.
    if (turn := _orientation(image)) in _UPRIGHT:
        plain = plain.transpose(_UPRIGHT[turn])
    if stored in (5, 6, 7, 8):
        size = size[::-1] if image.format != "TIFF" else plain.size
    return Opened(plain, mode, size, notes + note)


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # broken EXIF is no reason to lose the picture
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _plain(image: Image.Image) -> tuple[Image.Image, list[Note]]:
    """The same picture in mode L, RGB or RGBA."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_16_bits(np.asarray(image))
    if image.mode == "F":
        return _from_float(np.asarray(image))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if np.asarray(rgba)[..., 3].min() < 255:
            return rgba, []
        return rgba.convert("RGB"), []
    if image.mode in ("L", "RGB"):
        return image.copy(), []
    if image.mode == "1":
        return image.convert("L"), [("black and white, 1 bit", "read as grey")]
    if image.mode == "P":
        return image.convert("RGB"), [("palette", "converted to RGB")]
    return image.convert("RGB"), [(f"{image.mode} colours", "converted to RGB")]


def _from_16_bits(values: npt.NDArray[np.integer]) -> tuple[Image.Image, list[Note]]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise Unreadable(f"32-bit grey with values from {low:,} to {high:,}, whose white is not known")
    wide = values.astype(np.int32)
    wide += 128  # in place: at MAX_PIXELS each copy takes 341 MiB
    wide //= 257  # 65535 = 257 * 255, rounded to the nearest
    return Image.fromarray(wide.astype(np.uint8)), [("16-bit grey", "scaled to 8 bits, 65,535 to 255")]


def _from_float(values: npt.NDArray[np.floating]) -> tuple[Image.Image, list[Note]]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also where there is a NaN
        raise Unreadable(f"floating-point grey with values from {low:g} to {high:g}, not in 0 to 1")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8)), [
        ("floating-point grey", "scaled from 0..1")
    ]


def _reason(data: bytes, error: Exception) -> str:
    """Why a file could not be read, in words that are the same every time."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"decompression bomb: {str(error).partition(' pixels')[0].partition('(')[2]} pixels declared"
    if data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):
        return "PostScript, which is never opened"
    kind = next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)
    if kind is None:
        return f"{len(data):,} bytes, no image format that we open ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and "truncated" in str(error).lower():
        return f"truncated {kind}"
    text = "" if "BytesIO" in str(error) else str(error)  # an address in memory would differ every time
    return f"broken {kind}" + (f": {text}" if text else "")


def recolour(pixels: UInt8, channels: Channels) -> UInt8:
    """(..., C) to (..., channels): alpha composited on white, grey by Rec. 601 luma as Pillow does it."""
    have = pixels.shape[-1]
    if have == channels:
        return pixels
    if have == 4:
        alpha = pixels[..., 3:].astype(np.uint32)
        over = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
        return recolour(over.astype(np.uint8), channels)
    if channels == 1:
        r, g, b = np.moveaxis(pixels.astype(np.uint32), -1, 0)
        luma: UInt8 = ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16).astype(np.uint8)
        return luma[..., None]
    colour = np.repeat(pixels, 3, axis=-1) if have == 1 else pixels
    if channels == 3:
        return colour
    return np.concatenate([colour, np.full_like(colour[..., :1], 255)], axis=-1)


def fitted(pixels: UInt8, policy: Policy) -> UInt8:
    """(H, W, C) brought to (size, size, C) by the policy; untouched where it has that size already."""
    height, width, channels = pixels.shape
    size = policy.size
    if size is None or (height, width) == (size, size):
        return pixels
    shape = (size, size)
    if policy.fit == "crop":  # before resizing, whose filter would look beyond the edge
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    elif policy.fit == "pad":
        long = max(width, height)
        shape = (max(1, round(size * width / long)), max(1, round(size * height / long)))
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    image = image.resize(shape, Image.Resampling.BICUBIC, reducing_gap=3.0)
    small: UInt8 = np.asarray(image).reshape(shape[1], shape[0], channels)
    return small if shape == (size, size) else _centred(small, size)


def _centred(pixels: UInt8, size: int) -> UInt8:
    height, width, channels = pixels.shape
    canvas = np.full((size, size, channels), 255, np.uint8)
    canvas[..., 3:] = 0
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return canvas
