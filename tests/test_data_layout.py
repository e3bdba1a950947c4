"""What the names of folders and files say: runs among the images, splits, classes and their order, links."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data import DataSet, inspect, open_data
from diptych.data.layout import ordered
from diptych.errors import DataError

RNG = np.random.default_rng(8)


def photos(folder: Path, n: int = 6, size: tuple[int, int] = (16, 16), most: int = 255) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = RNG.integers(0, most, (*size, 3), dtype=np.uint8, endpoint=True)
        Image.fromarray(pixels).save(folder / f"photo{i}.png")
    return folder


def said(data: DataSet) -> dict[str, tuple[str, str]]:
    return {incident.file: (incident.what, incident.done) for incident in data.card.incidents}


def test_runs_in_the_folder_of_images_are_not_images(tmp_path: Path) -> None:
    """As `diptych train dcgan . --out runs/a` leaves them, which is then begun again."""
    before = open_data(photos(tmp_path), size=8)
    for name, marks in (
        ("runs/a", ["recipe.json"]),
        ("saved", ["model.json"]),
        ("duel", ["report.json", "report.md"]),
    ):
        photos(tmp_path / name / "samples", 3, (40, 90))
        photos(tmp_path / name, 1, (40, 90))
        for mark in marks:
            (tmp_path / name / mark).write_text("{}")
    (tmp_path / "model.json").write_text("{}")  # of the folder itself: it is what was asked for
    after = open_data(tmp_path, size=8)
    assert after.card.train_sha256 == before.card.train_sha256
    assert after.train.labels is None
    found = said(after)
    assert found.pop("model.json")[0] == "not an image, by its name"
    assert found == dict.fromkeys(
        ("duel/", "runs/a/", "saved/"), ("a run or a model, not images", "left out")
    )
    assert inspect(tmp_path).files == 7


@pytest.mark.parametrize(
    ("train", "held_out", "unused"),
    [
        ("training", "testing", None),
        ("Train", "dev", None),
        ("train", "eval", None),
        ("train2017", "test2017", "val2017"),
        ("train_2014", "val-2014", None),
    ],
)
def test_names_of_splits(tmp_path: Path, train: str, held_out: str, unused: str | None) -> None:
    for split, n in ((train, 5), (held_out, 3), (unused, 2)):
        for name in ("a", "b") if split else ():
            photos(tmp_path / split / name, n)
    data = open_data(tmp_path)
    assert (len(data.train), len(data.held_out)) == (10, 6)
    assert data.train.class_names == ("a", "b")
    assert said(data) == ({f"{unused}/": ("a third split, 4 files", "not used")} if unused else {})


def test_classes_from_folders_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in sets that only keep their files in parcels of a thousand."""
    for i in range(8):
        photos(tmp_path / f"{i:02}000", 2)
    with caplog.at_level(logging.INFO, "diptych"):
        open_data(tmp_path)
    told = [r.getMessage() for r in caplog.records if "subfolders" in r.getMessage()]
    assert told == [
        "8 classes, from the subfolders: 00000, 01000, 02000, 03000, 04000, 05000, ..."
        " (--attributes none takes none)"
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO, "diptych"):
        plain = open_data(tmp_path, attributes="none")
    assert not [r for r in caplog.records if "subfolders" in r.getMessage()]
    assert plain.train.labels is None


def test_numbers_are_in_their_order(tmp_path: Path) -> None:
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(photos(tmp_path / str(i), 0) / "a.png")
        Image.new("L", (8, 8), 20 * i + 1).save(tmp_path / str(i) / "b.png")
    data = open_data(tmp_path)
    assert data.train.class_names == tuple(map(str, range(12)))
    assert data.train.labels is not None
    assert (data.train.pixels[:, 0, 0, 0] // 20).tolist() == data.train.labels.tolist()
    assert list(inspect(tmp_path).class_counts) == list(data.train.class_names)
    assert ordered(["10", "9a"]) == ["10", "9a"]


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "a")
    (tmp_path / "b" / "locked").mkdir(parents=True)
    for name in ("scandir", "listdir"):

        def refuse(path: object, read: Callable[..., object] = getattr(os, name)) -> object:
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(os, name, refuse)
    assert said(open_data(tmp_path)) == {"b/locked/": ("Permission denied", "left out")}
    with pytest.raises(DataError, match="locked cannot be read: Permission denied"):
        open_data(tmp_path / "b" / "locked")


def test_a_second_way_to_a_folder_is_named(tmp_path: Path) -> None:
    photos(tmp_path / "zebra")
    photos(tmp_path / "dog")
    os.symlink(tmp_path / "zebra", tmp_path / "ant")
    data = open_data(tmp_path)
    assert data.train.class_names == ("ant", "dog")
    assert said(data) == {"zebra/": ("the same folder as ant/", "left out")}


def test_a_folder_with_the_name_of_a_built_in_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    open_data("digits")
    assert not caplog.messages
    photos(tmp_path / "digits")
    assert open_data("digits").card.shape == (1, 8, 8)
    assert caplog.messages == ["digits is the built-in set; write ./digits for what lies here by that name"]
    for source in (Path("digits/"), "./digits", "digits/"):
        card = open_data(source).card
        assert card.shape == (3, 16, 16)
        assert open_data(card.source).card.shape == (3, 16, 16)
        assert inspect(source).images == 6


def test_a_set_without_a_bright_pixel_is_named(tmp_path: Path) -> None:
    dark = {"set": ("the brightest pixel of all is 16 of 255: a wrong range?", "kept as it is")}
    photos(tmp_path / "set", most=16)
    assert said(open_data(tmp_path / "set")) == dark
    assert [(i.file, (i.what, i.done)) for i in inspect(tmp_path / "set").incidents] == [*dark.items()]
    np.savez(tmp_path / "set.npz", images=RNG.integers(0, 17, (8, 8, 8), dtype=np.uint8))
    assert said(open_data(tmp_path / "set.npz")) == dark
    clear = np.zeros((8, 8, 4), np.uint8)  # black strokes on nothing: bright where they lie on white
    for i in range(4):
        clear[i, i, 3] = 255
        Image.fromarray(clear).save(photos(tmp_path / "icons", 0) / f"{i}.png")
    assert "icons" not in said(open_data(tmp_path / "icons", channels=4))


def test_a_fit_without_a_size_is_said(tmp_path: Path) -> None:
    wide = photos(tmp_path / "wide", size=(16, 24))
    what = "fit pad without a size: they stay 24x16"
    assert said(open_data(wide, fit="pad")) == {"wide": (what, "not used; --size 16 makes them square")}
    assert said(open_data(wide, fit="pad", size=16)) == {}
    assert said(open_data(photos(tmp_path / "square"), fit="pad")) == {}
