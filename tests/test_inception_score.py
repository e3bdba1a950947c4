"""The Inception Score: closed forms, torch-fidelity's value, and fewer classes score less."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metrics.inception_score import inception_score, scored


def one_hot(classes: Tensor, of: int) -> Tensor:
    return 1000.0 * torch.nn.functional.one_hot(classes, of).float()


def made(logits: Tensor) -> Exam:
    """An exam whose extractor has a classifier."""
    extractor = SimpleNamespace(views={"pooled": 1, "logits": logits.shape[1]}, name="made-1")
    return cast(Exam, SimpleNamespace(extractor=extractor, features=lambda which, view: logits))


def test_k_classes_that_are_sure_and_even_score_k() -> None:
    score = scored(one_hot(torch.arange(70) % 7, 10))
    assert score.value == pytest.approx(7, rel=1e-12)
    assert scored(torch.zeros(20, 10)).value == pytest.approx(1, rel=1e-12)


def test_uneven_classes_score_the_exponential_of_their_entropy() -> None:
    score = scored(one_hot((torch.arange(100) < 25).long(), 2))
    assert score.value == pytest.approx(math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75)), rel=1e-12)


def test_it_is_the_value_of_torch_fidelity() -> None:
    # torch_fidelity 0.4.0, isc_features_to_metric(logits, splits=1) on these same logits
    i, k = torch.arange(50)[:, None], torch.arange(8)
    assert scored(4 * torch.sin(1.0 + 0.7 * i * (k + 1)).double()).value == pytest.approx(
        2.920207058062, rel=1e-10
    )


def test_influence_and_bias_are_those_of_leaving_images_out() -> None:
    logits = 3 * torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    score = scored(logits)
    rows = torch.arange(30)
    without = torch.tensor([scored(logits[rows != i]).value for i in range(30)], dtype=torch.float64)
    torch.testing.assert_close(score.influence, 29 * (without.mean() - without))
    assert score.bias == pytest.approx(29 * (float(without.mean()) - score.value), rel=1e-6)
    assert score.bias < 0


def test_the_estimate_covers_and_drops_with_the_modes() -> None:
    stream = torch.Generator().manual_seed(1)
    sure = 6 * torch.nn.functional.one_hot(torch.arange(400) % 10, 10) + torch.randn(
        400, 10, generator=stream
    )
    whole, half = (inception_score(made(x))["inception_score"] for x in (sure, sure[sure.argmax(1) < 5]))
    assert whole.low < whole.value < whole.high <= 10
    assert half.high < whole.low
    assert (whole.better, len(whole.replicates), whole.n) == ("higher", 100, 400)


def test_too_few_images() -> None:
    with pytest.raises(NotMeasurable, match="16"):
        inception_score(made(torch.zeros(8, 4)))


def test_without_logits_the_users_labels_serve() -> None:
    exam = Exam(None, made_up(held_out=32), extractor="diptych-0", keep=False).against_real()
    found = inception_score(exam)["inception_score"]
    assert 1 <= found.low <= found.value <= 4
    assert "logistic regression" in found.note
