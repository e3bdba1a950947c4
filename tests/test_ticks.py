"""The moments of a training: counted one by one, whatever the batch and the budget."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from conftest import made_up
from diptych import catalog
from diptych.training.loop import build, train
from diptych.training.probe import Plan
from diptych.training.state import Settings
from diptych.training.ticks import Ticks

GAN = catalog.recipe("r3gan")


def walked(total: int, batch: int, apart: int) -> list[int]:
    """Where steps end that come to a multiple of `apart`, or to the end."""
    ends = range(batch, total + batch, batch)
    return [
        end for end in ends if any(m % apart == 0 for m in range(end - batch + 1, end + 1)) or end >= total
    ]


def test_each_is_due_once_and_counted() -> None:
    for total, batch, apart in product((1, 7, 40, 41, 106, 128), (1, 3, 8, 16, 50), (1, 2, 4, 9, 33, 200)):
        ticks, expected = Ticks(total, batch, apart), walked(total, batch, apart)
        ends = list(range(batch, total + batch, batch))
        assert [end for end in ends if ticks.due(end)] == expected
        assert [ticks.passed(end) for end in ends] == [sum(e <= end for e in expected) for end in ends]
        assert ticks.in_all == len(expected)


@pytest.mark.parametrize(
    ("budget", "asked", "every", "in_all"), [(48, 2, 1, 2), (106, 100, 1, 14), (80, 10, 3, 4)]
)
def test_of_a_training(budget: int, asked: int, every: int, in_all: int) -> None:
    training = build(GAN, made_up(), {**GAN.small, "batch": 8}, Settings(ticks=asked), budget)
    assert Ticks.of(training, every).in_all == in_all
    assert Ticks.parts(training, 3).in_all == 3


def test_snapshots_are_of_the_first_tick_the_second_and_the_fourth(tmp_path: Path) -> None:
    """A tick for each step of 8 images, though tenths of the training are 4 images."""
    settings = Settings(budget="40-images", ticks=10, snapshots=3, device="cpu")
    arguments = {**GAN.small, "batch": 8}
    run = train(
        GAN,
        made_up(),
        tmp_path / "run",
        arguments=arguments,
        settings=settings,
        expected=Plan(40, 1.0, 40.0, 1e6, 100.0, 1.0, 3),
    )
    assert [line["images"] for line in run.log()] == [8, 16, 24, 32, 40]
    kept = sorted(int(file.stem) for file in (tmp_path / "run/snapshots").glob("*.safetensors"))
    assert kept == [8, 16, 32]
