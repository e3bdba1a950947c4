"""Two sets that need no network: scikit-learn's handwritten digits, and drawn scenes with known causes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.data.arrays import Stack
from diptych.data.images import UInt8
from diptych.errors import WrongUse

NAMES = ("digits", "shapes")
Allocate = Callable[[tuple[int, ...]], UInt8]
Floats = npt.NDArray[np.float64]

KINDS = ("circle", "cross", "ring", "square", "triangle")
SIZES = ("small", "medium", "large")
_RADIUS = ((0.20, 0.28), (0.36, 0.44), (0.52, 0.62))  # of each size; half the image is 1
COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 200),
    "yellow": (250, 210, 40),
    "purple": (130, 60, 170),
    "orange": (245, 130, 32),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}


def digits() -> Stack:
    """1,797 handwritten digits, 8x8, 0..16 scaled to 0..255 (Alpaydin and Kaynak, 1998; UCI)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return Stack(
        pixels,
        [f"digits[{i}]" for i in range(len(pixels))],
        labels=bunch.target.astype(np.int64),
        class_names=tuple("0123456789"),
        licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
    )


def count_of(name: str) -> int:
    """How many scenes "shapes" or "shapes:5000" asks for."""
    text = name.partition(":")[2] or "4000"
    if not text.isascii() or not text.isdigit() or not 4 <= int(text) <= 10_000_000:
        raise WrongUse(f"{name!r} does not say how many scenes", "shapes:5000 draws 5,000; at least 4")
    return int(text)


def shapes(n: int, size: int, allocate: Allocate = lambda shape: np.empty(shape, np.uint8)) -> Stack:
    """`n` drawn scenes (n, size, size, 3), antialiased. Scene i is the same for every n and at every size."""
    factors = _factors(n)
    pixels = allocate((n, size, size, 3))
    step = max(1, (1 << 20) // size**2)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        pixels[rows] = _draw({name: values[rows] for name, values in factors.items()}, size)
    names = list(COLOURS)
    causes = zip(*(factors[f].tolist() for f in ("size", "colour", "shape", "background")), strict=True)
    captions = tuple(
        f"a {SIZES[s]} {names[c]} {KINDS[k]} on {'an' if names[b] == 'orange' else 'a'} {names[b]} background"
        for s, c, k, b in causes
    )
    return Stack(
        pixels,
        [f"shapes[{i}]" for i in range(n)],
        labels=factors["shape"].copy(),
        class_names=KINDS,
        captions=captions,
        factors=factors,
        licence="drawn by diptych, free of rights",
    )


def _factors(n: int) -> dict[str, npt.NDArray[Any]]:
    """The causes of each scene: whole numbers for kinds, floats in units of half the image."""
    # one row of uniforms a scene, so that a longer set begins with the shorter one
    u = np.random.Generator(np.random.PCG64(0x5CE7E)).random((n, 8))

    def choice(column: int, among: int) -> npt.NDArray[np.int64]:
        return (u[:, column] * among).astype(np.int64)

    size, colour = choice(1, len(SIZES)), choice(2, len(COLOURS))
    low, high = np.array(_RADIUS)[size].T
    radius = low + u[:, 4] * (high - low)
    room = 0.92 - radius
    return {
        "shape": choice(0, len(KINDS)),
        "size": size,
        "colour": colour,
        "background": (colour + 1 + choice(3, len(COLOURS) - 1)) % len(COLOURS),  # never the same
        "radius": radius,
        "x": (2 * u[:, 5] - 1) * room,
        "y": (2 * u[:, 6] - 1) * room,
        "angle": (2 * u[:, 7] - 1) * np.pi / 9,
    }


def _draw(factors: dict[str, npt.NDArray[Any]], size: int) -> UInt8:
    """A pixel is covered by how far its centre lies inside the outline, in pixels, from -1/2 to 1/2."""
    axis = (np.arange(size) + 0.5) * (2 / size) - 1

    def column(name: str) -> Floats:
        return np.asarray(factors[name], np.float64)[:, None, None]

    x, y = axis[None, None, :] - column("x"), axis[None, :, None] - column("y")
    cos, sin = np.cos(column("angle")), np.sin(column("angle"))
    x, y = cos * x + sin * y, cos * y - sin * x
    distance = np.empty(x.shape)
    for kind, outline in enumerate((_circle, _cross, _ring, _square, _triangle)):
        rows = factors["shape"] == kind
        distance[rows] = outline(x[rows], y[rows], column("radius")[rows])
    cover = (0.5 - distance * (size / 2)).clip(0, 1)[..., None]
    palette = np.array(list(COLOURS.values()), np.float64)
    front, back = palette[factors["colour"]][:, None, None], palette[factors["background"]][:, None, None]
    scene: UInt8 = np.rint(back + cover * (front - back)).astype(np.uint8)
    return scene


# Signed distances from the outline, negative inside.


def _circle(x: Floats, y: Floats, r: Floats) -> Floats:
    return np.hypot(x, y) - r


def _ring(x: Floats, y: Floats, r: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - 0.75 * r) - 0.25 * r


def _box(x: Floats, y: Floats, half_x: Floats, half_y: Floats) -> Floats:
    dx, dy = np.abs(x) - half_x, np.abs(y) - half_y
    distance: Floats = np.hypot(dx.clip(0), dy.clip(0)) + np.maximum(dx, dy).clip(None, 0)
    return distance


def _square(x: Floats, y: Floats, r: Floats) -> Floats:
    return _box(x, y, 0.8 * r, 0.8 * r)


def _cross(x: Floats, y: Floats, r: Floats) -> Floats:
    return np.minimum(_box(x, y, r, 0.32 * r), _box(x, y, 0.32 * r, r))


def _triangle(x: Floats, y: Floats, r: Floats) -> Floats:
    """Equilateral with its corners at distance r and one of them at the top: three half planes."""
    slope = np.sqrt(3) / 2
    distance: Floats = np.maximum(y, np.maximum(slope * x, -slope * x) - 0.5 * y) - 0.5 * r
    return distance
