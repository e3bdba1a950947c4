"""Grids of noise levels: their ends, their spacing, and diffusers' timesteps."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from conftest import made_up
from diptych import catalog
from diptych.diffusion.denoiser import EDMDenoiser
from diptych.diffusion.levels import noise_levels
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.samplers import GRIDS
from diptych.diffusion.samplers.grids import (
    beta,
    geometric,
    karras,
    leading,
    linear,
    linspace,
    log_snr,
    trailing,
)
from diptych.diffusion.schedules import SCHEDULES, VE, VP, Discrete, Flow, Schedule, Tabulated, schedule
from diptych.errors import WrongUse
from diptych.model import Noise
from diptych.networks.unet import UNet
from gaussian import Gaussian

every_grid = pytest.mark.parametrize("name", sorted(GRIDS))
SPACINGS = {"trailing": trailing, "leading": leading, "linspace": linspace}


def times(levels: list[float], own: Schedule) -> list[float]:
    """The times of levels before the last, which is 0."""
    return own.time(torch.tensor(levels[:-1], dtype=torch.float64)).tolist()


@every_grid
@pytest.mark.parametrize("of", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_every_grid_falls_from_the_end_to_0(name: str, of: str, steps: int) -> None:
    own = schedule(of)
    low, high = own.ends()
    levels = GRIDS[name](steps, low, high, own)
    assert len(levels) == steps + 1
    assert levels[-1] == 0
    assert all(a > b for a, b in pairwise(levels))
    assert levels[0] == pytest.approx(high, rel=1e-4) or name == "leading"
    if steps > 1 and name not in ("trailing", "geometric"):
        assert levels[-2] == pytest.approx(low, rel=2e-3)


def test_karras_grid() -> None:
    """EDM's 18 steps, equation 5."""
    grid = karras(18, 0.002, 80)
    assert [grid[0], grid[-2], grid[-1]] == [pytest.approx(80), pytest.approx(0.002), 0]
    assert grid[9] == pytest.approx((80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)


def test_even_grids() -> None:
    assert linear(5, 1, 9) == pytest.approx([9, 7, 5, 3, 1, 0])
    assert log_snr(4, 0.01, 10) == pytest.approx([10, 1, 0.1, 0.01, 0])
    assert geometric(3, 0.01, 10) == pytest.approx([10, 1, 0.1, 0])
    assert GRIDS["exponential"] is GRIDS["log-snr"]


def test_geometric_grid_of_two_steps_is_that_of_the_literature() -> None:
    """iCT's middle level for two steps is 0.821 (Song and Dhariwal, 2024, section 4)."""
    assert geometric(2, 0.0084, 80)[1] == pytest.approx(0.82, abs=0.01)


def test_beta_grid_is_symmetric_in_time_and_dense_at_both_ends() -> None:
    own = Flow()
    t = times(beta(21, *own.ends(), own), own)
    gaps = -np.diff(t)
    assert t[10] == pytest.approx(0.5, abs=1e-3)
    assert gaps == pytest.approx(gaps[::-1], abs=1e-4)
    assert gaps.argmax() in (9, 10)
    # Beta(0.6, 0.6) is at most at 0.05 with this probability, by its density's integral
    place = np.linspace(0, 0.05, 200_001)[1:]
    share = (place**-0.4 * (1 - place) ** -0.4).sum() * (place[1] - place[0])
    share /= math.gamma(0.6) ** 2 / math.gamma(1.2)
    levels = beta(1001, *own.ends(), own)
    below = sum(t < 0.05 for t in times(levels, own)) / 1001
    assert below == pytest.approx(share, abs=3e-3)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_timesteps_of_diffusers(spacing: str) -> None:
    """For every number of steps from 2 to 1000, of a thousand."""
    diffusers = pytest.importorskip("diffusers")
    own = Discrete("linear")
    place = {level: row for row, level in enumerate(own.exact)}
    theirs = diffusers.DDIMScheduler(timestep_spacing=spacing)
    for steps in [*range(2, 120), *range(120, 1001, 13), 999, 1000]:
        theirs.set_timesteps(steps)
        wanted = theirs.timesteps.tolist()
        levels = SPACINGS[spacing](steps, *own.ends(), own)
        assert [place[level] for level in levels[:-1]] == wanted[:steps]


def test_continuous_schedules_are_spaced_in_their_time() -> None:
    own = VP()
    low, high = own.ends()
    assert times(trailing(4, low, high, own), own) == pytest.approx([1, 0.75, 0.5, 0.25], abs=1e-6)
    assert times(leading(4, low, high, own), own) == pytest.approx([0.75, 0.5, 0.25, 0], abs=2e-5)
    assert times(linspace(5, low, high, own), own) == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=2e-5)


def test_shifted_flow() -> None:
    """Resolution shift: s = 3 t / (1 + 2 t)."""
    own = Flow(3.0)
    levels = trailing(4, *own.ends(), own)
    assert [s / (1 + s) for s in levels[1:-1]] == pytest.approx([0.9, 0.75, 0.5])


