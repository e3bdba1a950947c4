"""The cache: memory-mapped, read-only, keyed by content and policy, whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data import DataSet, cache, ingest, open_data, prepare
from diptych.errors import DataError
from diptych.system.files import cache_folder

RNG = np.random.default_rng(6)


def photos(folder: Path, n: int = 12) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n // 2):
            Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
                folder / name / f"{i}.png"
            )
    (folder / "a" / "broken.png").write_bytes(b"")
    return folder


def same(a: DataSet, b: DataSet) -> bool:
    return all(
        np.array_equal(x.pixels, y.pixels)
        and np.array_equal(x.labels, y.labels)
        and (x.class_names, x.captions, x.sha256, x.flip) == (y.class_names, y.captions, y.sha256, y.flip)
        and all(np.array_equal(x.factors[f], y.factors[f]) for f in {*x.factors, *y.factors})
        for x, y in ((a.train, b.train), (a.held_out, b.held_out))
    )


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was prepared again")

    monkeypatch.setattr(ingest, "prepared", fail)


def test_large_sets_are_mapped_and_equal_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photos(tmp_path / "in")
    monkeypatch.delenv("DIPTYCH_CACHE")
    expected = open_data(source)
    assert not isinstance(expected.train.pixels, np.memmap)
    monkeypatch.setattr(cache, "IN_MEMORY", 1000)
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    made = open_data(source)
    assert isinstance(made.train.pixels, np.memmap)
    assert same(made, expected)
    assert made.card == expected.card
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing temporary is left
    forbid(monkeypatch)
    assert same(open_data(source), expected)
    assert open_data(source).card == expected.card
    with pytest.raises(ValueError, match="read-only"):
        made.train.pixels[0] = 0


def test_what_was_decoded_is_kept_where_the_cache_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = photos(tmp_path / "in")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "file"))  # it cannot be kept, but read it can
    expected = open_data(source)
    assert "it will be decoded again the next time" in caplog.text
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    open_data("shapes:40")  # drawn again as fast as it is read
    assert not (tmp_path / "cache").exists()
    assert same(open_data(source), expected)
    (source / "notes.txt").write_text("x")  # what is said of the files is a part of what is kept
    assert len(open_data(source).card.incidents) == 2
    forbid(monkeypatch)
    assert same(open_data(source), expected)


def test_what_took_long_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photos(tmp_path / "in")
    monkeypatch.delenv("DIPTYCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected = open_data(source)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(ingest, "SLOW", -1.0)
    open_data(source)
    forbid(monkeypatch)
    assert same(open_data(source), expected)


def test_long_decoding_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare, "SAY_EVERY", 0.0)
    with caplog.at_level("INFO", "diptych"):
        open_data(photos(tmp_path / "in"), cache=tmp_path / "cache")
    assert "13 of 13 files are decoded" in caplog.messages


def test_a_million_files_do_not_wait_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    class Pool(prepare.ThreadPoolExecutor):
        def map(self, work: object, items: range) -> object:  # type: ignore[override]
            asked.append(len(items))
            return super().map(work, items)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "ThreadPoolExecutor", Pool)
    assert prepare.in_threads(lambda i: i + 1, range(100_000)) == list(range(1, 100_001))
    assert prepare.in_threads(str, []) == []
    assert asked[0] == -(-100_000 // 256)


LEAVE = """
import os, signal, sys; from pathlib import Path; from diptych.data import cache
with cache.writing(Path(sys.argv[1]) / "entry") as writing:
    (writing.folder / "train.npy").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_preparation_left_goes_with_the_next(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    subprocess.run([sys.executable, "-c", LEAVE, str(place)], check=False)
    (left,) = place.iterdir()
    assert left.name.startswith(".")
    open_data(photos(tmp_path / "in"), cache=place)
    (entry,) = place.iterdir()
    assert entry.name.startswith("in-")
    assert {p.name for p in entry.iterdir()} == {
        f"{side}.{kind}" for side in ("train", "held_out") for kind in ("npy", "npz")
    } | {"about.json"}


def test_batches_and_tensors_from_mapped_pixels(tmp_path: Path) -> None:
    source = photos(tmp_path / "in")
    plain, mapped = open_data(source, flip=True), open_data(source, flip=True, cache=tmp_path / "cache")
    assert isinstance(mapped.train.pixels, np.memmap)
    assert bool((mapped.train.batch(1, 3, 20).image == plain.train.batch(1, 3, 20).image).all())
    assert bool((mapped.train.tensor() == plain.train.tensor()).all())
    assert mapped.train.subset(np.array([0, 2])).sha256 == plain.train.subset(np.array([0, 2])).sha256


def test_the_key_follows_content_and_policy(tmp_path: Path) -> None:
    source, place = photos(tmp_path / "in"), tmp_path / "cache"
    open_data(source, cache=place)
    entries = lambda: len(list(place.iterdir()))  # noqa: E731
    assert entries() == 1
    open_data(source, cache=place, flip=True)
    assert entries() == 1
    for arguments in ({"size": 8}, {"size": 8, "fit": "pad"}, {"channels": 1}, {"held_out": 3}):
        before = entries()
        open_data(source, cache=place, **arguments)  # type: ignore[arg-type]
        assert entries() == before + 1
    before = open_data(source, cache=place).card.train_sha256
    target = source / "a" / "0.png"
    Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(target)
    os.utime(target, ns=(1, 1))
    assert open_data(source, cache=place).card.train_sha256 != before


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    source, place = photos(tmp_path / "in"), tmp_path / "cache"
    expected = open_data(source)
    open_data(source, cache=place)
    (entry,) = place.iterdir()
    for name, damage in (
        ("train.npy", b"\x93NUMPY"),
        ("about.json", b"{"),
        ("train.npz", b"PK"),
        ("held_out.npy", b""),
    ):
        (entry / name).write_bytes(damage)
        assert same(open_data(source, cache=place), expected)
        assert [p.name for p in place.iterdir()] == [entry.name]
    (entry / "about.json").unlink()
    assert same(open_data(source, cache=place), expected)


def test_an_interrupted_ingest_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, place = photos(tmp_path / "in"), tmp_path / "cache"
    monkeypatch.setattr(cache, "IN_MEMORY", 1000)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache.Writing, "about", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_data(source, cache=place)
    assert list(place.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "fitted", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_data(source, cache=place)
    assert list(place.iterdir()) == []


def test_a_full_disk_and_a_place_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photos(tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        open_data(source, cache=tmp_path / "file")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match=r"cache has 0\.0 GiB left"):
        open_data(source, cache=tmp_path / "cache")


def test_scenes_with_captions_and_factors_survive(tmp_path: Path) -> None:
    plain, mapped = open_data("shapes:40"), open_data("shapes:40", cache=tmp_path)
    assert same(plain, mapped)
    assert mapped.train.captions is not None
    assert set(mapped.train.factors) == set(plain.train.factors)
    assert plain.card == mapped.card


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIPTYCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/diptych")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/diptych").expanduser()
    monkeypatch.setenv("DIPTYCH_CACHE", "/y")
    assert cache_folder() == Path("/y")
