"""The held-out split: decided by pixels alone, copies on one side; and the built-in sets."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data import Images, open_data
from diptych.data.builtin import COLOURS, KINDS, SIZES, shapes
from diptych.data.split import SALT, made_here, pixel_groups, wanted
from diptych.errors import DataError, WrongUse

RNG = np.random.default_rng(5)


def write(folder: Path, images: np.ndarray, names: list[str]) -> Path:
    folder.mkdir()
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name)
    return folder


def contents(images: Images) -> set[bytes]:
    return {image.tobytes() for image in images.pixels}


def test_names_and_order_do_not_matter(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (50, 8, 8), dtype=np.uint8)
    names = [f"{i:02}.png" for i in range(50)]
    first = open_data(write(tmp_path / "a", images, names))
    other = open_data(write(tmp_path / "b", images[::-1], [f"x{n}" for n in names]))
    assert contents(first.held_out) == contents(other.held_out)
    assert len(first.held_out) == 10
    expected = sorted(images, key=lambda image: hashlib.sha256(SALT + image.tobytes()).digest())[:10]
    assert contents(first.held_out) == {image.tobytes() for image in expected}


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    copies = np.concatenate([images, images[:8], images[:8]])
    data = open_data(write(tmp_path / "a", copies, [f"{i:02}.png" for i in range(36)]))
    assert not contents(data.train) & contents(data.held_out)
    assert len(data.train) + len(data.held_out) == 36
    assert len(data.held_out) == 7


def test_groups_rank_by_hash() -> None:
    images = RNG.integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    images[200:] = images[:100]
    groups = pixel_groups(images)
    digests = [hashlib.sha256(SALT + image.tobytes()).digest() for image in images]
    rank = {digest: i for i, digest in enumerate(sorted(set(digests)))}
    assert groups.tolist() == [rank[digest] for digest in digests]


def test_how_many() -> None:
    assert [wanted(None, n) for n in (4, 100, 1797, 50_000, 1_000_000)] == [2, 20, 359, 10_000, 10_000]
    assert wanted(0.25, 1000) == 250
    assert wanted(17, 1000) == 17
    assert wanted(0.001, 100) == 2
    with pytest.raises(WrongUse, match="99 of 100"):
        wanted(99, 100)


def test_too_few_different_images() -> None:
    for n in range(4):
        with pytest.raises(DataError, match="at least 4 are needed"):
            made_here(np.arange(n), 0, "here")
    with pytest.raises(DataError, match="9 images in here are copies of 1 image"):
        made_here(np.zeros(9, np.int64), 2, "here")
    assert made_here(np.arange(4), 2, "here").sum() == 2
    assert made_here(np.array([0, 0, 0, 1, 1]), 2, "here").tolist() == [False, False, False, True, True]


def test_each_class_keeps_an_image_to_learn_from(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    order = np.argsort([hashlib.sha256(SALT + image.tobytes()).digest() for image in images], kind="stable")
    labels = np.arange(60) % 3
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    usual = open_data(tmp_path / "a.npz")
    assert contents(usual.held_out) == {images[i].tobytes() for i in order[:12]}  # as without classes
    labels[order[[0, 5]]] = 3, 4  # alone in their classes, and first in the order of the hashes
    labels[order[[2, 3]]] = 5  # two of one class
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    data = open_data(tmp_path / "a.npz")
    assert contents(data.held_out) == {images[i].tobytes() for i in order[[1, 2, 4, *range(6, 15)]]}
    assert data.train.labels is not None
    assert set(data.train.labels.tolist()) == set(range(6))
    assert data.card.incidents == ()


def test_classes_that_nothing_can_be_learned_of_are_named(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(40))  # each its own class
    np.savez(tmp_path / "plain.npz", images=images)
    data = open_data(tmp_path / "a.npz")
    assert contents(data.held_out) == contents(open_data(tmp_path / "plain.npz").held_out)
    (incident,) = data.card.incidents
    assert incident.what.startswith("8 of 40 classes have no image in the training split: ")
    parts = {"x_train": images[:20], "y_train": np.arange(20) % 2, "x_test": images[20:]}
    np.savez(tmp_path / "b.npz", **parts, y_test=np.arange(20) % 3)
    (incident,) = open_data(tmp_path / "b.npz").card.incidents
    assert incident.what == "1 of 3 classes have no image in the training split: 2"


def test_held_out_as_fraction_and_count() -> None:
    assert [len(open_data("shapes:100", held_out=h).held_out) for h in (0.5, 7, 7.0, None)] == [50, 7, 7, 20]
    with pytest.raises(WrongUse, match="neither a fraction nor a count"):
        open_data("shapes:100", held_out=7.5)


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    data, truth = open_data("digits"), load_digits()
    assert (data.card.n_train, data.card.n_held_out, data.card.shape) == (1438, 359, (1, 8, 8))
    pixels = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): t
        for image, t in zip(truth.images, truth.target, strict=True)
    }
    for part in (data.train, data.held_out):
        assert part.labels is not None
        assert [pixels[image.tobytes()] for image in part.pixels] == part.labels.tolist()
    assert data.train.pixels.max() == 255
    assert open_data("digits", size=16).card.shape == (1, 16, 16)


def test_digits_are_the_same_in_another_process() -> None:
    code = "from diptych.data import open_data; c = open_data('digits').card; print(c.train_sha256)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == open_data("digits").card.train_sha256


def test_shapes_are_deterministic_and_grow() -> None:
    few, many = shapes(50, 16), shapes(200, 16)
    assert np.array_equal(few.pixels, many.pixels[:50])
    assert few.captions == (many.captions or ())[:50]
    digest = hashlib.sha256(shapes(64, 32).pixels.tobytes()).hexdigest()
    assert digest == hashlib.sha256(shapes(64, 32).pixels.tobytes()).hexdigest()
    small, large = shapes(20, 16).pixels.astype(float), shapes(20, 128).pixels.astype(float)
    averaged = large.reshape(20, 16, 8, 16, 8, 3).mean((2, 4))
    assert np.abs(averaged - small).mean() < 2.5  # the same scenes at every size


def test_shapes_show_what_their_factors_say() -> None:
    stack = shapes(400, 64)
    factors, palette = stack.factors, np.array(list(COLOURS.values()))
    assert np.array_equal(stack.pixels[:, 0, 0], palette[factors["background"]])
    assert bool((factors["colour"] != factors["background"]).all())
    assert {len(np.unique(factors[f])) for f in ("shape", "size", "colour", "background")} == {5, 3, 8}
    axis = (np.arange(64) + 0.5) / 32 - 1
    for i in range(400):
        cover = np.abs(stack.pixels[i].astype(int) - palette[factors["background"][i]]).sum(-1)
        cover = cover / np.abs(palette[factors["colour"][i]] - palette[factors["background"][i]]).sum()
        r = factors["radius"][i]
        area = cover.sum() / 32**2
        expected = {
            "circle": np.pi * r**2,
            "cross": (4 * 0.64 - 4 * 0.32**2) * r**2,
            "ring": np.pi * r**2 * 0.75,
            "square": (1.6 * r) ** 2,
            "triangle": 3 * np.sqrt(3) / 4 * r**2,
        }[KINDS[factors["shape"][i]]]
        assert area == pytest.approx(expected, rel=0.04)
        centre = (cover * axis[None]).sum() / cover.sum(), (cover * axis[:, None]).sum() / cover.sum()
        assert centre == pytest.approx((factors["x"][i], factors["y"][i]), abs=0.02)
        assert 0.0 <= cover.max() <= 1.0001
    assert stack.captions is not None
    c = {name: int(factors[name][7]) for name in ("size", "colour", "shape", "background")}
    names = list(COLOURS)
    words = f"{SIZES[c['size']]} {names[c['colour']]} {KINDS[c['shape']]} on a"
    assert words in stack.captions[7]
    assert not any(" a orange" in caption for caption in stack.captions)


def test_shapes_through_open_data() -> None:
    data = open_data("shapes:300", size=24)
    assert (data.card.n_train, data.card.n_held_out, data.card.shape) == (240, 60, (3, 24, 24))
    assert data.card.fit == "drawn at 24 px"
    for part in (data.train, data.held_out):
        assert part.captions is not None
        assert part.labels is not None
        for i in range(len(part)):
            assert KINDS[part.labels[i]] in part.captions[i]
            assert part.factors["shape"][i] == part.labels[i]
    assert open_data("shapes:10").card.shape == (3, 32, 32)
    for name in ("shapes:3", "shapes:many", "shapes:-5"):
        with pytest.raises(WrongUse, match="how many scenes"):
            open_data(name)
    with pytest.raises(DataError, match="no built-in set"):
        open_data("digits:5")
