"""The frequencies that the layers of an alias-free generator let through, and the filters that see to it
(StyleGAN3, Karras et al., 2021, arXiv:2106.12423, sections 2, 3 and appendix C)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Band:
    """A signal of so many channels on a canvas of `size` samples (height, width), `rate` of them to the unit.

    The unit is the side of the smallest square with a power of two for its side that holds the image.
    """

    rate: int  # samples for the unit: s
    cutoff: float  # f_c: what lies below it passes
    half_width: float  # f_h: of the transition band
    size: tuple[int, int]
    channels: int


def bands(
    image_shape: tuple[int, int, int],
    *,
    layers: int,
    critical: int,
    base: int,
    largest: int,
    first_cutoff: float,
    first_stopband: float,
    last_stopband: float,
    margin: int,
) -> list[Band]:
    """One for each layer and one for the image: cutoffs and stop bands grow geometrically (section 3.2).

    critical: so many layers at the end, and the image, have the cutoff at half of the sampling rate; their
    stop band would begin at last_stopband times the cutoff. margin: samples beyond each edge.
    """
    side = square(image_shape)
    share = np.minimum(np.arange(layers + 1) / (layers - critical), 1)
    cutoffs = first_cutoff * (side / 2 / first_cutoff) ** share
    stopbands = first_stopband * (side / 2 * last_stopband / first_stopband) ** share
    rates = np.exp2(np.ceil(np.log2(np.minimum(2 * stopbands, side)))).astype(int)
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    channels = np.rint(np.minimum(base / 2 / cutoffs, largest)).astype(int)
    found = []
    for i, rate in enumerate(rates):
        height, width = (-(-int(rate) * n // side) + 2 * margin for n in image_shape[1:])
        size = (height, width) if i < layers - 1 else image_shape[1:]  # the last layer crops its margin
        colours = int(channels[i]) if i < layers else image_shape[0]
        found.append(Band(int(rate), float(cutoffs[i]), float(half_widths[i]), size, max(1, colours)))
    return found


def square(image_shape: tuple[int, int, int]) -> int:
    """The least power of two that is at least height and width."""
    return 1 << math.ceil(math.log2(max(image_shape[1:])))


def layers_for(image_shape: tuple[int, int, int]) -> int:
    """The paper's 14 from 256 pixels on, two fewer for each halving: 8 at 32 pixels, 4 at 8."""
    return min(14, max(4, 2 * int(math.log2(square(image_shape))) - 2))


def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor | None:
    """A Kaiser-windowed low-pass filter, (T,) or, where it is radial, (T, T), summing to 1; None for one tap.

    cutoff, width of the transition band and sampling rate are in the same unit (appendix C.1).
    """
    if taps == 1:
        return None
    window = np.kaiser(taps, kaiser_beta(taps, width / (rate / 2)))
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    if radial:
        r = torch.from_numpy(np.hypot(x, x[:, None]))
        ideal = (torch.special.bessel_j1(2 * math.pi * cutoff * r) / r).numpy()  # a disc's transform
        found = ideal * np.outer(window, window)
    else:
        found = np.sinc(2 * cutoff * x) * window
    return torch.from_numpy(found / found.sum()).float()


def kaiser_beta(taps: int, width: float) -> float:
    """The window's shape for a transition band of this width, as a share of half the rate (Kaiser, 1974)."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    beyond = max(0.0, attenuation - 21)
    return float(0.5842 * beyond**0.4 + 0.07886 * beyond)
