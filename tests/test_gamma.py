"""gamma="auto": holds the gap of the logits, whatever it takes; saved, resumed, and asked for by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych import catalog
from diptych.adversarial.gamma import LEAST, MOST, AutoGamma, weight_of
from diptych.adversarial.look import Look
from diptych.adversarial.penalties import r1
from diptych.errors import WrongUse
from diptych.method import Clock
from diptych.methods.r3gan import falling
from diptych.training.state import Settings, Training

N = 32


def look(gap: float, n: int = N) -> Look:
    """Logits `gap` apart."""
    seen = Look(lambda image, label: image.sum((1, 2, 3)), torch.zeros(n, 1, 1, 1), None, Tensor)
    seen.real_logit, seen.fake_logit = torch.full((n,), 1 + gap), torch.ones(n)
    return seen


def after(gamma: AutoGamma, gap_of: Any, images: int, total: int = 1_000_000) -> float:
    """gamma after so many images, the gap being a function of it."""
    for seen in range(0, images, N):
        clock = Clock(seen, total, seen // N)
        gamma.observe(look(gap_of(gamma(clock).item())), clock)
    return gamma(Clock(images, total, 0)).item()


def test_stands_still_where_the_gap_is_right() -> None:
    assert after(AutoGamma(gap=0.5, start=3.0), lambda gamma: 0.5, 4000) == pytest.approx(3.0, rel=1e-4)


def test_rises_by_a_factor_of_e_in_so_many_images_and_falls_at_a_quarter_of_that() -> None:
    sure, unsure = (AutoGamma(gap=0.25, start=1.0, quickest=1000) for _ in range(2))
    assert 0.9 < math.log(after(sure, lambda gamma: 100.0, 1024)) <= 1.0241
    assert -0.257 <= math.log(after(unsure, lambda gamma: -100.0, 1024)) < -0.225


def test_stays_within_its_bounds() -> None:
    assert after(AutoGamma(quickest=N), lambda gamma: 100.0, 2000, total=2000) == pytest.approx(MOST)
    assert after(AutoGamma(quickest=N), lambda gamma: -1.0, 8000, total=8000) == pytest.approx(LEAST)


@pytest.mark.parametrize("strength", [0.01, 0.25, 30.0])
def test_finds_the_gamma_of_a_critic_whose_gap_goes_as_its_inverse(strength: float) -> None:
    """Where the penalty holds a critic far from sure, gap = strength / gamma."""
    found = after(AutoGamma(gap=0.25), lambda gamma: strength / gamma, 120_000)
    assert found == pytest.approx(strength / 0.25, rel=0.1)


def test_is_as_quick_in_microbatches() -> None:
    whole, halves = AutoGamma(), AutoGamma()
    clock = Clock(0, 1000, 0)
    for _ in range(10):
        whole.observe(look(0.4), clock)
        for _ in range(2):
            halves.observe(look(0.4, n=N // 2), clock)
    assert halves(clock).item() == pytest.approx(whole(clock).item(), rel=0.03)


def test_weighs_the_penalty_and_is_logged() -> None:
    penalty = r1(AutoGamma(start=8.0, quickest=10**9))
    seen = Look(lambda image, label: 3 * image.sum((1, 2, 3)), torch.zeros(4, 1, 2, 2), None, lambda: ones)
    ones = torch.zeros(4, 1, 2, 2)
    term, logs = penalty(seen, Clock(0, 1, 0))
    assert term.item() == pytest.approx(8 / 2 * 9 * 4, rel=1e-4)
    assert logs["gamma"].item() == pytest.approx(8, rel=1e-4)


def test_held_more_firmly_it_aims_for_a_smaller_gap() -> None:
    """Twice as firm is twice the weight, at once and for good: the gap that is aimed for is half of it."""
    gamma, gap_of = AutoGamma(gap=0.25), lambda gamma: 1.0 / gamma
    assert after(gamma, gap_of, 120_000) == pytest.approx(4, rel=0.1)
    before = gamma(Clock(0, 1, 0)).item()
    penalty = r1(gamma)
    penalty.firmer(2.0)
    term, logs = penalty(penalised(0.25 / 2), Clock(0, 1, 0))
    assert logs["gamma"].item() == pytest.approx(2 * before, rel=0.05)
    assert penalty.firmness * term.item() == pytest.approx(logs["gamma"].item() / 2)  # the slope is 1
    assert after(gamma, gap_of, 120_000) == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize("gamma", ["none", 0.0])
def test_what_weighs_nothing_cannot_be_firmer(gamma: Any) -> None:
    spec, data = catalog.recipe("r3gan"), made_up().train
    method = spec(data, **spec.small, gamma=gamma).method
    with pytest.raises(WrongUse, match="weights are all 0"):
        method.firmer(1.0)
    assert spec(data, **spec.small, gamma="none").method.remedy.count("--gamma auto") == 1
    spec(data, **spec.small, gamma="auto").method.firmer(2.0)


def test_is_resumed_with_the_training() -> None:
    """Three steps, saved and taken up, equal six steps."""

    def begun() -> Training:
        torch.manual_seed(0)
        spec = catalog.recipe("r3gan")
        recipe = spec(made_up().train, **{**spec.small, "gamma": "auto"})
        return Training(recipe, made_up().train, 1000, Settings(device="cpu"))

    whole, half, resumed = begun(), begun(), begun()
    for _ in range(6):
        whole.step()
    for _ in range(3):
        half.step()
    resumed.load_state_dict(half.state_dict())
    for _ in range(3):
        resumed.step()
    ours, theirs = (run.method.state_dict() for run in (resumed, whole))
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    exponents = [value for key, value in ours.items() if key.endswith("exponent")]
    assert len(exponents) == 1
    assert exponents[0] != 0
    assert whole.logs.means()["gamma"] > 0


def test_what_a_recipe_means_by_gamma() -> None:
    clock = Clock(500, 1000, 0)
    assert weight_of(3.0)(clock) == 3.0
    assert weight_of(3.0, falling)(clock) == pytest.approx(3 / math.sqrt(10))
    assert isinstance(weight_of("auto", falling), AutoGamma)
    assert weight_of("none", falling)(clock) == 0  # type: ignore[operator]
    for wrong in (-1.0, math.nan, math.inf, "automatic"):
        with pytest.raises(WrongUse, match="gamma"):
            weight_of(wrong)  # type: ignore[arg-type]


def test_a_lazy_penalty_tells_it_how_many_steps_it_stands_for() -> None:
    lazy, eager = (AutoGamma(start=1.0, quickest=20_000) for _ in range(2))
    for _ in range(40):
        r1(lazy, every=8)(penalised(0.4), Clock(0, 1, 0))
        for _ in range(8):
            r1(eager)(penalised(0.4), Clock(0, 1, 0))
    assert lazy.exponent.item() == pytest.approx(eager.exponent.item(), rel=0.05)
    assert eager.exponent.item() > 0


def penalised(gap: float) -> Look:
    """A look that has slopes too."""
    base = torch.zeros(N, 1, 1, 1)
    return Look(lambda image, label: image.sum((1, 2, 3)), base + gap, None, lambda: base)


TUNED = {name: spec for name, spec in catalog.recipes().items() if "gamma" in spec.defaults}


@pytest.mark.parametrize("name", TUNED)
def test_every_recipe_with_a_gamma_can_have_it_tuned(name: str) -> None:
    spec, data = TUNED[name], made_up()
    given = {**spec.small, "gamma": "auto", **({"loss": "non-saturating"} if name == "pggan" else {})}
    training = Training(spec(data.train, **given), data.train, 1000, Settings(device="cpu"))
    (before,) = (v.clone() for k, v in training.method.state_dict().items() if k.endswith("exponent"))
    training.step()
    training.check_finite()
    (after,) = (v for k, v in training.method.state_dict().items() if k.endswith("exponent"))
    assert after != before


@pytest.mark.parametrize("name", TUNED)
def test_every_recipe_with_a_gamma_can_go_without_the_penalty(name: str) -> None:
    spec, data = TUNED[name], made_up().train
    given = {**spec.small, **({"loss": "non-saturating"} if name == "pggan" else {})}
    weights = {}
    for gamma in ("none", 0.0, 2.0, spec.defaults["gamma"]):
        (penalty,) = spec(data, **given, gamma=gamma).method.penalties  # type: ignore[union-attr]
        weights[gamma] = penalty.weight(Clock(0, 1000, 0))
    assert (weights["none"], weights[0.0], weights[2.0]) == (0, 0, 2)
    assert weights[spec.defaults["gamma"]] > 0  # by the images' size, where that is -1
    with pytest.raises(WrongUse, match="gamma is at least 0"):
        spec(data, **given, gamma=-2.0)
