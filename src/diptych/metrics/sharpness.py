"""The power spectrum of fakes against the reals' (Durall et al., 2020, arXiv:2003.01826), ring by ring.

A model that blurs lacks power at high frequencies; noise and the grids of upsampling have too much of it
(Dzanic et al., 2020, arXiv:1911.06465).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.features.extractor import to_rgb
from diptych.metric import metric
from diptych.metrics.intervals import enough, from_influence, normal
from diptych.metrics.squares import squared_interval
from diptych.scores import Estimate

ENOUGH = 16
DECIBEL = 10 / math.log(10)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
PIXELS = 2**22  # at a time


class Spectra(NamedTuple):
    """How far the mean spectra of two sets of images are from each other."""

    squared: float  # mean squared difference over the rings, in dB², its bias taken off
    interval: tuple[float, float]
    noise: float  # its standard error where the spectra are equal
    real: Tensor  # (N,) influence on it of each real
    fake: Tensor  # (M,) and of each fake


@metric({"spectrum_distance": "lower", "sharpness_ratio": "neither"})
def sharpness(exam: Exam) -> Mapping[str, Estimate]:
    """Distance of the mean log power spectra in dB, and high-frequency energy of fakes over that of reals."""
    real, fake = exam.shared("real rings", lambda: rings(exam.images("real"))), rings(exam.images("fake"))
    enough("sharpness", ENOUGH, real, fake)
    for which, power in (("held-out", real), ("fake", fake)):
        if not (power.mean(0) > 0).all():
            raise NotMeasurable(f"the {which} images are flat: they have no power at some frequency")
    return {"spectrum_distance": _distance(real, fake), "sharpness_ratio": _high_ratio(real, fake)}


def rings(images: Tensor) -> Tensor:
    """Mean power (N, R) float64 of the luminance of uint8 (N, C, H, W) at 1, 2 ... R cycles an image.

    R is half of the shorter side; corners beyond it are left out.
    """
    height, width = images.shape[2:]
    size = min(height, width)
    if size < 4:
        raise NotMeasurable(f"images of {width}x{height} have no spectrum", "4 pixels a side are needed")
    window, average = _window(height, width), _average(height, width)
    block = max(1, PIXELS // (height * width))
    parts = [
        torch.fft.rfft2(_level(part, window) * window).abs().square().flatten(1) @ average
        for part in torch.split(images, block)
    ]
    return torch.cat(parts).double()


def compared(real: Tensor, fake: Tensor) -> Spectra:
    """The distance of the mean spectra, in dB, of power (N, R) and (M, R)."""
    n, m, count = len(real), len(fake), real.shape[1]
    of_real, of_fake = (DECIBEL * (power / power.mean(0) - 1) for power in (real, fake))
    difference = DECIBEL * (fake.mean(0).log() - real.mean(0).log())
    covariance = of_real.T @ of_real / n**2 + of_fake.T @ of_fake / m**2
    squared = float((difference.square() - covariance.diagonal()).mean())
    first = 4 * float(difference @ covariance @ difference) / count**2
    second = 2 * float(covariance.square().sum()) / count**2
    interval = squared_interval(squared, float(difference.square().mean()), first, second)
    pull = 2 * difference / count
    return Spectra(squared, interval, math.sqrt(second), -(of_real @ pull), of_fake @ pull)


def _distance(real: Tensor, fake: Tensor) -> Estimate:
    found = compared(real, fake)
    value = math.sqrt(max(0.0, found.squared))
    low, high = (math.sqrt(max(0.0, end)) for end in found.interval)
    slope = 1 / (2 * max(value, math.sqrt(found.noise), 1e-12))
    spread = from_influence(found.real * slope, found.fake * slope)
    note = (
        f"root mean square over {real.shape[1]} rings of the luminance spectrum, bias in n taken off. "
        "Interval: delta method of second order for the squared distance"
    )
    return Estimate(value, low, high, len(fake), "lower", "dB", note, replicates=spread.replicates)


def _high_ratio(real: Tensor, fake: Tensor) -> Estimate:
    """Energy above half of the highest frequency, fakes over reals."""
    first = real.shape[1] // 2
    # a ring's energy is its mean power times its circumference
    radius = torch.arange(1, real.shape[1] + 1, dtype=torch.float64)[first:]
    of_real, of_fake = (power[:, first:] @ radius for power in (real, fake))
    value = float(of_fake.mean() / of_real.mean())
    relative = from_influence(1 - of_real / of_real.mean(), of_fake / of_fake.mean() - 1)
    low, high = (value * math.exp(end) for end in normal(0.0, relative.error))
    note = (
        "luminance energy above half of the highest frequency; under 1 is blurred, over 1 noisy. "
        "Interval: delta method for its logarithm, over the images of both sets"
    )
    replicates = tuple(float(f"{value * deviation:.4g}") for deviation in relative.replicates)
    return Estimate(value, low, high, len(fake), "neither", "", note, replicates=replicates)


def _level(images: Tensor, window: Tensor) -> Tensor:
    """Luminance (N, H, W) in [-1, 1] less its mean under the window."""
    weight = torch.tensor(LUMINANCE, device=images.device)
    level: Tensor = torch.einsum("nchw,c->nhw", to_rgb(images), weight)
    mean: Tensor = (level * window).sum((1, 2), keepdim=True) / window.sum()
    return level - mean


def _window(height: int, width: int) -> Tensor:
    # without it, the jump from an image's right edge to its left one is power at all frequencies
    y, x = ((torch.arange(size) + 0.5) * math.pi / size for size in (height, width))
    return y.sin().square()[:, None] * x.sin().square()


def _average(height: int, width: int) -> Tensor:
    """(H * W', R): power of the half plane that rfft2 gives to its mean over each ring."""
    y, x = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    size = min(height, width)
    ring = ((y.square() + x.square()).sqrt() * size).round().long()
    # every column but the first, and the last of an even width, stands for its mirror image too
    weight = torch.full((height, len(x)), 2.0)
    weight[:, 0] = 1
    if width % 2 == 0:
        weight[:, -1] = 1
    member = (ring.flatten()[:, None] == torch.arange(1, size // 2 + 1)) * weight.flatten()[:, None]
    average: Tensor = member / member.sum(0)
    return average
