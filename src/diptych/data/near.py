"""Near copies: perceptual hashes to find candidates, small colour thumbnails to be sure of them.

The hash is the signs of 64 low cosine coefficients, about their median, of a 32x32 grey reduction (Zauner,
"Implementation and benchmarking of perceptual image hash functions", 2010).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.data.images import Int64, UInt8

SMALLEST = 16  # pixels on a side; below it two different images can share all that a hash sees
MAX_DISTANCE = 5  # bits of 64
# Of two thumbnails, all channels taken together, so that hue counts. Under 64 px pictures are plain (at 0.98
# thousands of MNIST's ones are alike), while copies of photos at another size and quality may fall to 0.98.
MIN_CORRELATION, MIN_CORRELATION_SMALL, SMALL = 0.98, 0.995, 64
FLAT = 4.0  # grey levels of standard deviation; flatter thumbnails have no structure to compare
_GREY, _THUMB = 32, 16  # pixels on a side
_BANDS = MAX_DISTANCE + 1  # 5 differing bits leave at least one of 6 bands equal
_BUSIEST = 1000  # neighbours looked at in one band; more share a pattern, not a picture

METHOD = (
    f"near: 64-bit perceptual hashes at most {MAX_DISTANCE} bits apart, confirmed by 16x16 colour thumbnails"
    f" that correlate by {MIN_CORRELATION} ({MIN_CORRELATION_SMALL} where both are under {SMALL} px); nearly"
    f" uniform images, and those under {SMALLEST} px, are not compared"
)

Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint64]


def fingerprints(images: Sequence[Image.Image]) -> tuple[Hashes, UInt8]:
    """(N,) hashes and (N, 16, 16, 3) thumbnails of pictures in mode L or RGB."""
    thumbs, grey = np.empty((len(images), _THUMB, _THUMB, 3), np.uint8), np.empty((len(images), _GREY, _GREY))
    for i, image in enumerate(images):
        # Pillow's box filter takes whole pixels, which differ at another resolution; the triangle blends them
        small = image.resize((_GREY, _GREY), Image.Resampling.BILINEAR, reducing_gap=4.0)
        grey[i] = np.asarray(small.convert("L"))
        thumbs[i] = np.asarray(small.resize((_THUMB, _THUMB), Image.Resampling.BOX).convert("RGB"))
    return _hashes(grey.astype(np.float32)), thumbs


def _hashes(grey: Floats) -> Hashes:
    k, i = np.arange(1, 9)[:, None], np.arange(_GREY)[None, :]
    cosine = np.cos(np.pi * k * (2 * i + 1) / (2 * _GREY)).astype(
        np.float32
    )  # DCT-II, its constant row left out
    low = (cosine @ grey @ cosine.T).reshape(len(grey), 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def near_groups(codes: Hashes, thumbs: UInt8, sides: Int64) -> tuple[list[list[int]], int]:
    """Groups of two or more pictures that are nearly the same, and how many were too flat to compare.

    sides: (N,) the shorter side of each picture in pixels.
    """
    flat = np.array([thumb.std(axis=(0, 1)).max() < FLAT for thumb in thumbs])
    rows = np.flatnonzero(~flat)
    pairs = rows[_candidates(codes[rows])]
    enough = np.where(sides[pairs].max(axis=1) < SMALL, MIN_CORRELATION_SMALL, MIN_CORRELATION)
    pairs = pairs[_correlation(thumbs, pairs) >= enough]
    return _connected(pairs), int(flat.sum())


def _candidates(codes: Hashes) -> Int64:
    """(P, 2) pairs at most MAX_DISTANCE bits apart: such two agree in at least one band of bits."""
    edges = np.linspace(0, 64, _BANDS + 1).astype(int)
    found = [np.empty((0, 2), np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = (codes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        places = np.arange(len(order))
        for step in range(1, _BUSIEST + 1):
            places = places[places + step < len(order)]
            places = places[band[order[places]] == band[order[places + step]]]
            if not len(places):
                break
            a, b = order[places], order[places + step]
            close = np.bitwise_count(codes[a] ^ codes[b]) <= MAX_DISTANCE
            found.append(np.sort(np.stack([a[close], b[close]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _correlation(thumbs: UInt8, pairs: Int64) -> Floats:
    out = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), 4096):
        a, b = (_standard(thumbs[side]) for side in pairs[start : start + 4096].T)
        out[start : start + 4096] = (a * b).mean(axis=1)
    return out


def _standard(thumbs: UInt8) -> Floats:
    values = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values /= values.std(axis=1, keepdims=True)
    return values


def _connected(pairs: Int64) -> list[list[int]]:
    """The connected components of a graph given by its edges."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in pairs.tolist():
        parent[max(root(a), root(b))] = min(root(a), root(b))
    groups: dict[int, list[int]] = {}
    for node in sorted(parent):
        groups.setdefault(root(node), []).append(node)
    return list(groups.values())
