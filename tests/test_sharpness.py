"""The spectrum: waves at their ring, scaled contrast in exact decibels, blur and noise, and equal sets."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metrics.sharpness import compared, rings, sharpness


def made(real: Tensor, fake: Tensor) -> Exam:
    images = {"real": real, "fake": fake}
    return cast(
        Exam, SimpleNamespace(images=images.__getitem__, shared=lambda key, compute: cast(Any, compute)())
    )


def noise(n: int, seed: int, spread: float = 20.0, size: int = 16) -> Tensor:
    level = 128 + spread * torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))
    return level.round().clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor) -> Tensor:
    return avg_pool2d(images.float(), 3, 1, 1, count_include_pad=False).round().to(torch.uint8)


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (33, 32), (32, 33)])
@pytest.mark.parametrize("across", [True, False])
def test_a_wave_has_its_power_in_its_ring(shape: tuple[int, int], across: bool) -> None:
    height, width = shape
    size = min(shape)
    # 6 cycles in the shorter side's length, along either axis
    place = torch.arange(width if across else height) * (6 / size)
    wave = (127.5 + 100 * (2 * math.pi * place).sin()).round().to(torch.uint8)
    image = (wave if across else wave[:, None]).expand(1, 1, height, width)
    power = rings(image)[0]
    assert len(power) == size // 2
    assert int(power.argmax()) + 1 == 6
    assert power[4:7].sum() > 0.99 * power.sum()  # the window spreads it over three rings


def test_white_noise_is_flat() -> None:
    power = rings(noise(400, 0)).mean(0)
    assert float((10 * (power[1:] / power[1:].mean()).log10()).abs().max()) < 0.3


def test_power_is_that_of_the_luminance() -> None:
    colour = noise(3, 0).repeat(1, 3, 1, 1)
    torch.testing.assert_close(rings(colour), rings(colour[:, :1]), rtol=1e-4, atol=0)
    green = torch.stack([torch.zeros_like(colour[:, 0]), colour[:, 0], torch.zeros_like(colour[:, 0])], 1)
    torch.testing.assert_close(rings(green), 0.587**2 * rings(colour), rtol=1e-3, atol=0)


def test_twice_the_contrast_is_six_decibels() -> None:
    real = noise(50, 0)
    fake = (2 * (real.int() - 128) + 128).clamp(0, 255).to(torch.uint8)
    power = rings(real), 4 * rings(real)
    assert compared(*power).squared > 0
    difference = 10 * math.log10(4)
    covariance = torch.cov(rings(real).T / rings(real).mean(0)[:, None], correction=0).diagonal().mean()
    bias = 2 * (10 / math.log(10)) ** 2 * float(covariance) / 50
    assert compared(*power).squared == pytest.approx(difference**2 - bias, rel=1e-9)
    found = sharpness(made(real, fake))
    assert found["spectrum_distance"].value == pytest.approx(difference, rel=0.01)
    assert found["sharpness_ratio"].value == pytest.approx(4, rel=0.01)


def test_blur_and_noise_are_told_apart() -> None:
    real = blurred(noise(200, 0, 40.0))
    soft, sharp = (
        sharpness(made(real, fake))
        for fake in (blurred(real), blurred(noise(200, 1, 40.0)) + noise(200, 2) // 4)
    )
    assert soft["sharpness_ratio"].high < 0.5
    assert sharp["sharpness_ratio"].low > 1.2
    assert soft["spectrum_distance"].low > 3
    assert sharp["spectrum_distance"].low > 0
    assert len(soft["spectrum_distance"].replicates) == len(soft["sharpness_ratio"].replicates) == 100


def test_equal_distributions_have_no_distance() -> None:
    covered = ratio = 0
    values = []
    for seed in range(100):
        found = sharpness(made(noise(30, 2 * seed, size=8), noise(30, 2 * seed + 1, size=8)))
        values.append(found["spectrum_distance"].value)
        covered += found["spectrum_distance"].low == 0
        ratio += found["sharpness_ratio"].low <= 1 <= found["sharpness_ratio"].high
    assert 88 <= covered <= 99
    assert 88 <= ratio <= 99
    assert 30 <= sum(value == 0 for value in values) <= 80  # unbiased before the root: often nothing is left


def test_replicates_are_the_standard_error() -> None:
    found = sharpness(made(noise(300, 0), noise(300, 1, 14.0)))["spectrum_distance"]
    spread = torch.tensor(found.replicates).std().item()
    assert spread == pytest.approx((found.high - found.low) / 3.92, rel=0.25)


def test_what_has_no_spectrum() -> None:
    flat = torch.full((20, 1, 8, 8), 7, dtype=torch.uint8)
    with pytest.raises(NotMeasurable, match="flat"):
        sharpness(made(noise(20, 0, size=8), flat))
    with pytest.raises(NotMeasurable, match="2x2"):
        rings(noise(4, 0, size=2))
    with pytest.raises(NotMeasurable, match="16"):
        sharpness(made(noise(4, 0), noise(4, 1)))