def test_what_schedules_cannot_do_is_said() -> None:
    own = Discrete("linear", steps=100)
    with pytest.raises(WrongUse, match="100 steps, fewer than 101") as said:
        trailing(101, *own.ends(), own)
    assert "at most 100 steps" in said.value.hint
    with pytest.raises(WrongUse, match="ends from the schedule"):
        trailing(10, 0.002, 80, own)
    flat = Tabulated([1.0, 1.0, 1.0, 1.0], [0.1, 0.2, 0.2, 0.3])
    with pytest.raises(WrongUse, match="same noise level"):
        trailing(4, *flat.ends(), flat)


@every_grid
@pytest.mark.parametrize("of", sorted(SCHEDULES))
def test_ends_that_a_model_visits(name: str, of: str) -> None:
    """A schedule's own; but where it is cut at pure noise, grids of their own run from 100 to 0.002."""
    own = schedule(of)
    low, high = own.ends()
    follows = name in ("trailing", "leading", "linspace", "beta")
    if high > 1000 and not follows:
        low, high = max(low, 0.002), 100.0
    levels = noise_levels(DiffusionOptions(steps=20, grid=name), own)
    assert levels == tuple(GRIDS[name](20, low, high, own))
    swapped = noise_levels(DiffusionOptions(steps=20, grid=name, schedule=of), VE())
    assert swapped == levels
    if not follows:
        asked = noise_levels(DiffusionOptions(steps=20, grid=name, sigma_min=1e-4, sigma_max=5e4), own)
        assert asked == tuple(GRIDS[name](20, 1e-4, 5e4, own))


def test_ends_of_a_schedule_of_steps_are_its_own() -> None:
    own = Discrete("cosine")
    assert own.ends() == (own.exact[0], own.exact[-1])
    assert VE().exact == ()


def test_levels_that_would_move_nothing_are_refused() -> None:
    network = UNet((1, 8, 8), width=8, multipliers=(1,), blocks=1)
    model = DiffusionModel(EDMDenoiser(network), DiffusionOptions(steps=4))
    tuned = model.using(steps=3, sigmas=(80.0, 5.0, 1.0, 0.0))
    for changes in ({"grid": "linear"}, {"sigma_max": 40.0}, {"grid": "trailing", "schedule": "flow"}):
        with pytest.raises(WrongUse, match="nothing beside noise levels that are given"):
            tuned.using(**changes)
    assert tuned.using(sigmas=(), grid="linear").sigmas == model.using(steps=3, grid="linear").sigmas
    with pytest.raises(WrongUse, match="grid karras follows no schedule"):
        model.using(schedule="flow:3")
    assert model.using(schedule="flow:3", grid="trailing").sigmas != model.using(grid="trailing").sigmas


def test_steps_are_whole() -> None:
    for name in ("steps", "probes", "terms"):
        with pytest.raises(WrongUse, match=f"{name} must be a whole number, not 1.5"):
            DiffusionOptions(**{name: 1.5})


@pytest.mark.parametrize("betas", ["flow", "cosine-continuous", "linear:zero-snr"])
def test_a_schedule_that_ends_at_noise_alone_wants_another_target_than_eps(betas: str) -> None:
    spec, data = catalog.recipe("ddpm"), made_up().train
    with pytest.raises(WrongUse, match="ends at noise alone"):
        spec(data, **spec.small, betas=betas)
    for target in ("x0", "v", "flow"):
        spec(data, **spec.small, betas=betas, target=target)


@pytest.mark.parametrize(("name", "side"), [(n, side) for n in ("flow", "dit", "ddpm") for side in (32, 256)])
def test_recipes_leave_nothing_out_below_their_lowest_level(name: str, side: int) -> None:
    """The recipe's own sampler and grid keep the power of a mode as faint as the finest one of natural images
    of 256 pixels (1 / f^2, deviation 0.5 in all); equal steps of the schedule's time lost most of it."""
    spec, faint = catalog.recipe(name), 0.18
    data = made_up((3, side, side), n=8, held_out=4).train
    given = {key: value for key, value in spec.small.items() if key != "steps"}
    model = spec(data, **given).method.model
    assert isinstance(model, DiffusionModel)
    own = model.denoiser.schedule
    exact = Gaussian((1, 8, 8), torch.zeros(64), faint**2 * torch.eye(64), schedule=own)
    options = replace(model.options, steps=20, threshold=0.0)
    image = DiffusionModel(exact, options)(Noise(range(64)))
    assert float(image.std()) / faint == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("name", ["iddpm", "adm"])
def test_learned_variances_go_from_the_first_step_to_the_last(name: str) -> None:
    """As `space_timesteps` of the papers' code."""
    spec = catalog.recipe(name)
    data = made_up().train
    model = spec(data, **spec.small).method.model
    assert isinstance(model, DiffusionModel)
    assert model.options.sampler == "ddpm"
    steps = model.denoiser.schedule.exact
    assert model.sigmas[0] == pytest.approx(steps[-1])
    assert model.sigmas[-2] == pytest.approx(steps[0])
    other = spec(data, **{**spec.small, "sampler": "dpm++2m"}).method.model
    assert isinstance(other, DiffusionModel)
    assert other.options.grid == "log-snr"
