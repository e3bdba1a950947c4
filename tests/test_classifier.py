"""The classifier of the user's labels: scikit-learn's optimum, and what it says of data without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from conftest import made_up
from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.measuring.evaluation import measured
from diptych.metrics.classifier import PENALTIES, accuracy, classifier, described, fit, predicted


def blobs(n: int, apart: float = 2.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three Gaussians in five dimensions, of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    centres = apart * torch.eye(3, 5)
    scale = torch.tensor([1.0, 10.0, 0.1, 1.0, 100.0])
    return (torch.randn(n, 5, generator=generator) + centres[labels]) * scale + 7, labels


def test_it_is_the_optimum_that_scikit_learn_finds() -> None:
    features, labels = blobs(300)
    features = features.double()
    ours = fit(features, labels, 3, penalty=1e-2)
    standard = ((features - features.mean(0)) / features.std(0)).numpy()
    theirs = LogisticRegression(C=1 / (1e-2 * 300), tol=1e-8, max_iter=1000).fit(standard, labels.numpy())
    np.testing.assert_allclose(
        ours.logits(features).softmax(1).numpy(), theirs.predict_proba(standard), atol=1e-4
    )


def test_the_penalty_follows_the_data() -> None:
    noise = torch.randn(60, 50, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3  # nothing to be learnt: the stiffest is the best
    assert fit(noise, labels, 3).penalty == PENALTIES[0]
    features, labels = blobs(600, apart=6.0)
    assert fit(features, labels, 3).penalty < PENALTIES[1]


def test_a_feature_that_never_moves_does_no_harm() -> None:
    features, labels = blobs(200)
    features[:, 3] = 5.0
    assert fit(features, labels, 3, 1e-2).logits(features).isfinite().all()


def test_an_exam_has_one_classifier() -> None:
    exam = Exam(None, made_up(), keep=False)
    assert classifier(exam) is classifier(exam)
    labels = exam.labels("real")
    assert labels is not None
    assert accuracy(exam) == pytest.approx(float((predicted(exam, "real") == labels).double().mean()))
    assert "64 labelled training images" in described(exam)


def test_training_images_in_the_fakes_place_are_seen_by_a_classifier_without_them() -> None:
    """Labels that nothing tells are known by heart, and found by chance in other images."""
    data = made_up(n=200, held_out=100)
    floor = Exam(None, data, keep=False).against_real()
    labels = floor.labels("fake")
    assert labels is not None
    assert data.train.labels is not None
    assert floor.seen is not None
    assert labels.tolist() == data.train.labels[floor.seen].tolist()
    by_heart = classifier(floor).logits(floor.features("fake")).argmax(1).cpu()
    assert float((by_heart == labels).double().mean()) > 0.65
    assert float((predicted(floor, "fake") == labels).double().mean()) < 0.45
    assert measured(floor, ["classes"])["label_accuracy"].value < 0.45


@pytest.mark.parametrize("classes", [0, 1])
def test_it_needs_two_classes(classes: int) -> None:
    with pytest.raises(NotMeasurable, match="labels" if classes == 0 else "one class"):
        classifier(Exam(None, made_up(classes=classes), keep=False))
