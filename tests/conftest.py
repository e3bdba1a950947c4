"""One thread for every test: the suite runs as two processes on two cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.budget import Budget
from diptych.data.images import DataCard, DataSet, Images
from diptych.recipe import RecipeSpec
from diptych.runs import Run
from diptych.training.loop import train
from diptych.training.probe import Plan
from diptych.training.state import Settings

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


def brief(spec: RecipeSpec) -> RecipeSpec:
    """A recipe whose small models sample in a few steps: a training draws 64 samples at each tick."""
    steps = {**spec.defaults, **spec.small}.get("steps")
    return replace(spec, small={**spec.small, "steps": min(steps, 4)}) if steps else spec


def foreseen(settings: Settings) -> Plan:
    """The plan of a budget in images, in the place of a probe, which takes longer than a few steps do."""
    budget = Budget.parse(settings.budget)
    assert budget.unit == "images"
    return Plan(int(budget.amount), 1.0, budget.amount, 1e6, 1.0, 1.0, 0)


def train_unprobed(
    spec: RecipeSpec, data: DataSet, out: str | Path, *, settings: Settings, **how: Any
) -> Run:
    """What `train` leaves where it was told its plan."""
    return train(spec, data, out, settings=settings, expected=foreseen(settings), **how)


def newest(run: Run) -> Path:
    """The last checkpoint of a run that has one."""
    found = run.checkpoints.newest
    assert found is not None
    return found


@pytest.fixture
def data() -> DataSet:
    """64 random grey images of 8x8 in four classes."""
    return made_up()
