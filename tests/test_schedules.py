"""Schedules: alpha and sigma against their definitions, and time as the inverse of the noise level."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych import catalog
from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.schedules import (
    LARGEST,
    SCHEDULES,
    VE,
    VP,
    Cosine,
    Discrete,
    Flow,
    Schedule,
    Tabulated,
    schedule,
)
from diptych.errors import WrongUse
from diptych.saveable import from_tree, to_tree

T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
every = pytest.mark.parametrize("name", list(SCHEDULES))


@every
def test_time_inverts_level(name: str) -> None:
    it = schedule(name)
    torch.testing.assert_close(it.time(it.level(T)), T, atol=1e-5, rtol=0)
    torch.testing.assert_close(it.level(it.time(it.level(T))), it.level(T), rtol=1e-5, atol=0)
    assert (it.level(T).diff() > 0).all()


@every
def test_coefficients_have_the_level_as_ratio(name: str) -> None:
    it = schedule(name)
    alpha, sigma = it(T)
    torch.testing.assert_close(sigma / alpha, it.level(T), rtol=1e-6, atol=0)
    low, high = it.ends()
    assert 0 < low < 0.05
    assert 10 < high <= LARGEST
    assert it.told(torch.tensor([1.0])).item() == pytest.approx(1000, abs=2)


@every
def test_is_saved_by_its_arguments(name: str) -> None:
    it = schedule(name)
    twin = from_tree(json.loads(json.dumps(to_tree(it))))
    assert isinstance(twin, Schedule)
    torch.testing.assert_close(twin.level(T), it.level(T))


@pytest.mark.parametrize(
    ("betas", "name"), [("linear", "linear"), ("scaled-linear", "scaled_linear"), ("cosine", None)]
)
def test_discrete_schedules_are_those_of_diffusers(betas: str, name: str | None) -> None:
    diffusers = pytest.importorskip("diffusers")
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled_linear" else {}
    theirs = diffusers.DDPMScheduler(beta_schedule=name or "squaredcos_cap_v2", **ends).alphas_cumprod
    alpha, sigma = Discrete(betas)(torch.linspace(0, 1, 1000, dtype=torch.float64))
    torch.testing.assert_close(alpha.square(), theirs.double(), rtol=2e-4, atol=1e-9)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(1000, dtype=torch.float64))


def test_zero_terminal_snr_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(rescale_betas_zero_snr=True).alphas_cumprod.double()
    alpha, _ = Discrete("linear", zero_snr=True)(torch.linspace(0, 1, 1000, dtype=torch.float64))
    torch.testing.assert_close(alpha.square()[:-1], theirs[:-1], rtol=1e-3, atol=1e-7)
    assert alpha[-1] == pytest.approx(1 / LARGEST, rel=1e-3)
    assert Discrete("linear").ends()[1] == pytest.approx(157.4, abs=0.1)


def test_fewer_steps_reach_the_same_noise() -> None:
    for steps in (50, 250, 4000):
        assert 0.4 < Discrete("linear", steps).ends()[1] / Discrete("linear").ends()[1] < 2.5


def test_closed_forms() -> None:
    t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    alpha, sigma = Flow()(t)
    torch.testing.assert_close(alpha, 1 - t)
    torch.testing.assert_close(sigma, t)
    alpha, sigma = Cosine()(t)
    torch.testing.assert_close(alpha, (t * math.pi / 2).cos())
    torch.testing.assert_close(sigma, (t * math.pi / 2).sin())
    alpha, sigma = VP()(t)
    integral = 0.1 * t + 19.9 * t**2 / 2  # of beta from 0 to t
    torch.testing.assert_close(alpha, (-integral / 2).exp())
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    torch.testing.assert_close(VE(0.01, 100.0).level(t)[1], torch.tensor(1.0, dtype=torch.float64))


def test_shift_of_flow() -> None:
    """s = shift t / (1 + (shift - 1) t), and the network is told s."""
    t = torch.tensor([0.5], dtype=torch.float64)
    it = Flow(3.0)
    assert it(t)[1].item() == pytest.approx(0.75)
    assert it.told(t).item() == pytest.approx(750)


def test_the_users_own_function() -> None:
    own = Tabulated.of(lambda t: 1 - t, lambda t: t)
    inside = T[5:-5]
    alpha, sigma = own(inside)
    torch.testing.assert_close(alpha, 1 - inside, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sigma, inside, rtol=1e-3, atol=1e-4)
    twin = from_tree(json.loads(json.dumps(to_tree(own))))
    torch.testing.assert_close(twin.level(inside), own.level(inside))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Discrete("lienar"),
        lambda: Discrete("linear", 1),
        lambda: VP(2.0, 1.0),
        lambda: VE(0.0, 1.0),
        lambda: Flow(0.0),
        lambda: Flow("a"),  # type: ignore[arg-type]
        lambda: VP(0.1, math.inf),
        lambda: VP("a"),  # type: ignore[arg-type]
        lambda: VE(0.1, None),  # type: ignore[arg-type]
        lambda: Discrete(3),  # type: ignore[arg-type]
        lambda: Discrete("linear", 2.5),  # type: ignore[arg-type]
        lambda: Discrete("cosine", beta_start=1e-4, beta_end=0.02),
        lambda: Discrete("linear", beta_start=1e-4),
        lambda: Discrete("linear", beta_start=0.02, beta_end=1e-4),
        lambda: Discrete("sigmoid", beta_start=1e-4, beta_end=1.0),
        lambda: Tabulated([1.0], [0.0]),
        lambda: Tabulated(["a", "b"], [0.0, 1.0]),  # type: ignore[list-item]
        lambda: Tabulated([[1.0, 0.0]], [[0.0, 1.0]]),  # type: ignore[list-item]
        lambda: Tabulated.of(lambda t: 1 - t, lambda t: t, n=1),
        lambda: Tabulated.of(lambda t: 1 - t, lambda t: t, n="many"),  # type: ignore[arg-type]
        lambda: Tabulated([1.0, 0.5], [0.0]),
        lambda: Tabulated([0.1, 0.5, 1.0], [1.0, 0.5, 0.1]),
        lambda: Tabulated([1.0, float("nan"), 0.0], [0.0, 0.5, 1.0]),
        lambda: schedule("nothing"),
    ],
)
def test_bad_arguments_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WrongUse) as said:
        make()
    assert said.value.hint


@pytest.mark.parametrize(
    ("alphas", "sigmas", "says"),
    [
        ([1.0, 0.5, 0.0], [0.0, 0.5, float("nan")], "must be finite numbers: at time 1 they are 0 and nan"),
        ([1.0, float("inf"), 0.0], [0.0, 0.5, 1.0], "must be finite numbers: at time 0.5"),
        ([1.0, 0.5, -0.1], [0.0, 0.5, 1.0], "must not be negative: at time 1 they are -0.1 and 1"),
        ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], "must not both be 0: at time 0.5"),
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], "must rise with time"),
        ([0.0, 0.0], [0.5, 1.0], "must rise with time"),
        ([0.1, 0.5, 1.0], [1.0, 0.5, 0.1], "must rise with time"),
    ],
)
def test_a_table_that_is_no_schedule_is_told_why(alphas: list[float], sigmas: list[float], says: str) -> None:
    with pytest.raises(WrongUse, match=says) as said:
        Tabulated(alphas, sigmas)
    assert said.value.hint


def test_functions_of_floats_and_of_tensors_are_one() -> None:
    plain = Tabulated.of(lambda t: math.sqrt(1 - t), lambda t: math.sin(t))
    for alpha, sigma in (
        (lambda t: (1 - t).sqrt(), lambda t: t.sin()),
        (lambda t: torch.sqrt(1 - t), np.sin),
    ):
        found = Tabulated.of(alpha, sigma)
        torch.testing.assert_close(found.log_level, plain.log_level)
        assert to_tree(found)["class"].endswith("Tabulated")  # it can be saved
    for wrong in (lambda t: 1 / t, lambda t: math.log(t), lambda t: "a", lambda: 1, "cosine"):
        with pytest.raises(WrongUse, match="sigma gives no number at time") as said:
            Tabulated.of(lambda t: 1 - t, wrong)
        assert "math.sqrt" in said.value.hint


@pytest.mark.parametrize("steps", [50, 1000])
@pytest.mark.parametrize(
    ("betas", "name"), [("linear", "linear"), ("scaled-linear", "scaled_linear"), ("sigmoid", "sigmoid")]
)
def test_ends_of_betas_are_those_of_diffusers(betas: str, name: str, steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    ends = {"beta_start": 0.0005, "beta_end": 0.03}
    theirs = diffusers.DDPMScheduler(num_train_timesteps=steps, beta_schedule=name, **ends).alphas_cumprod
    ours = Discrete(betas, steps, **ends)
    level = torch.tensor(ours.exact, dtype=torch.float64)
    torch.testing.assert_close(1 / (1 + level.square()), theirs.double(), rtol=0, atol=1e-6)
    twin = from_tree(json.loads(json.dumps(to_tree(ours))))
    assert twin.exact == ours.exact
    assert Discrete(betas, steps).exact != ours.exact


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("flow:3", Flow(3.0)),
        ("flow:0.5", Flow(0.5)),
        ("linear:zero-snr", Discrete("linear", zero_snr=True)),
        ("cosine:zero-snr", Discrete("cosine", zero_snr=True)),
    ],
)
def test_names_with_a_setting(name: str, same: Schedule) -> None:
    assert DiffusionOptions(schedule=name).schedule == name
    assert to_tree(schedule(name)) == to_tree(same)
    torch.testing.assert_close(schedule(name).level(T), same.level(T))
    assert schedule(name).ends()[1] == pytest.approx(LARGEST)


@pytest.mark.parametrize(
    ("name", "sentence", "hint"),
    [
        ("lienar:zero-snr", "no schedule called lienar", "linear"),
        ("flow:three", "flow:three is not a number", "flow:3"),
        ("flow:0", "a number above 0", "3 is for large"),
        ("flow:nan", "a number above 0", "3 is for large"),
        ("cosine:zero", "no setting 'zero'", "cosine:zero-snr"),
        ("vp:3", "no setting '3'", "vp"),
        ("flow:zero-snr", "flow ends in pure noise already", "leave zero-snr out"),
        ("cosine-continuous:zero-snr", "ends in pure noise already", "leave zero-snr out"),
        ("ve:zero-snr", "ve is continuous", "linear"),
    ],
)
def test_settings_that_a_schedule_does_not_have(name: str, sentence: str, hint: str) -> None:
    with pytest.raises(WrongUse, match=sentence) as caught:
        schedule(name)
    assert hint in caught.value.hint


def test_ddpm_ends_in_noise_alone() -> None:
    """By the flag or by the schedule's name, and never twice; eps and flow schedules are told why not."""
    spec, data = catalog.recipe("ddpm"), made_up().train
    wanted = to_tree(Discrete("cosine", zero_snr=True))
    for given in (
        {"zero_snr": True},
        {"betas": "cosine:zero-snr"},
        {"betas": "cosine:zero-snr", "zero_snr": 1},
    ):
        method = spec(data, **{**spec.small, "betas": "cosine", "target": "v", **given}).method
        assert to_tree(method.model.denoiser.schedule) == wanted  # type: ignore[union-attr]
    with pytest.raises(WrongUse, match="flow ends in pure noise already"):
        spec(data, **spec.small, betas="flow", zero_snr=True, target="v")
    with pytest.raises(WrongUse, match="eps says nothing"):
        spec(data, **spec.small, betas="linear:zero-snr")


def test_float32_is_enough() -> None:
    """Networks see levels in float32: the time found again is within a hundredth of a step."""
    for name in SCHEDULES:
        it = schedule(name)
        level: Tensor = it.level(T.float())
        assert (it.told(it.time(level)) - it.told(T.float())).abs().max() < 0.1
