"""Planted damage: none at 0, nested in strength, and as strong as it says."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from diptych.data.builtin import shapes
from diptych.errors import DataError, WrongUse
from diptych.measuring.planted import DAMAGES, drop_modes, invent_modes

STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


def scenes(n: int = 12, channels: int = 3, height: int = 32, width: int = 40) -> Tensor:
    """Drawn scenes, uint8 (n, channels, height, width), with a gradient as transparency."""
    pixels = torch.from_numpy(shapes(n, 48).pixels.copy()).permute(0, 3, 1, 2)[:, :, :height, :width]
    if channels == 1:
        return pixels[:, :1].contiguous()
    alpha = torch.arange(width).mul(255 // width).to(torch.uint8).expand(n, 1, height, width)
    return torch.cat([pixels, alpha], 1)[:, :channels]


def rms(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).square().mean().sqrt())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", DAMAGES)
def test_nothing_at_zero_and_more_at_each_strength(kind: str, channels: int) -> None:
    images = scenes(channels=channels)
    before = images.clone()
    unchanged = DAMAGES[kind](images, 0.0, 0)
    assert torch.equal(unchanged, images)
    assert unchanged.data_ptr() != images.data_ptr()
    steps = [DAMAGES[kind](images, strength, 0) for strength in STRENGTHS]
    moved = [rms(step, images) for step in steps]
    assert moved == sorted(moved)
    assert 0 < moved[0] < 0.7 * moved[-1]
    assert all(step.shape == images.shape and step.dtype == torch.uint8 for step in steps)
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_seed_decides_and_company_does_not(kind: str) -> None:
    images = scenes()
    damaged = DAMAGES[kind](images, 0.4, 3)
    assert torch.equal(damaged, DAMAGES[kind](images, 0.4, 3))
    assert torch.equal(damaged[:5], DAMAGES[kind](images[:5], 0.4, 3))
    drawn = kind not in ("blur", "jpeg")
    assert torch.equal(damaged, DAMAGES[kind](images, 0.4, 4)) != drawn


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 8), (7, 31), (256, 20)])
def test_any_size(kind: str, size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    assert DAMAGES[kind](images, 0.5, 0).shape == images.shape
    assert DAMAGES[kind](images[:0], 0.5, 0).shape == (0, 3, *size)


def test_noise_is_one_pattern_scaled() -> None:
    grey = torch.full((200, 1, 16, 16), 128, dtype=torch.uint8)
    weak, strong = (DAMAGES["noise"](grey, s, 0).float() - 128 for s in (0.1, 0.4))
    assert float((4 * weak - strong).abs().max()) <= 2.5  # two roundings
    assert float(strong.std()) == pytest.approx(0.4 * 64, rel=0.02)


def test_noise_and_colour_leave_transparency_alone() -> None:
    images = scenes(channels=4)
    for kind in ("noise", "jpeg", "colour_shift"):
        assert torch.equal(DAMAGES[kind](images, 0.8, 0)[:, 3], images[:, 3])


def test_blur_is_gaussian() -> None:
    images = scenes(4, 1, 48, 48)
    blurred = DAMAGES["blur"](images, 0.64, 0)[:, 0].float()
    sigma = 0.8 * 48 / 16
    # a Gaussian integrated over pixels is one whose variance is a twelfth larger
    known = gaussian_filter(
        images[:, 0].numpy().astype(float), (sigma**2 + 1 / 12) ** 0.5, axes=(1, 2), mode="nearest"
    )
    assert float((blurred - torch.from_numpy(known)).abs().max()) < 1.5


def test_weak_blur_is_not_none() -> None:
    images = scenes(4)[:, :, ::4, ::5]
    assert rms(DAMAGES["blur"](images, 0.05, 0), images) > 0.5


def test_jpeg_is_pillows() -> None:
    images = scenes(3)
    coded = DAMAGES["jpeg"](images, 0.5, 0)
    for image, result in zip(images, coded, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=22, subsampling=0)
        np.testing.assert_array_equal(result.permute(1, 2, 0).numpy(), np.asarray(Image.open(file)))


def test_blocks_are_traded_within_the_image_and_nested() -> None:
    images = torch.randint(0, 256, (100, 1, 32, 48), dtype=torch.uint8, generator=torch.manual_seed(0))

    def changed(strength: float) -> Tensor:
        swapped = DAMAGES["block_swap"](images, strength, 0)
        assert torch.equal(swapped.flatten(1).sort().values, images.flatten(1).sort().values)
        blocks = (swapped != images).reshape(100, 8, 4, 12, 4)
        return blocks.any(4).any(2)

    masks = [changed(strength) for strength in (0.05, 0.2, 0.4, 1.0)]
    for weaker, stronger in pairwise(masks):
        assert not (weaker & ~stronger).any()
    assert float(masks[1].float().mean()) == pytest.approx(0.2, abs=0.01)
    assert masks[3].all()


def test_colours_move_as_far_as_they_say() -> None:
    grey = torch.full((1, 3, 4, 4), 128, dtype=torch.uint8)
    shift = (DAMAGES["colour_shift"](grey, 0.5, 7).float() - 128)[0, :, 0, 0]
    assert float(shift.sum()) == pytest.approx(0, abs=1.5)
    assert float(shift.norm()) == pytest.approx(0.5 * 80 * 1.5**0.5, abs=1)


def test_dropped_classes_are_gone_and_the_rest_stays_in_place() -> None:
    labels = torch.arange(500) % 10
    images = (25 * labels + torch.arange(500) // 250).to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    gone: set[int] = set()
    last = images
    for strength in (0.1, 0.3, 0.6, 1.0):
        left = drop_modes(images, labels, strength, 0)
        classes = set((left[:, 0, 0, 0] // 25).tolist())
        assert len(classes) == max(1, 10 - round(10 * strength))
        assert gone <= set(range(10)) - classes
        gone = set(range(10)) - classes
        stays = torch.tensor([int(label) in classes for label in labels])
        assert torch.equal(left[stays], images[stays])
        kept = torch.tensor([int(shown) // 25 in classes for shown in last[:, 0, 0, 0]])
        assert torch.equal(left[kept], last[kept])
        last = left
    assert torch.equal(drop_modes(images, labels, 0, 0), images)
    with pytest.raises(WrongUse, match="499 labels"):
        drop_modes(images, labels[1:], 0.5, 0)


def test_stand_ins_are_spread_over_those_that_stay() -> None:
    images = torch.arange(200).to(torch.uint8)[:, None, None, None]
    left = drop_modes(images, torch.arange(200) % 2, 0.5, 0)
    counts = torch.bincount(left.flatten().long(), minlength=200)
    assert int(counts.sum()) == 200
    assert int(counts.max()) < 12


def test_invented_modes_take_their_share() -> None:
    images, strangers = scenes(40), 255 - scenes(12)
    before = torch.zeros(40, dtype=torch.bool)
    for strength in (0.1, 0.25, 0.5, 1.0):
        mixed = invent_modes(images, strength, 0, strangers)
        strange = (mixed != images).flatten(1).any(1)
        assert int(strange.sum()) == round(40 * strength)
        assert not (before & ~strange).any()
        for image in mixed[strange]:
            assert (strangers == image).flatten(1).all(1).any()
        before = strange
    with pytest.raises(WrongUse, match="same channels"):
        invent_modes(images, 0.5, 0, strangers[:, :1])
    with pytest.raises(DataError, match="no strangers"):
        invent_modes(images, 0.5, 0, strangers[:0])


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strength_must_be_a_share(strength: float) -> None:
    with pytest.raises(WrongUse, match="strength is"):
        DAMAGES["noise"](scenes(2), strength, 0)


def test_only_bytes_are_damaged() -> None:
    with pytest.raises(WrongUse, match="uint8"):
        DAMAGES["noise"](scenes(2).float(), 0.5, 0)
