"""The Vendi score: closed forms, both forms of the eigenproblem, influence, and dropped modes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metrics.vendi import missing, vendi, vendi_score, with_influence


def made(real: Tensor, fake: Tensor) -> Exam:
    return cast(Exam, SimpleNamespace(features=lambda which: real if which == "real" else fake))


def clusters(k: int, n: int = 200, seed: int = 0) -> Tensor:
    """Tight clusters around k corners of a simplex."""
    noise = torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))
    return torch.eye(12)[torch.arange(n) % k] + 0.02 * noise


@pytest.mark.parametrize("dim", [8, 300])  # d x d and n x n
def test_k_orthogonal_groups_score_k(dim: int) -> None:
    features = 3 * torch.eye(dim)[torch.arange(60) % 6]
    assert vendi_score(features) == pytest.approx(6, rel=1e-12)
    assert with_influence(features).value == pytest.approx(6, rel=1e-12)
    assert with_influence(features).influence.abs().max() < 1e-9


def test_equal_images_score_one_and_different_ones_n() -> None:
    assert vendi_score(torch.ones(20, 5)) == pytest.approx(1, rel=1e-12)
    assert vendi_score(torch.eye(20)) == pytest.approx(20, rel=1e-12)


def test_it_is_the_entropy_of_the_similarity_matrix() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double() + 0.5
    similarity = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    values = torch.linalg.eigvalsh(similarity / 40).clamp_min(1e-300)
    assert vendi_score(x) == pytest.approx(float((-(values * values.log()).sum()).exp()), rel=1e-10)


@pytest.mark.parametrize("dim", [5, 60])
def test_influence_is_the_derivative(dim: int) -> None:
    x = torch.randn(40, dim, generator=torch.Generator().manual_seed(0)).double() + 0.3
    found, step = with_influence(x), 1e-5
    assert float(found.influence.sum()) == pytest.approx(0, abs=1e-9)
    # the first image with a little more weight: the entropy of the weighted second moments
    unit = x / x.norm(dim=1, keepdim=True)
    scores = []
    for move in (step, -step):
        weight = torch.full((40,), (1 - move) / 40, dtype=torch.float64)
        weight[0] += move
        values = torch.linalg.eigvalsh(unit.T @ (unit * weight[:, None])).clamp_min(1e-300)
        scores.append(float((-(values * values.log()).sum()).exp()))
    assert (scores[0] - scores[1]) / (2 * step) == pytest.approx(float(found.influence[0]), rel=1e-4)


def test_pull_is_the_derivative_by_the_mean() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double() + 0.3
    direction = torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    slope = (vendi_score(x - 1e-5 * direction) - vendi_score(x + 1e-5 * direction)) / 2e-5
    assert float(with_influence(x).pull @ direction) == pytest.approx(slope, rel=1e-6)


def test_dropped_modes_lower_it() -> None:
    real = clusters(8)
    whole, half = vendi(made(real, clusters(8, seed=1))), vendi(made(real, clusters(4, seed=2)))
    assert half["vendi"].high < whole["vendi"].low
    assert half["vendi_ratio"].high < 0.8
    assert whole["vendi_ratio"].low <= 1 <= whole["vendi_ratio"].high
    assert len(half["vendi_ratio"].replicates) == 100


def test_both_sides_have_as_many_images() -> None:
    assert vendi(made(clusters(8), clusters(8, 120)))["vendi"].n == 120


def test_it_rises_with_n() -> None:
    x = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    assert 0 < missing(x) < vendi_score(x)


def test_features_of_zero_and_too_few() -> None:
    with pytest.raises(NotMeasurable, match="zero"):
        vendi_score(torch.zeros(20, 4))
    with pytest.raises(NotMeasurable, match="16"):
        vendi(made(torch.ones(4, 3), torch.ones(4, 3)))
