"""data inspect: odd files, sizes, classes, exact and near copies; and real data where there is some."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data import inspect, open_data
from diptych.data.near import MAX_DISTANCE, _candidates, fingerprints, near_groups

RNG = np.random.default_rng(7)
REAL = Path(__file__).parents[2] / "shared" / "data"


def picture(side: int = 96) -> Image.Image:
    """Random structure with the 1/f spectrum that photos have."""
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    f[0, 0] = np.inf
    bands = [np.fft.ifft2(np.fft.fft2(RNG.normal(size=(side, side))) / f).real for _ in range(3)]
    pixels = np.stack([128 + 45 * band / band.std() for band in bands], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_a_folder_of_everything(tmp_path: Path) -> None:
    for name, n in (("cat", 6), ("dog", 3)):
        (tmp_path / name).mkdir()
        for i in range(n):
            picture().save(tmp_path / name / f"{i}.png")
    original = Image.open(tmp_path / "cat" / "0.png")
    original.save(tmp_path / "dog" / "copy.bmp")  # the same pixels in another format, and with another class
    Image.open(tmp_path / "cat" / "1.png").resize((60, 60), Image.Resampling.BICUBIC).save(
        tmp_path / "cat" / "small.jpg", quality=90
    )
    Image.new("RGBA", (64, 64), (200, 0, 0, 128)).save(tmp_path / "dog" / "red.png")
    Image.new("L", (64, 64), 9).save(tmp_path / "dog" / "dark.png")
    (tmp_path / "dog" / "cut.png").write_bytes((tmp_path / "dog" / "0.png").read_bytes()[:500])
    (tmp_path / "notes.txt").write_text("x")
    found = inspect(tmp_path)
    assert (found.files, found.images) == (15, 13)
    assert found.sizes == {"96x96": 10, "64x64": 2, "60x60": 1}
    assert found.modes == {"RGB": 11, "RGBA": 1, "L": 1}
    assert found.channels == {1: 1, 3: 11, 4: 1}
    assert found.class_counts == {"cat": 7, "dog": 6}
    assert found.exact == (("cat/0.png", "dog/copy.bmp"),)
    assert found.conflicts == 1
    assert found.near == (("cat/1.png", "cat/small.jpg"),)
    assert found.uniform == 2
    assert {i.file: i.done for i in found.incidents} == {
        "dog/cut.png": "left out",
        "notes.txt": "left out",
        "dog/red.png": "composited on white unless 4 channels are asked for",
    }
    assert json.loads(json.dumps(found.to_json()))["near"] == [["cat/1.png", "cat/small.jpg"]]
    text = str(found)
    for part in (
        "13 images of 15 files",
        "cat/0.png = dog/copy.bmp",
        "dog/cut.png: truncated PNG -> left out",
    ):
        assert part in text


def test_arrays_and_leaks_across_the_split(tmp_path: Path) -> None:
    x = np.stack([np.asarray(picture(20)) for _ in range(10)])
    t = np.stack([np.asarray(picture(20)) for _ in range(4)])
    t[2] = x[5]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(10) % 2, x_test=t, y_test=np.arange(4) % 2)
    found = inspect(tmp_path / "a.npz")
    assert (found.files, found.images, found.split) == (0, 14, {"train": 10, "held out": 4})
    assert found.exact == (("x_train[5]", "x_test[2]"),)
    assert (found.shared, found.conflicts) == (1, 1)


def changed(image: Image.Image, how: str) -> Image.Image:
    if how == "jpeg":
        out = io.BytesIO()
        image.save(out, "JPEG", quality=40)
        return Image.open(io.BytesIO(out.getvalue())).convert("RGB")
    if how == "half":
        return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    noisy = np.asarray(image) + np.random.default_rng(0).normal(0, 6, (image.height, image.width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("how", ["jpeg", "half", "noise"])
def test_changed_copies_are_found_and_strangers_are_not(how: str) -> None:
    originals = [picture() for _ in range(200)]
    codes, thumbs = fingerprints([*originals, *(changed(image, how) for image in originals[:50])])
    groups, flat = near_groups(codes, thumbs, np.full(250, 96))
    assert flat == 0
    pairs = {tuple(group) for group in groups}
    assert pairs <= {(i, 200 + i) for i in range(50)}
    assert len(pairs) >= 48


def test_the_same_scene_in_another_colour_is_no_copy() -> None:
    y, x = np.mgrid[:96, :96]
    disc = (np.hypot(x - 40, y - 50) < 25)[..., None]
    colours = [(255, 60, 60), (60, 60, 255), (60, 160, 60)]
    images = [Image.fromarray(np.where(disc, c, 240).astype(np.uint8)) for c in colours]
    assert near_groups(*fingerprints(images), np.full(3, 96))[0] == []
    assert near_groups(*fingerprints([images[0], images[0]]), np.full(2, 96))[0] == [[0, 1]]


def test_nearly_uniform_images_are_not_compared() -> None:
    images = [Image.new("L", (40, 40), level) for level in range(100)]
    assert near_groups(*fingerprints(images), np.full(100, 40)) == ([], 100)


def test_candidates_are_all_pairs_within_the_distance() -> None:
    codes = RNG.integers(0, 2**63, 300, dtype=np.uint64)
    flips = [
        np.uint64(sum(1 << int(b) for b in RNG.choice(64, k, replace=False)))
        for k in range(9)
        for _ in range(20)
    ]
    codes = np.concatenate([codes, codes[: len(flips)] ^ np.array(flips, np.uint64)])
    distance = np.bitwise_count(codes[:, None] ^ codes[None])
    expected = {(i, j) for i, j in np.argwhere(distance <= MAX_DISTANCE).tolist() if i < j}
    assert {tuple(pair) for pair in _candidates(codes).tolist()} == expected
    assert len(expected) >= 120


def test_seventy_thousand_hashes_take_seconds() -> None:
    codes = RNG.integers(0, 2**63, 70_000, dtype=np.uint64)
    codes[68_000:] &= np.uint64(0xFFFF)  # two thousand with little to tell them apart
    begin = time.process_time()
    _candidates(codes)
    assert time.process_time() - begin < 15


def test_tiny_images_are_compared_exactly_only() -> None:
    found = inspect("digits")
    assert (found.images, found.near, found.exact) == (1797, (), ())
    assert "under 16 px" in str(found)


needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the shared data sets are not here")


@needs_real
def test_fashion_mnist_is_read_as_published() -> None:
    data = open_data(REAL / "fashion_mnist" / "fashion_mnist.npz")
    assert (data.card.n_train, data.card.n_held_out, data.card.shape) == (60_000, 10_000, (1, 28, 28))
    assert set(data.card.class_counts.values()) == {7000}
    # the published mean and deviation of the training images
    assert data.train.pixels.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert data.train.pixels[::10].std() / 255 == pytest.approx(0.3530, abs=3e-3)


@needs_real
def test_photos_of_many_sizes() -> None:
    source = REAL / "caltech_photos" / "caltech_photos.zip"
    data = open_data(source, size=32)
    assert len(data.train) + len(data.held_out) == 869
    assert data.train.classes == 97
    found = inspect(source)
    assert ("pigeon/image_0002.jpg", "pigeon/image_0006.jpg") in found.near  # the pair that its README names


@needs_real
def test_a_zip_with_an_official_split() -> None:
    data = open_data(REAL / "flowers" / "flowers_128.zip", size=32)
    assert (data.card.n_train, data.card.n_held_out) == (2927, 736)
    assert data.card.class_counts["roses"] == 639
