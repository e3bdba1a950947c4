"""Planted copies, from none to all, must be told; held-out images in the fakes' place must not."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import lru_cache

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from conftest import made_up
from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.measuring.comparison import difference
from diptych.metrics.copying import (
    authenticity,
    copying,
    copying_test,
    near_training,
    rank_test,
    ratio,
)
from diptych.metrics.intervals import REPEATS
from diptych.metrics.neighbours import nearest
from diptych.scores import Estimate, Report, RulerCard

DIM = 24


@lru_cache(maxsize=1)
def world() -> tuple[Tensor, Tensor]:
    """A mixture in 6 of 24 dimensions: centres and directions."""
    g = torch.Generator().manual_seed(0)
    return torch.randn(5, 6, generator=g) * 2, torch.randn(6, DIM, generator=g)


def drawn(n: int, seed: int) -> Tensor:
    centres, directions = world()
    g = torch.Generator().manual_seed(seed)
    inner = torch.randn(n, 6, generator=g) + centres[torch.randint(len(centres), (n,), generator=g)]
    return inner @ directions + 0.3 * torch.randn(n, DIM, generator=g)


def replayed(share: float, seed: int, n: int = 500, noise: float = 0.0) -> Tensor:
    """Fakes of which a share are training images."""
    fake, g = drawn(n, seed), torch.Generator().manual_seed(seed)
    count = round(share * n)
    fake[:count] = drawn(1500, 0)[torch.randperm(1500, generator=g)[:count]]
    fake[:count] += noise * torch.randn(count, DIM, generator=g)
    return fake


def measured(real: Tensor, fake: Tensor) -> dict[str, Estimate]:
    train = drawn(1500, 0)
    to_real, to_fake = nearest(real, train), nearest(fake, train)
    lengths = to_real.squared[:, 0].sqrt(), to_fake.squared[:, 0].sqrt()
    return {
        "authpct": authenticity(train, to_real.number, to_fake.number, *lengths),
        "nn_ratio": ratio(*lengths),
        "near_training": near_training(*lengths),
        "c_t": copying_test(train, real, fake),
    }


def real_authpct(estimate: Estimate) -> float:
    """What the note says of held-out images."""
    return float(estimate.note.split("place: ")[1].split(";")[0])


def test_copying_nothing_is_told_from_copying_everything() -> None:
    real = drawn(500, 1)
    none, everything = measured(real, replayed(0, 2)), measured(real, replayed(1, 3))
    assert none["nn_ratio"].low < 1 < none["nn_ratio"].high
    assert abs(none["c_t"].value) < 3 * 0.5
    assert abs(none["authpct"].value - real_authpct(none["authpct"])) < 8
    assert none["near_training"].high < 0.05
    assert everything["authpct"].value == everything["nn_ratio"].value == 0
    assert everything["near_training"].value == 1
    assert everything["c_t"].value < -8


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_more_copies_are_more_copies(noise: float) -> None:
    real = drawn(500, 1)
    levels = [measured(real, replayed(share, 5, noise=noise)) for share in (0, 0.1, 0.5, 1)]
    for name, falls in (("authpct", True), ("nn_ratio", True), ("near_training", False), ("c_t", True)):
        values = [level[name].value for level in levels]
        assert values == sorted(values, reverse=falls)
        assert len(set(values)) >= 3
    a_tenth = levels[1]
    assert a_tenth["near_training"].low > 0.05
    assert a_tenth["near_training"].value == pytest.approx(0.1 + 0.9 * 5 / 501, abs=0.015)
    assert a_tenth["authpct"].value == pytest.approx(0.9 * levels[0]["authpct"].value, abs=2)
    assert a_tenth["c_t"].high < 0


def test_fakes_far_off_are_not_copies() -> None:
    far = measured(drawn(500, 1), drawn(500, 2) * 1.5)
    assert far["nn_ratio"].low > 1
    assert far["c_t"].value > 5
    assert far["authpct"].value > real_authpct(far["authpct"])
    assert far["near_training"].value < 0.01


@pytest.mark.parametrize(("scale", "sign"), [(50.0, 1), (0.0, -1)])
def test_where_all_fakes_are_on_one_side_more_cannot_be_told(scale: float, sign: int) -> None:
    """Ranks have no spread then, and a score that is as large as n allows is not known exactly."""
    fakes = drawn(60, 2) * scale if sign > 0 else replayed(1, 2, 60)
    found = copying_test(drawn(1500, 0), drawn(60, 1), fakes)
    ends = (found.low, found.high) if sign > 0 else (found.high, found.low)
    assert ends[1] == sign * math.inf
    assert 0.8 * found.value * sign < ends[0] * sign < found.value * sign
    assert "every fake is" in found.note
    other = dataclasses.replace(found, value=found.value * 1.01)
    card = RulerCard("r", "", "d", "", 60, "none", 0, "1")
    two = [Report(n, "", {}, {"c_t": each}, {}, card) for n, each in (("a", found), ("b", other))]
    assert difference(*two, "c_t").p == 1  # neither is known well enough to differ
    again = Estimate.from_json(json.loads(json.dumps(found.to_json())))
    assert (again.low, again.high) == (found.low, found.high)
    assert ("∞]" if sign > 0 else "∞, ") in str(found)


def test_without_copying_scores_are_where_they_should_be_and_intervals_cover() -> None:
    found = [measured(drawn(200, 10 + i), drawn(200, 500 + i)) for i in range(40)]
    c_t = np.array([each["c_t"].value for each in found])
    # two cells of about 100 each: the mean of two standard normal scores
    assert abs(c_t.mean()) < 3.5 * c_t.std() / math.sqrt(40)
    assert c_t.std() == pytest.approx(math.sqrt(0.5), rel=0.3)
    assert np.mean([each["near_training"].value for each in found]) == pytest.approx(2 / 201, abs=0.008)
    for name, truth in (("nn_ratio", 1.0), ("c_t", 0.0)):
        assert np.mean([each[name].low <= truth <= each[name].high for each in found]) >= 0.85
        errors = np.mean([(each[name].high - each[name].low) / 3.92 for each in found])
        assert errors == pytest.approx(np.std([each[name].value for each in found]), rel=0.3)


def test_scores_equal_the_papers_by_brute_force() -> None:
    train, real, fake = drawn(300, 0), drawn(60, 1), replayed(0.3, 2, 50)
    t, r, f = (each.double() for each in (train, real, fake))
    others = torch.cdist(t, t, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    to_train = torch.cdist(f, t, compute_mode="donot_use_mm_for_euclid_dist")
    real_length = torch.cdist(r, t, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    length, which = to_train.min(1)
    expected = (length > others.min(1).values[which]).double().mean().item()
    found = authenticity(train, real_length.indices, which, real_length.values, length)
    assert found.value == pytest.approx(100 * expected)
    assert 0 < found.value < 70
    # fewer than 200 images: one cell, C_T is the Z of Mann and Whitney
    u = scipy.stats.mannwhitneyu(length.numpy(), real_length.values.numpy()).statistic
    z = (u - 60 * 50 / 2) / math.sqrt(60 * 50 * (60 + 50 + 1) / 12)
    assert copying_test(train, real, fake).value == pytest.approx(z)


def test_rank_test_counts_ties_half() -> None:
    real, fake = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([2.0, 0.0, 6.0])
    u = scipy.stats.mannwhitneyu(fake.numpy(), real.numpy()).statistic
    z, real_part, fake_part = rank_test(real, fake)
    assert z == pytest.approx((u - 6) / math.sqrt(12 * 8 / 12))
    assert float(real_part.sum()) == pytest.approx(0, abs=1e-6)
    assert float(fake_part.sum()) == pytest.approx(0, abs=1e-6)


def test_held_out_images_that_are_training_images_are_said() -> None:
    with pytest.raises(NotMeasurable, match="more than half of the held-out images are in the training set"):
        ratio(torch.tensor([0.0, 0.0, 1.0]), torch.ones(3))
    # a few of them: copies among the fakes are still counted
    found = near_training(
        torch.cat([torch.zeros(20), torch.ones(480)]), torch.cat([torch.zeros(60), torch.ones(440)])
    )
    assert found.value == 0.12
    assert "0.0399 is expected" in found.note


def test_metric_of_an_exam() -> None:
    data = made_up(n=120, held_out=60)
    replay = copying(Exam(None, data, n=60, fakes=data.train.subset(np.arange(60))))
    assert set(replay) == {"authpct", "nn_ratio", "near_training", "c_t"}
    assert replay["authpct"].value == replay["nn_ratio"].value == 0
    assert replay["near_training"].value == 1
    assert all(len(score.replicates) == REPEATS for score in replay.values())
    fair = copying(Exam(None, data, n=60, fakes=data.held_out))
    assert fair["nn_ratio"].value == 1
    assert fair["c_t"].value == pytest.approx(0, abs=1e-12)
    assert fair["authpct"].value == pytest.approx(real_authpct(fair["authpct"]), abs=0.1)


def test_too_few_images_are_said() -> None:
    small = made_up(n=120, held_out=20)
    with pytest.raises(NotMeasurable, match="copying needs 40"):
        copying(Exam(None, small, n=20, fakes=small.train))
    few = made_up(n=30, held_out=60)
    with pytest.raises(NotMeasurable, match="40 training images or more; there are 30"):
        copying(Exam(None, few, n=60, fakes=few.held_out))
