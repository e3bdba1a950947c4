"""Alarms that need no exam of samples: divergence, over-training, and what networks know by heart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych.alarms.memory import overfit, remembered
from diptych.alarms.observer import known_scores
from diptych.alarms.progress import divergence, overtraining
from diptych.alarms.verdict import ALARM, BEYOND, OK
from diptych.data import open_data
from diptych.measuring.student import cdf, quantile
from diptych.method import Clock
from diptych.model import from_uint8
from diptych.runs import best_of
from diptych.training.loop import build
from diptych.training.state import Settings

LEVEL = 0.05


def logged(**series: list[float]) -> list[dict[str, Any]]:
    """Log lines from series of losses."""
    rows = zip(*series.values(), strict=True)
    return [
        {"images": 100 * (i + 1), "losses": dict(zip(series, row, strict=True))} for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12, 31, 1000, 1001, 50_000])
def test_student(freedom: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 9.0):
        assert cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)
    for p in (0.6, 0.95, 0.999):
        assert quantile(p, freedom) == pytest.approx(
            stats.t.ppf(p, freedom), rel=1e-9 if freedom < 1001 else 1e-6
        )


def test_steady_noise_is_beyond_chance_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    runs = np.exp(0.3 * rng.standard_normal((400, 3, 9)))
    names = ("critic", "critic_gradient", "real_logit")
    found = [divergence(logged(**dict(zip(names, run.tolist(), strict=True))), LEVEL) for run in runs]
    hits = sum(verdict.state != OK for verdict in found)
    assert 6 <= hits <= 34  # 20 are expected at most: Bonferroni over three that are independent
    assert sum(verdict.state == ALARM for verdict in found) <= 1


def test_a_gradient_that_explodes() -> None:
    steady = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02]
    calm = logged(critic=steady, critic_gradient=steady)
    assert divergence(calm, LEVEL).state == OK
    wild = logged(critic=steady, critic_gradient=[*steady[:-1], 40.0])
    found = divergence(wild, LEVEL)
    assert found.state == ALARM
    assert "critic_gradient is 40 times" in found.sentence
    assert divergence(logged(critic=steady, critic_gradient=[*steady[:-1], 2.0]), LEVEL).state == BEYOND
    down = logged(critic=steady, critic_gradient=[*steady[:-1], 1e-3])  # smaller is no divergence
    assert divergence(down, LEVEL).state == OK


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_rings_at_once(bad: float) -> None:
    found = divergence(logged(denoiser=[1.0, bad]), LEVEL)
    assert found.state == ALARM
    assert "denoiser" in found.sentence


def test_too_early_to_tell() -> None:
    assert divergence(logged(critic=[1.0, 50.0], critic_gradient=[1.0, 900.0]), LEVEL).state == OK


def examined(fids: list[float], losses: list[float], error: float = 1.0) -> list[dict[str, Any]]:
    lines = logged(denoiser=losses, denoiser_gradient=[1.0] * len(losses))
    return [{**each, "exam": {"fid": fid, "fid_error": error}} for each, fid in zip(lines, fids, strict=True)]


def test_quality_that_falls_while_the_loss_falls() -> None:
    falling = [1.0, 0.9, 0.8, 0.7, 0.6]
    found = overtraining(examined([50, 30, 20, 24, 30], falling), LEVEL)
    assert found is not None
    assert found.state == ALARM
    assert "it was 20 after 300 images, while the loss of denoiser fell" in found.sentence
    rising = overtraining(examined([50, 30, 20, 24, 30], [1.0, 0.9, 0.8, 0.9, 1.0]), LEVEL)
    assert rising is not None
    assert rising.state == BEYOND
    noisy = overtraining(examined([50, 30, 20, 24, 30], falling, error=8.0), LEVEL)
    assert noisy is not None
    assert noisy.state == OK
    assert overtraining(logged(denoiser=falling), LEVEL) is None


def test_exams_of_another_size_are_not_compared() -> None:
    """FID falls with n: a larger exam before, or after, would be the best for good."""
    history = examined([20, 35, 30, 24], [1.0, 0.9, 0.8, 0.7])
    sized = [{**line, "exam_n": n} for line, n in zip(history, (2048, 64, 64, 64), strict=True)]
    for count, images in ((1, 100), (2, 200), (3, 300), (4, 400)):
        best = best_of(sized[:count])
        assert best is not None
        assert best["images"] == images
        found = overtraining(sized[:count], LEVEL)
        assert found is not None
        assert found.state == OK
    assert best_of([]) is None


def test_the_best_of_several_is_low_by_chance() -> None:
    rng = np.random.default_rng(1)
    fids = 20 + rng.standard_normal((600, 8))
    falling = np.linspace(1, 0.5, 8).tolist()
    found = [overtraining(examined(each.tolist(), falling), LEVEL) for each in fids]
    hits = sum(verdict is not None and verdict.state != OK for verdict in found)
    assert hits <= 48  # 30 are allowed


def scores(train: float, held_out: float, fake: float | None = None, n: int = 200) -> dict[str, Tensor]:
    """Scores with these means and a deviation of 1, quantiles rather than draws."""
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(n) + 0.5) / n)
    found = {"train": train + quantiles, "held_out": held_out + quantiles}
    return found if fake is None else {**found, "fake": fake + quantiles}


def judged(found: dict[str, float]) -> str:
    verdict = overfit([{"memory": found}], LEVEL)
    assert verdict is not None
    return verdict.state


def test_r_v_of_known_scores() -> None:
    found = remembered(scores(2.0, 1.0, -2.0))
    assert found["r_v"] == pytest.approx(0.25)
    assert found["above"] == pytest.approx(float(torch.special.ndtr(torch.tensor(2**-0.5))), abs=2e-3)
    assert judged(found) == BEYOND
    assert judged(remembered(scores(2.0, 2.0, -2.0))) == OK
    assert judged(remembered(scores(2.0, -1.5, -2.0))) == ALARM
    assert judged(remembered(scores(2.0, 0.0))) == ALARM  # no fakes: 92 of 100 pairs
    assert judged(remembered(scores(2.0, 1.4))) == BEYOND
    assert "r_v" not in remembered(scores(0.0, 0.0, 0.1))  # a critic that tells nothing apart
    assert remembered({}) == {}
    assert remembered(scores(math.nan, 0.0)) == {}
    assert overfit([{"losses": {}}], LEVEL) is None


def test_the_sign_of_a_critics_logits_is_named() -> None:
    for train, held_out in ((2.0, 2.0), (2.0, 1.0), (2.0, -1.5)):
        verdict = overfit([{"memory": remembered(scores(train, held_out, -2.0))}], LEVEL)
        assert verdict is not None
        assert verdict.sentence.endswith("; r_t, the mean sign of their logits, is 0.95")
    denoiser = overfit([{"memory": remembered(scores(-2.0, -3.4))}], LEVEL)
    assert denoiser is not None
    assert "r_t" not in denoiser.sentence  # errors have one sign


def test_the_rate_of_false_positives_of_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(400, 2, 64, generator=generator)
    hits = sum(judged(remembered({"train": a, "held_out": b})) != OK for a, b in draws)
    assert 8 <= hits <= 34  # 20 are expected


def learned(real: Tensor, fake: Tensor, steps: int) -> nn.Module:
    """A critic that was shown these and nothing else."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    for _ in range(steps):
        some = fake[torch.randint(len(fake), (64,))]  # of fakes there are always new ones
        loss = nn.functional.softplus(-critic(real)).mean() + nn.functional.softplus(critic(some)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return critic


def test_a_critic_that_has_memorised() -> None:
    data = open_data("digits")
    real = from_uint8(data.train.tensor(slice(0, 64)))
    held_out = from_uint8(data.held_out.tensor(slice(0, 64)))
    alike = from_uint8(data.train.tensor(slice(64, None)))  # as good as real: only by heart can they be told
    noise = torch.rand(1000, 1, 8, 8) * 2 - 1

    def memory(fake: Tensor) -> dict[str, float]:
        critic = learned(real, fake, 250)
        with torch.no_grad():
            return remembered(
                {"train": critic(real), "held_out": critic(held_out), "fake": critic(fake)},
            )

    heart, sound = memory(alike), memory(noise)
    assert heart["r_v"] > 0.65
    assert judged(heart) == ALARM
    assert sound["r_v"] < 0.2
    assert judged(sound) != ALARM


@pytest.mark.parametrize("name", ["r3gan", "edm", "dcgan", "consistency", "flow"])
def test_scores_are_the_same_twice_and_change_nothing(name: str) -> None:
    spec, data = catalog.recipe(name), made_up()
    training = build(spec, data, spec.small, Settings(device="cpu"), 1000)
    training.step()
    before = {key: value.clone() for key, value in training.method.state_dict().items()}
    modes = [module.training for module in training.method.modules()]
    first, second = (known_scores(training.method, data, Clock(64, 1000, 1), 24) for _ in range(2))
    assert {"train", "held_out"} <= first.keys() <= {"train", "held_out", "fake"}
    assert all(value.shape == (24,) for value in first.values())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(value, before[key]) for key, value in training.method.state_dict().items())
    assert modes == [module.training for module in training.method.modules()]
