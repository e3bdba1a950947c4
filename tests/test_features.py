"""The built-in extractor: the same bits everywhere, sees what it should, treats all image kinds alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from diptych.errors import WrongUse
from diptych.features import store
from diptych.features.diptych_0 import DIM, gabors, orthogonal
from diptych.features.extractor import BUILTIN, extractor, names, to_rgb
from diptych.metrics.fid import frechet_distance


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 digits, uint8 (N, 1, 8, 8), shuffled, and what they show."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    pixels = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(pixels)[:, None], torch.from_numpy(bunch.target[order])


def seen(images: Tensor) -> Tensor:
    """Their features."""
    return store.seen(extractor("diptych-0"), lambda rows: images[rows], len(images), "", keep=False)[
        "pooled"
    ]


def test_weights_are_the_published_ones() -> None:
    # a ruler of this name must be this ruler, on every machine and in every later version
    assert extractor("diptych-0").sha256 == "92e24061f16a4cda1e071cd73568fe9c9dd4689e9f40506b8bc0cf80646d437d"
    assert extractor("builtin") is extractor(BUILTIN)


def test_unknown_name() -> None:
    assert "diptych-0" in names()
    with pytest.raises(WrongUse, match="did you mean diptych-0"):
        extractor("diptych0")


def test_projection_is_orthonormal() -> None:
    basis = orthogonal(300, 20, seed=3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(20), atol=1e-12)


def test_wavelets_have_no_mean_and_unit_norm() -> None:
    bank = gabors()
    np.testing.assert_allclose(bank.sum((1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose((bank**2).sum((1, 2, 3)), 1, atol=1e-12)


def test_wavelets_tell_directions_apart() -> None:
    stripes = torch.tensor([-1.0, -1.0, 1.0, 1.0]).repeat(8).expand(32, 32)  # change along x
    response = torch.nn.functional.conv2d(stripes[None, None], torch.from_numpy(gabors()).float())
    energy = response.square().mean((0, 2, 3)).view(2, -1).sum(0)
    assert energy.argmax() == 0
    assert energy[4] < 0.05 * energy[0]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (4, 48, 40), (1, 100, 100)])
def test_one_image_has_the_same_features_in_any_company(shape: tuple[int, int, int]) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8))
    together, alone = seen(images), torch.cat([seen(image[None]) for image in images])
    assert together.shape == (40, DIM)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_grey_is_rgb_with_equal_channels_and_opaque_rgba_is_rgb(digits: tuple[Tensor, Tensor]) -> None:
    grey = digits[0][:10]
    rgb = grey.expand(-1, 3, -1, -1)
    rgba = torch.cat([rgb, torch.full_like(grey, 255)], 1)
    for same in (rgb, rgba):
        torch.testing.assert_close(seen(grey), seen(same))


def test_transparency_is_laid_on_white() -> None:
    black = torch.zeros(2, 4, 4, 4, dtype=torch.uint8)
    black[1, 3] = 51  # a fifth
    values = to_rgb(black)
    torch.testing.assert_close(values[0], torch.ones(3, 4, 4))
    torch.testing.assert_close(values[1], torch.full((3, 4, 4), 2 * (0.8 * 255) / 255 - 1))


def test_two_channels_are_refused() -> None:
    with pytest.raises(WrongUse, match="2 channels"):
        extractor()(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))


def test_linear_probe_reads_digits(digits: tuple[Tensor, Tensor]) -> None:
    images, target = digits
    features = seen(images)
    features = (features - features.mean(0)) / features.std(0)
    probe = LogisticRegression(max_iter=500).fit(features[:1200], target[:1200])
    assert probe.score(features[1200:], target[1200:]) > 0.98


def damaged(images: Tensor, target: Tensor, kind: str, level: int) -> Tensor:
    """Images with a fault that grows with `level`."""
    rng = np.random.default_rng(1)
    pixels = images.numpy().astype(np.float64)
    if kind == "noise":
        pixels = pixels + rng.normal(0, 12 * level, pixels.shape)
    if kind == "blur":
        for _ in range(level):
            for axis in (2, 3):
                pixels = (np.roll(pixels, 1, axis) + 4 * pixels + np.roll(pixels, -1, axis)) / 6
    if kind == "swap":
        pixels = pixels.copy()
        for image in pixels[:, 0]:
            for _ in range(level):
                (a, b), (c, d) = rng.integers(0, 4, (2, 2)) * 2
                first, second = image[a : a + 2, b : b + 2].copy(), image[c : c + 2, d : d + 2].copy()
                image[a : a + 2, b : b + 2], image[c : c + 2, d : d + 2] = second, first
    if kind == "drop":
        kept = np.flatnonzero(target.numpy() < 10 - 1.5 * level)
        pixels = pixels[rng.choice(kept, len(pixels))] if level else pixels
    return torch.from_numpy(np.rint(pixels).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["noise", "blur", "swap", "drop"])
def test_distance_grows_with_the_damage(digits: tuple[Tensor, Tensor], kind: str) -> None:
    images, target = digits
    real, others, shown = seen(images[:900]), images[900:], target[900:]
    distances = [frechet_distance(real, seen(damaged(others, shown, kind, level))) for level in range(6)]
    assert distances == sorted(distances)
    assert distances[-1] > 5 * distances[0]
