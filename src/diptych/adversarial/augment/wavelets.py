"""Orthogonal wavelet filters (Daubechies, 1992, chapter 6) and what the augmentations make of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Taps = npt.NDArray[np.float64]

SYM2: Taps = np.array([1 - 3**0.5, 3 - 3**0.5, 3 + 3**0.5, 1 + 3**0.5]) / (4 * 2**0.5)
SYM6: Taps = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
)


def bands() -> Taps:
    """Four filters that add up to the identity, (4, 43): from [0, pi/8] to [pi/2, pi].

    Products of half-band filters at several scales (Karras et al., 2020, arXiv:2006.06676, appendix B).
    """
    mirrored = SYM2 * (-1.0) ** np.arange(len(SYM2))
    low, high = (np.convolve(h, h[::-1]) / 2 for h in (SYM2, mirrored))
    found, below = [], np.ones(1)  # below: all low-pass filters of the finer scales
    for scale in (1, 2, 4):
        found.append(np.convolve(below, stretched(high, scale)))
        below = np.convolve(below, stretched(low, scale))
    return np.stack([centred(taps, len(below)) for taps in (below, *found[::-1])])


def stretched(taps: Taps, by: int) -> Taps:
    """H(z^by): zeros between the taps."""
    wide = np.zeros(by * (len(taps) - 1) + 1)
    wide[::by] = taps
    return wide


def centred(taps: Taps, length: int) -> Taps:
    """As many zeros on both sides."""
    return np.pad(taps, (length - len(taps)) // 2)


def folded(index: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Where a position of a signal lies that goes on by reflection at its first and last sample."""
    period = max(1, 2 * (n - 1))
    index = index % period
    return np.minimum(index, period - index) if n > 1 else index
