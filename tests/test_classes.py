"""Class histograms: closed forms, dropped and ignored classes, cells where there are no labels, coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, nbinom

from conftest import made_up
from diptych.data.images import DataSet, Images
from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metrics.classes import (
    classes,
    confusion,
    jensen_shannon,
    least_count,
    least_counts,
    least_of_share,
)


def drawn(weights: list[float], n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.tensor(weights), n, True, generator=generator)


def bright(n: int, labels: np.ndarray, seed: int) -> Images:
    """Images whose class is told by which quarter is bright."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (n, 8, 8, 1), dtype=np.uint8)
    for i, label in enumerate(labels):
        pixels[i, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 150
    return Images(pixels, labels.astype(np.int64), tuple("abcd"))


@pytest.fixture(scope="module")
def quarters() -> DataSet:
    data = made_up()
    train, held_out = bright(200, np.arange(200) % 4, 0), bright(100, np.arange(100) % 4, 1)
    return replace(data, train=train, held_out=held_out)


def without_labels(images: Images) -> Images:
    return replace(images, labels=None, class_names=())


def test_disjoint_histograms_are_one_bit_apart() -> None:
    zero, one = torch.zeros(50, dtype=torch.int64), torch.ones(40, dtype=torch.int64)
    assert jensen_shannon(zero, one, 3).value == pytest.approx(1, rel=1e-12)
    assert jensen_shannon(zero, zero, 3).value == 0


def test_less_its_bias_it_is_the_plain_divergence() -> None:
    real, fake = drawn([1.0, 2, 3, 4], 10**6, 0), drawn([4.0, 3, 2, 1], 10**6, 1)
    p, q = (x.bincount(minlength=4).numpy() / 10**6 for x in (real, fake))
    assert jensen_shannon(real, fake, 4).value == pytest.approx(jensenshannon(p, q, 2) ** 2, abs=1e-5)


@pytest.mark.parametrize("fakes", [[0.1] * 10, [0.05] * 5 + [0.15] * 5])
def test_it_is_unbiased_and_its_interval_covers(fakes: list[float]) -> None:
    truth = jensenshannon([0.1] * 10, fakes, 2) ** 2
    found = [
        jensen_shannon(drawn([0.1] * 10, 300, 2 * i), drawn(fakes, 300, 2 * i + 1), 10) for i in range(200)
    ]
    values = torch.tensor([each.value for each in found])
    assert float(values.mean()) == pytest.approx(truth, abs=3 * float(values.std()) / 200**0.5)
    assert 180 <= sum(each.interval[0] <= truth <= each.interval[1] for each in found) <= 199


def test_the_least_count_is_the_negative_binomial_quantile() -> None:
    for mean, variance in ((3.0, 2.0), (0.4, 0.1), (40.0, 100.0)):
        shape = mean**2 / variance
        least = least_count(mean, variance, 500, 0.01)
        assert nbinom.sf(least - 1, shape, shape / (shape + mean)) <= 0.01
        assert nbinom.sf(least - 2, shape, shape / (shape + mean)) > 0.01


def test_a_bin_lacks_fakes_where_the_binomial_test_says_so() -> None:
    least = int(least_of_share(torch.tensor([20, 80]), 100, 150)[0])
    assert binom.cdf(least, 20 + least, 0.6) >= 0.05 / 2
    assert binom.cdf(least - 1, 20 + least - 1, 0.6) < 0.05 / 2


def test_errors_on_other_classes_do_not_reach_a_class() -> None:
    matrix = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.05, 0.0, 0.95]])
    labels = torch.arange(600) % 3
    stream = torch.Generator().manual_seed(0)
    seen = torch.multinomial(matrix[labels], 1, generator=stream)[:, 0]
    errors = confusion(labels, seen, 3)
    false = missed = 0
    for _ in range(100):
        # class 0 absent: a fifth of class 1 is taken for it all the same
        true = torch.randint(1, 3, (500,), generator=stream)
        counts = torch.multinomial(matrix[true], 1, generator=stream)[:, 0].bincount(minlength=3)
        false += int(counts[0] >= least_counts(counts, errors)[0])
        true = torch.randint(0, 3, (500,), generator=stream)
        counts = torch.multinomial(matrix[true], 1, generator=stream)[:, 0].bincount(minlength=3)
        missed += int((counts < least_counts(counts, errors)).any())
    assert false <= 10
    assert missed == 0


def test_a_dropped_class_is_seen_and_named(quarters: DataSet) -> None:
    whole = classes(Exam(None, quarters, fakes=bright(100, np.arange(100) % 4, 2), keep=False))
    dropped = classes(Exam(None, quarters, fakes=bright(100, np.arange(100) % 3, 3), keep=False))
    assert whole["modes_reached"].value == 4
    assert whole["class_divergence"].low <= 0 <= whole["class_divergence"].high
    assert dropped["modes_reached"].value == 3
    assert dropped["modes_reached"].note.count("not reached: d") == 1
    assert dropped["class_divergence"].low > 0.03
    assert whole["label_accuracy"].value == dropped["label_accuracy"].value == 1
    assert len(dropped["class_divergence"].replicates) == 100
    assert not dropped["modes_reached"].replicates


def test_labels_that_are_ignored_are_at_chance(quarters: DataSet) -> None:
    fakes = bright(100, np.arange(100) % 4, 2)
    assert fakes.labels is not None
    other = replace(fakes, labels=np.random.default_rng(0).permutation(fakes.labels))
    found = classes(Exam(None, quarters, fakes=other, keep=False))
    assert found["label_accuracy"].low < 0.25 < found["label_accuracy"].high
    assert found["modes_reached"].value == 4
    unasked = classes(Exam(None, quarters, fakes=without_labels(fakes), keep=False))
    assert set(unasked) == {"class_divergence", "modes_reached"}


def test_cells_stand_in_where_there_are_no_labels(quarters: DataSet) -> None:
    unlabelled = replace(
        quarters, train=without_labels(quarters.train), held_out=without_labels(quarters.held_out)
    )
    whole, dropped = (
        classes(Exam(None, unlabelled, fakes=without_labels(bright(100, np.arange(100) % k, 5)), keep=False))
        for k in (4, 2)
    )
    assert set(whole) == {"bin_divergence", "bins_reached"}
    assert whole["bins_reached"].value == 5  # 20 images a cell
    assert dropped["bins_reached"].high < 5
    assert dropped["bin_divergence"].low > whole["bin_divergence"].high
    assert "k-means" in dropped["bins_reached"].note


def test_too_few(quarters: DataSet) -> None:
    with pytest.raises(NotMeasurable, match="16"):
        classes(Exam(None, quarters, n=8, fakes=bright(8, np.arange(8) % 4, 2), keep=False))
