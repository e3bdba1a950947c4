"""What can be measured and against what: every kind is recognised, and what is odd is an error or is said."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import made_up
from diptych.adversarial.latent import LatentModel
from diptych.data import open_data, open_whole
from diptych.data.images import Images
from diptych.errors import DataError, RunError, WrongUse
from diptych.exam import Exam
from diptych.measuring.reference import FIRST_SEED, open_all, open_reference
from diptych.measuring.subject import Subject, check_prompts, open_subject, recognise
from diptych.networks.r3gan import R3Generator
from diptych.runs import save_model

RNG = np.random.default_rng(5)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03}.png")
    return path


def generator(shape: tuple[int, int, int] = (3, 8, 8)) -> LatentModel:
    torch.manual_seed(0)
    return LatentModel(R3Generator(shape, classes=3, width=8, blocks=1))


def run(path: Path, source: Path, **arguments: Any) -> Path:
    """A run directory as training leaves it, without the training."""
    card = open_data(source, **arguments).card
    save_model(generator(card.shape), path)
    data = {"source": str(source), "arguments": card.arguments, "held_out_sha256": card.held_out_sha256}
    (path / "recipe.json").write_text(json.dumps({"recipe": "r3gan", "data": data}))
    line = {"images": 64, "seconds": 1.5, "flop": 2e9, "finished": True}
    (path / "log.jsonl").write_text(json.dumps(line) + "\n")
    return path


def test_images_of_every_kind_all_count_in_their_own_order(tmp_path: Path) -> None:
    images = noise(9, 8, 8, 3)
    folder(tmp_path / "photos", images)
    np.savez(tmp_path / "a.npz", arr_0=images, arr_1=np.arange(9) % 3)  # as guided-diffusion writes samples
    np.save(tmp_path / "b.npy", images)
    for name in ("photos", "a.npz", "b.npy"):
        subject = open_subject(tmp_path / name)
        assert (subject.kind, subject.name, subject.model) == ("images", name.split(".")[0], None)
        assert subject.images is not None
        assert np.array_equal(subject.images.pixels, images)
    labelled = open_subject(tmp_path / "a.npz").images
    assert labelled is not None
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [i % 3 for i in range(9)]
    digits = open_subject("digits").images
    assert digits is not None
    assert len(digits) == 1797


def test_both_sides_of_a_given_split_count(tmp_path: Path) -> None:
    x, t = noise(5, 8, 8), noise(4, 8, 8)
    np.savez(tmp_path / "a.npz", x_train=x, x_test=t)
    assert np.array_equal(open_whole(tmp_path / "a.npz").held_out.pixels[..., 0], np.concatenate([x, t]))
    assert len(open_whole(tmp_path / "a.npz").train) == 0
    cached = open_whole(tmp_path / "a.npz", cache=tmp_path / "cache")
    again = open_whole(tmp_path / "a.npz", cache=tmp_path / "cache")
    assert cached.card == again.card
    assert np.array_equal(again.held_out.pixels, cached.held_out.pixels)


def test_a_run_a_saved_model_and_objects(tmp_path: Path) -> None:
    source = folder(tmp_path / "photos", noise(20, 8, 8, 3))
    subject = open_subject(run(tmp_path / "a", source))
    assert (subject.kind, subject.recipe, subject.run) == ("run", "r3gan", str(tmp_path / "a"))
    assert subject.training == {"images": 64, "seconds": 1.5, "flop": 2e9}
    assert subject.data is not None
    assert subject.data["source"] == str(source)
    save_model(generator(), tmp_path / "bare")
    bare = open_subject(tmp_path / "bare")
    assert (bare.kind, bare.recipe, bare.data) == ("saved model", "LatentModel", None)
    assert bare.model is not None
    assert torch.equal(bare.model.sample(range(3)), generator().sample(range(3)))
    data = made_up()
    whole = open_subject(data).images
    assert whole is not None
    assert np.array_equal(whole.pixels, np.concatenate([data.train.pixels, data.held_out.pixels]))
    assert open_subject(generator(), name="mine").name == "mine"
    assert open_subject(bare).model is bare.model


def test_another_size_is_resized_as_data_are_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder(tmp_path / "large", noise(6, 16, 20, 3))
    np.save(tmp_path / "large.npy", noise(6, 16, 16, 3))
    for name, found in (("large", "20x16"), ("large.npy", "16x16")):
        subject = open_subject(tmp_path / name, shape=(3, 8, 8))
        assert subject.images is not None
        expected = open_whole(tmp_path / name, size=8).held_out.pixels
        assert np.array_equal(subject.images.pixels, expected)
        said = f"{found} images were resized: crop to the central square, bicubic antialiased, 8 px"
        assert subject.notes == (said,)
        assert f"large: {said}" in caplog.messages
    again = open_subject(open_subject(tmp_path / "large.npy"), shape=(3, 8, 8)).images
    assert again is not None
    assert np.array_equal(again.pixels, open_whole(tmp_path / "large.npy", size=8).held_out.pixels)


def test_several_sizes_are_counted(tmp_path: Path) -> None:
    folder(tmp_path / "a", noise(5, 16, 16, 3))
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a" / "small.png")
    (note,) = open_subject(tmp_path / "a", shape=(3, 8, 8)).notes
    assert note.startswith("images of 2 sizes, 16x16 (5), 8x8 (1), were resized: crop")
    with pytest.raises(DataError, match="2 different sizes"):
        open_subject(tmp_path / "a")


def test_a_shape_that_is_no_square_cannot_be_made(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(6, 16, 16, 3))
    with pytest.raises(DataError, match="squares only"):
        open_subject(tmp_path / "a.npy", shape=(3, 8, 10))


def test_grey_becomes_colour_but_colour_does_not_become_grey(tmp_path: Path) -> None:
    grey, colour = noise(6, 8, 8), noise(6, 8, 8, 3)
    np.save(tmp_path / "grey.npy", grey)
    np.save(tmp_path / "colour.npy", colour)
    np.save(tmp_path / "equal.npy", np.repeat(grey[..., None], 3, -1))
    subject = open_subject(tmp_path / "grey.npy", shape=(3, 8, 8))
    assert subject.notes == ("grey images were given three equal channels",)
    assert subject.images is not None
    assert all(np.array_equal(subject.images.pixels[..., c], grey) for c in range(3))
    with pytest.raises(DataError, match="colour images, but the reference is grey") as error:
        open_subject(tmp_path / "colour.npy", shape=(1, 8, 8))
    assert "--channels 1" in error.value.hint
    for source in (tmp_path / "equal.npy", Images(np.repeat(grey[..., None], 3, -1))):
        found = open_subject(source, shape=(1, 8, 8)).images  # stored as colour, but grey
        assert found is not None
        assert np.array_equal(found.pixels[..., 0], grey)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_located(tmp_path: Path, bad: float) -> None:
    images = RNG.random((7, 8, 8, 3), np.float32)
    images[4, 2, 2, 1] = images[6, 0, 0, 0] = bad
    np.savez(tmp_path / "a.npz", arr_0=images)
    with pytest.raises(DataError, match=r"a\.npz.*not finite is arr_0\[4\]"):
        open_subject(tmp_path / "a.npz")


def test_floats_of_a_range_that_nobody_means(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RNG.random((7, 8, 8, 3)) * 255)
    with pytest.raises(DataError, match="floats from"):
        open_subject(tmp_path / "a.npy")


def test_two_ranges_in_one_file_are_said(tmp_path: Path) -> None:
    unit = RNG.random((8, 8, 8, 3))
    np.save(tmp_path / "a.npy", np.concatenate([unit, 2 * unit - 1]))
    notes = " ".join(open_subject(tmp_path / "a.npy").notes)
    assert "float64 in -1..1" in notes
    assert "8 of 16 images have no value below 0" in notes
    np.save(tmp_path / "b.npy", 2 * unit - 1)
    assert "below 0" not in " ".join(open_subject(tmp_path / "b.npy").notes)


def test_images_that_are_all_the_same_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "a.npy", np.repeat(noise(1, 8, 8, 3), 5, 0))
    assert "all 5 images are the same" in open_subject(tmp_path / "a.npy").notes
    assert "a: all 5 images are the same" in caplog.messages
    np.save(tmp_path / "b.npy", noise(5, 8, 8, 3))
    assert open_subject(tmp_path / "b.npy").notes == ()


def test_nothing_to_measure(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.png").write_text("not a picture")
    (tmp_path / "notes.txt").write_text("hello")
    np.save(tmp_path / "none.npy", noise(0, 8, 8, 3))
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04")
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "recipe.json").write_text('{"recipe": "edm"}')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "recipe.json").write_text("[]")
    cases: list[tuple[str, type[Exception], str]] = [
        ("empty", DataError, "holds no images"),
        ("texts", DataError, "none of the 1 files"),
        ("notes.txt", DataError, "none that holds many images"),
        ("none.npy", DataError, "holds no images"),
        ("nowhere", DataError, "there is no file, folder or built-in set"),
        ("weights.pt", DataError, "without a description of their model"),
        ("untrained", RunError, "has no model yet"),
        ("odd", RunError, "cannot be read"),
        (".", RunError, "is not a run, but holds 2"),
    ]
    for name, kind, message in cases:
        with pytest.raises(kind, match=message):
            open_subject(tmp_path / name)


def test_labels_are_numbered_as_the_reference_does(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", arr_0=noise(6, 8, 8, 3), arr_1=np.array([0, 2, 2, 0, 2, 0])
    )  # none of class 1
    names = ("cat", "dog", "owl")
    images = open_subject(tmp_path / "a.npz", classes=names).images
    assert images is not None
    assert images.labels is not None
    assert images.labels.tolist() == [0, 2, 2, 0, 2, 0]
    assert images.class_names == names


def test_the_reference_of_runs_is_their_held_out_split(tmp_path: Path) -> None:
    source = folder(tmp_path / "photos", noise(30, 16, 16, 3))
    subject = open_subject(run(tmp_path / "a", source, size=8, held_out=7))
    data = open_reference(like=[subject])
    assert data.held_out.sha256 == open_data(source, size=8, held_out=7).held_out.sha256
    assert len(data.train) == 23
    moved = source.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="data of a cannot be opened") as error:
        open_reference(like=[subject])
    assert "--against" in error.value.hint
    assert open_reference(moved, like=[subject]).held_out.sha256 == data.held_out.sha256


def test_a_run_whose_data_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder(tmp_path / "photos", noise(30, 8, 8, 3))
    subject = open_subject(run(tmp_path / "a", source))
    folder(source, noise(30, 8, 8, 3))
    with pytest.raises(RunError, match="no longer what a was trained on"):
        open_reference(like=[subject])
    assert len(open_reference(source, like=[subject]).held_out) == 6  # named on purpose: said, not refused
    assert "may have seen some of them" in caplog.text
    whole = open_reference(source, like=[subject], split="all")
    assert (len(whole.train), len(whole.held_out)) == (0, 30)
    assert "those that it was trained on too" in caplog.text


def test_the_reference_of_images_is_the_whole_set(tmp_path: Path) -> None:
    pixels = noise(30, 8, 8, 3)
    source = folder(tmp_path / "photos", pixels)
    np.save(tmp_path / "fakes.npy", noise(12, 16, 16))
    (subject,), data = open_all([tmp_path / "fakes.npy"], source)
    assert np.array_equal(data.held_out.pixels, pixels)
    assert (len(data.train), data.train.shape) == (0, (3, 8, 8))
    assert data.card.name == "photos, all images"
    assert subject.shape == (3, 8, 8)  # resized, and given three channels
    assert len(subject.notes) == 2
    held = open_reference(source, like=[subject], split="held_out")
    assert (len(held.held_out), len(held.train), held.card.name) == (6, 24, "photos")
    exam = Exam(None, data, fakes=subject.images)
    assert (exam.n, exam.card.data) == (12, "photos, all images")
    assert exam.images("fake").shape == exam.images("real").shape == (12, 3, 8, 8)


def test_models_set_the_shape(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder(tmp_path / "photos", noise(10, 16, 16, 3))
    Image.fromarray(noise(20, 24, 3)).save(source / "other.png")
    np.save(tmp_path / "fakes.npy", noise(12, 8, 8, 3))
    subjects, data = open_all([tmp_path / "fakes.npy", generator()], source)
    assert data.held_out.shape == (3, 8, 8)
    assert [subject.kind for subject in subjects] == ["images", "model"]
    assert "images of several sizes were brought to 8x8 with 3 channels: crop to the central" in caplog.text
    (_,), data = open_all([tmp_path / "fakes.npy"], source)  # without a model, as the samples have
    assert data.held_out.shape == (3, 8, 8)
    with pytest.raises(WrongUse, match="8x8 with 3 channels, but LatentModel 8x8 with 1 channel"):
        open_all([generator(), generator((1, 8, 8))], source)


def test_another_model_can_be_the_reference(tmp_path: Path) -> None:
    save_model(generator(), tmp_path / "a")
    np.save(tmp_path / "fakes.npy", noise(12, 8, 8, 3))
    _, data = open_all([tmp_path / "fakes.npy"], tmp_path / "a", n=6, seed=2)
    expected = generator().sample(range(FIRST_SEED + 2, FIRST_SEED + 8))
    assert torch.equal(data.held_out.tensor(), expected)
    assert data.held_out.labels is not None
    assert data.held_out.labels.tolist() == [seed % 3 for seed in range(FIRST_SEED + 2, FIRST_SEED + 8)]
    assert data.card.name == "samples of a"


def test_a_data_set_as_the_reference() -> None:
    data = made_up()
    assert open_reference(data) is data
    whole = open_reference(data, split="all")
    assert (len(whole.train), len(whole.held_out)) == (0, 96)
    assert whole.card.held_out_sha256 == whole.held_out.sha256 != data.card.held_out_sha256


def test_a_whole_data_set_keeps_all_that_is_known_of_its_images() -> None:
    pixels = noise(6, 4, 4, 1)
    known = Images(
        pixels,
        captions=tuple("abcdef"),
        factors={"size": np.arange(6)},
        attributes=np.arange(12, dtype=np.float32).reshape(6, 2),
        attribute_names=("a", "b"),
    )
    data = replace(made_up(), train=known.subset(slice(0, 4)), held_out=known.subset(slice(4, 6)))
    whole = open_reference(data, split="all").held_out
    assert whole.sha256 == known.sha256
    assert (whole.captions, whole.told) == (known.captions, 2)
    assert list(whole.factors["size"]) == list(range(6))
    other = replace(known, attribute_names=("b", "c"), captions=None, factors={})
    mixed = known.joined(other)
    assert (len(mixed), mixed.attributes, mixed.attribute_names) == (12, None, ())
    assert (mixed.captions, mixed.factors) == (None, {})


def test_nothing_says_what_to_measure_against(tmp_path: Path) -> None:
    subject = Subject("x", "images", images=made_up().train)
    with pytest.raises(WrongUse, match="nothing says what to measure against"):
        open_reference(like=[subject])
    sources = [folder(tmp_path / name, noise(12, 8, 8, 3)) for name in ("one", "two")]
    runs = [open_subject(run(tmp_path / f"run-{source.name}", source)) for source in sources]
    with pytest.raises(WrongUse, match="run-one and run-two were trained on different data"):
        open_reference(like=runs)
    with pytest.raises(WrongUse, match="no split called 'test'"):
        open_reference(sources[0], split="test")  # type: ignore[arg-type]


def test_recognising_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{ broken")
    assert recognise(tmp_path) == "diffusers pipeline"
    assert recognise("shapes:50") == "images"


def test_models_without_texts_need_no_prompt() -> None:
    check_prompts(open_subject(generator()), None)


def test_nothing_is_said_where_nothing_is_odd(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "a.npy", noise(6, 8, 8, 3))
    with caplog.at_level(logging.WARNING, "diptych"):
        open_all([tmp_path / "a.npy"], tmp_path / "a.npy")
    assert not caplog.messages


def test_channels_that_are_asked_for_are_given(tmp_path: Path) -> None:
    colour = noise(12, 10, 8, 3)
    np.save(tmp_path / "a.npy", colour)
    folder(tmp_path / "b", colour)
    np.save(tmp_path / "small.npy", noise(12, 8, 8, 3))
    subjects, data = open_all([tmp_path / "a.npy", tmp_path / "b"], tmp_path / "a.npy", channels=1, size=8)
    for subject in subjects:
        assert subject.images is not None  # the same way as the reference: equal to the last bit
        assert np.array_equal(subject.images.pixels, data.held_out.pixels)
    held = Images(colour)
    (subject,), _ = open_all([held], tmp_path / "a.npy", channels=1, size=8)
    assert subject.images is not None
    assert np.array_equal(subject.images.pixels, data.held_out.pixels)
    grey = open_subject(held, channels=1).images
    assert grey is not None
    assert grey.shape == (1, 10, 8)
    with pytest.raises(DataError, match="but the reference is grey"):  # not asked for
        open_all([tmp_path / "small.npy"], Images(noise(5, 8, 8, 1)))
    (_, subject), data = open_all([generator(), tmp_path / "a.npy"], tmp_path / "small.npy", channels=1)
    assert data.held_out.shape == subject.shape == (3, 8, 8)  # models set the shape
    assert subject.images is not None
    assert not np.array_equal(subject.images.pixels[..., 0], subject.images.pixels[..., 1])


def test_a_fit_that_is_asked_for_wins_over_a_run(tmp_path: Path) -> None:
    source = folder(tmp_path / "photos", noise(30, 16, 20, 3))
    subject = open_subject(run(tmp_path / "a", source, size=8, fit="pad"))
    for asked, meant in ((None, "pad"), ("crop", "crop"), ("stretch", "stretch")):
        data = open_reference(like=[subject], fit=asked)  # type: ignore[arg-type]
        expected = open_data(source, size=8, fit=meant).held_out  # type: ignore[arg-type]
        assert data.held_out.sha256 == expected.sha256


def test_images_beside_a_run_are_fitted_as_its_data_were(tmp_path: Path) -> None:
    source = folder(tmp_path / "photos", noise(30, 16, 20, 3))
    trained = run(tmp_path / "a", source, size=8, fit="pad")
    for asked, meant in ((None, "pad"), ("stretch", "stretch")):
        (_, found), _ = open_all([trained, source], fit=asked)  # type: ignore[arg-type]
        expected = open_subject(source, shape=(3, 8, 8), fit=meant).images  # type: ignore[arg-type]
        assert found.images is not None
        assert expected is not None
        assert np.array_equal(found.images.pixels, expected.pixels)
