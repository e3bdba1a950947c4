"""Features on disk: found again, only for the same images and the same ruler, and never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diptych.features import store
from diptych.features.extractor import Extractor


class Mean(Extractor):
    """Means of rows; counts how many images it has seen."""

    name, dim, sha256, resize, block, views = "mean", 8, "1", "none", 16, {"pooled": 8, "spatial": 2}
    images = 0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.images += len(image)
        rows = image.float().mean((1, 3))
        return {"pooled": rows, "spatial": rows[:, :2]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    return tmp_path / "features"


IMAGES = torch.arange(50 * 3 * 64, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(50, 3, 8, 8)


def look(ruler: Extractor, images: Tensor = IMAGES, **options: object) -> store.Views:
    return store.seen(ruler, lambda rows: images[rows], len(images), store.content(images), **options)  # type: ignore[arg-type]


def test_a_second_look_reads_the_disk(cache: Path) -> None:
    ruler = Mean()
    first, second = look(ruler), look(ruler)
    assert ruler.images == 50
    for view in ("pooled", "spatial"):
        torch.testing.assert_close(first[view], second[view], rtol=0, atol=0)
    torch.testing.assert_close(first["pooled"], IMAGES.float().mean((1, 3)))
    assert len(list(cache.iterdir())) == 1


def test_other_images_rulers_and_views_are_looked_at_anew(cache: Path) -> None:
    ruler = Mean()
    look(ruler)
    changed = IMAGES.clone()
    changed[49, 2, 7, 7] += 1
    look(ruler, changed)
    assert ruler.images == 100
    assert set(look(ruler, views=["spatial"])) == {"spatial"}
    ruler.sha256 = "2"
    look(ruler)
    assert ruler.images == 200
    # the same bytes in another shape are other images
    assert store.content(IMAGES) != store.content(IMAGES.reshape(25, 6, 8, 8))


def test_nothing_is_kept_where_that_is_not_wanted(cache: Path) -> None:
    ruler = Mean()
    look(ruler, keep=False)
    look(ruler, keep=False)
    assert ruler.images == 100
    assert not cache.exists()


def test_a_damaged_file_is_replaced(cache: Path) -> None:
    ruler = Mean()
    expected = look(ruler)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    torch.testing.assert_close(look(ruler)["pooled"], expected["pooled"])
    assert ruler.images == 100
    look(ruler)
    assert ruler.images == 100


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "file"))
    assert look(Mean())["pooled"].shape == (50, 8)


def test_the_least_recently_used_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [IMAGES + i for i in range(4)]
    for age, images in enumerate(sets[:3]):
        look(Mean(), images)
        newest = max(cache.iterdir(), key=lambda file: file.stat().st_mtime)
        os.utime(newest, (1e9 - age, 1e9 - age))
    size = newest.stat().st_size
    ruler = Mean()
    look(ruler, sets[2])  # the oldest is used again
    monkeypatch.setattr(store, "LIMIT", 2 * size)
    look(ruler, sets[3])
    assert len(list(cache.iterdir())) == 2
    ruler.images = 0
    look(ruler, sets[2])
    look(ruler, sets[3])
    assert ruler.images == 0
