"""The classification accuracy score: good fakes teach the classes, fakes that ignore labels do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import made_up
from diptych.data.images import DataSet, Images
from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metrics import classification_accuracy as cas
from diptych.metrics.classification_accuracy import classification_accuracy, fitted, prepared, right


def striped(n: int, seed: int) -> Images:
    """Class 0 has rows, class 1 columns, at any phase and under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    wave = 60 * (np.add.outer(rng.integers(0, 4, n), np.arange(8)) % 4 < 2)
    pixels = np.where(labels[:, None, None] == 0, wave[:, :, None], wave[:, None, :])
    pixels = 60 + pixels + rng.integers(0, 60, (n, 8, 8))
    return Images(pixels[..., None].astype(np.uint8), labels.astype(np.int64), ("rows", "columns"))


@pytest.fixture
def stripes() -> DataSet:
    return replace(made_up(), train=striped(100, 0), held_out=striped(64, 1))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cas, "STEPS", 30)
    monkeypatch.setattr(cas, "WIDTH", 8)


def test_fakes_as_good_as_reals_teach_as_much(stripes: DataSet) -> None:
    found = classification_accuracy(Exam(None, stripes, fakes=striped(64, 2), keep=False))
    assert found["cas"].value > 0.9
    assert found["cas_real"].value > 0.9
    assert (found["cas"].n, len(found["cas"].replicates), found["cas"].better) == (64, 100, "higher")


def test_a_model_that_ignores_labels_is_at_chance(stripes: DataSet) -> None:
    fakes = striped(64, 2)
    mixed = replace(fakes, labels=np.random.default_rng(0).permutation(fakes.labels))
    found = classification_accuracy(Exam(None, stripes, fakes=mixed, keep=False))
    assert found["cas"].low < 0.5 < found["cas"].high + 0.1
    assert found["cas"].high < found["cas_real"].low


def test_training_is_the_same_every_time_and_leaves_the_seed_alone() -> None:
    images, labels = striped(40, 0).tensor(), torch.arange(40) % 2
    torch.manual_seed(5)
    first = torch.cat([p.flatten() for p in fitted(images, labels, 2).parameters()])
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)
    assert torch.equal(first, torch.cat([p.flatten() for p in fitted(images, labels, 2).parameters()]))


def test_large_images_are_made_smaller_and_any_channels_do() -> None:
    for channels in (1, 3, 4):
        image = torch.randint(0, 256, (4, channels, 40, 48), dtype=torch.uint8)
        assert prepared(image).shape == (4, 1 if channels == 1 else 3, 32, 32)
    assert prepared(torch.zeros(2, 1, 8, 10, dtype=torch.uint8)).shape == (2, 1, 8, 10)
    net = fitted(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 3)
    assert right(net, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])).tolist() == [
        True,
        False,
    ]


def test_without_labels_it_says_why(stripes: DataSet) -> None:
    bare = replace(striped(64, 2), labels=None, class_names=())
    with pytest.raises(NotMeasurable, match="fakes have no labels"):
        classification_accuracy(Exam(None, stripes, fakes=bare, keep=False))
    unlabelled = replace(stripes, held_out=replace(stripes.held_out, labels=None, class_names=()))
    with pytest.raises(NotMeasurable, match="data has no labels"):
        classification_accuracy(Exam(None, unlabelled, fakes=bare, keep=False))
    assert classification_accuracy.asked_only
