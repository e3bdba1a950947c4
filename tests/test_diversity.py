"""Pairwise diversity: all pairs by hand, known scales, collapse of the whole and inside of classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metrics.diversity import diversity, mean_squared


def made(real: Tensor, fake: Tensor, labels: Tensor | None = None, asked: Tensor | None = None) -> Exam:
    return cast(
        Exam,
        SimpleNamespace(
            features=lambda which: real if which == "real" else fake,
            labels=lambda which: labels if which == "real" else asked,
            classes=() if labels is None else ("a", "b", "c"),
        ),
    )


def points(n: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)).double()


def test_it_is_the_mean_over_all_pairs() -> None:
    x = points(30) + 4
    pairs = torch.cdist(x, x).square().sum() / (30 * 29)
    assert mean_squared(x).value == pytest.approx(float(pairs), rel=1e-10)


def test_the_influence_is_that_of_leaving_images_out() -> None:
    x, rows = points(30), torch.arange(30)
    without = torch.tensor([mean_squared(x[rows != i]).value for i in range(30)], dtype=torch.float64)
    torch.testing.assert_close(
        mean_squared(x).influence, 29 * (mean_squared(x).value - without), rtol=0.1, atol=0.05
    )


def test_half_the_scale_is_half_the_diversity() -> None:
    x = points(200)
    found = diversity(made(x, x / 2))
    assert found["diversity"].value == pytest.approx(0.5, rel=1e-9)
    assert list(found) == ["diversity"]  # no labels, no classes
    assert found["diversity"].high < 1
    assert len(found["diversity"].replicates) == 100


def test_a_collapse_inside_classes_hides_from_the_whole() -> None:
    labels = torch.arange(300) % 3
    centres = 50.0 * torch.eye(3, 6).double()[labels]
    real, fake = points(300) + centres, points(300, 0.1, seed=1) + centres
    found = diversity(made(real, fake, labels, labels))
    assert found["diversity"].value > 0.98
    assert found["intra_class_diversity"].value == pytest.approx(0.1, rel=0.1)
    assert found["intra_class_diversity"].high < 0.2


def test_the_lowest_class_is_named() -> None:
    labels = torch.arange(300) % 3
    scale = torch.tensor([1.0, 0.2, 1.0]).double()[labels, None]
    found = diversity(made(points(300), points(300, seed=1) * scale, labels, labels))
    assert "lowest: b with 0.2" in found["intra_class_diversity"].note


def test_one_image_over_and_over() -> None:
    found = diversity(made(points(50), torch.ones(50, 6)))["diversity"]
    assert (found.value, found.low, found.high) == (0, 0, 0)
    with pytest.raises(NotMeasurable, match="same features"):
        diversity(made(torch.ones(50, 6), points(50)))


def test_too_few() -> None:
    with pytest.raises(NotMeasurable, match="8 real"):
        diversity(made(points(4), points(4)))


def test_intervals_cover() -> None:
    covered = 0
    for seed in range(100):
        found = diversity(made(points(80, 1.0, 2 * seed), points(80, 0.8, 2 * seed + 1)))["diversity"]
        covered += found.low <= 0.8 <= found.high
    assert 88 <= covered <= 99
