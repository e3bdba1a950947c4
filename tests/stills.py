"""Sound BMP, TIFF and PPM pictures of every mode and compression that Pillow writes, and damage to them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

import doors
from doors import PIXELS, Door
from mutations import EXTREMES

SIDES = (0, 1, 9459, 20_000, 65_535, 2**31 - 1)  # 9,459 squared is the most that is opened


def made(kind: str, mode: str, **how: Any) -> bytes:
    """One sound picture."""
    out = io.BytesIO()
    grey = PIXELS[0, ..., 0]
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    else:
        image = Image.fromarray(PIXELS[0]).convert(mode)
    image.save(out, kind, **how)
    return out.getvalue()


def bmps() -> Iterator[bytes]:
    """Of every depth, and two by hand: run lengths of 8 bits a pixel, and a header of the oldest kind."""
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield made("BMP", mode)
    runs = b"".join(bytes((12, row)) + b"\0\0" for row in range(12)) + b"\0\1"
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    start = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, 12, 12, 1, 8, 1, len(runs), 0, 0, 256, 0)
    yield b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs
    header = struct.pack("<IHHHH", 12, 12, 12, 1, 24)
    yield b"BM" + struct.pack("<IHHI", 26 + 432, 0, 0, 26) + header + PIXELS[0].tobytes()


def tiffs() -> Iterator[bytes]:
    """Of every mode, compression, turn, and of several pages."""
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"):
        yield made("TIFF", mode)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield made("TIFF", "RGB", compression=compression)
    yield made("TIFF", "1", compression="group4")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield made("TIFF", "RGB", exif=exif)
    yield made("TIFF", "L", save_all=True, append_images=[Image.fromarray(PIXELS[1])])


def ppms() -> Iterator[bytes]:
    """Bits, grey of 8 and 16 bits, colour, floats, and those that are written as text."""
    for mode in ("1", "L", "I;16", "RGB", "F"):
        yield made("PPM", mode)
    levels = " ".join(map(str, PIXELS[0].ravel()))
    yield f"P3\n# made by hand\n12 12\n255\n{levels}\n".encode()
    yield f"P2 12 12 255 {' '.join(map(str, PIXELS[0, ..., 0].ravel()))}".encode()
    yield b"P1 12 12 " + b"10" * 72
    yield b"P6 12 12 100\n" + bytes(PIXELS[0] % 101)


def bmp(data: bytes, draw: Random) -> bytes:
    """A field of the headers is an extreme one, or a side."""
    at, size = draw.choice(
        ((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4))
    )
    return put(data, at, draw.choice((*EXTREMES, *SIDES)), size, "little")


def tiff(data: bytes, draw: Random) -> bytes:
    """A tag, its type, how many there are of it or its value is another one, in some directory."""
    order = ("little", "big")[data[:2] == b"MM"]
    start = int.from_bytes(data[4:8], order) if len(data) > 8 else 0
    entries = int.from_bytes(data[start : start + 2], order) if 8 <= start < len(data) - 2 else 0
    if not 0 < entries < 200:
        return data
    entry = start + 2 + 12 * draw.randrange(entries)
    at, size = draw.choice(((0, 2), (2, 2), (4, 4), (8, 4), (8, 2)))
    value = draw.choice((*EXTREMES, *SIDES, start, *range(254, 280), *range(317, 326), *range(14)))
    return put(data, entry + at, value, size, order)


def ppm(data: bytes, draw: Random) -> bytes:
    """A word of the header is another one."""
    words = data.split(maxsplit=4)
    if len(words) < 4:
        return data
    which = draw.randrange(4)
    numbers = [str(n).encode() for n in (*EXTREMES, *SIDES, -1)]
    words[which] = draw.choice([b"P%d" % draw.randrange(10), b"Pf", b"PF", b"Py", b"#", *numbers])
    return b" ".join(words[:4]) + b"\n" + data[-432:]


def put(data: bytes, at: int, value: int, size: int, order: Any) -> bytes:
    """The same with a number at a place."""
    number = (value % (1 << 8 * size)).to_bytes(size, order)
    return data[:at] + number + data[at + size :]


def laid(kind: str, sound: Callable[[], Iterator[bytes]]) -> Callable[[Path], list[Path]]:
    """Lays all of them."""

    def lay(folder: Path) -> list[Path]:
        files = []
        for i, data in enumerate(sound()):
            file = folder / f"{i}.{kind.lower()}"
            file.write_bytes(data)
            files.append(file)
        return files

    return lay


PICTURES = {
    kind: Door(kind, laid(kind, sound), doors.look, (special,))
    for kind, sound, special in (("BMP", bmps, bmp), ("TIFF", tiffs, tiff), ("PPM", ppms, ppm))
}
