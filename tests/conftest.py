"""One thread for every test: the suite runs as two processes on two cores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.data.images import DataCard, DataSet, Images
from diptych.runs import Run

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from, or left in, the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def made_up(
    shape: tuple[int, int, int] = (1, 8, 8), n: int = 64, classes: int = 4, held_out: int = 32
) -> DataSet:
    """A small data set of random images of any shape."""
    rng = np.random.default_rng(0)
    channels, height, width = shape

    def split(count: int) -> Images:
        labels = (np.arange(count) % classes).astype(np.int64) if classes else None
        pixels = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
        return Images(pixels, labels, tuple(f"class {i}" for i in range(classes)))

    train, test = split(n), split(held_out)
    card = DataCard("made up", "made up", n, held_out, shape, "as it is", train.sha256, test.sha256)
    return DataSet(train, test, card)


def newest(run: Run) -> Path:
    """The last checkpoint of a run that has one."""
    found = run.checkpoints.newest
    assert found is not None
    return found


@pytest.fixture
def data() -> DataSet:
    """64 random grey images of 8x8 in four classes."""
    return made_up()
