"""Samplers where the answer is known: Gaussians, and a mixture of two solved with very many steps."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.samplers import SAMPLERS, Sampler
from diptych.diffusion.samplers.adams import integrals
from diptych.diffusion.samplers.grids import geometric, karras, log_snr
from diptych.diffusion.schedules import LARGEST
from diptych.errors import WrongUse
from diptych.model import Noise

MEAN, DEVIATION = 0.3, 0.5
NOISY = {name for name, found in SAMPLERS.items() if not found.deterministic} - {"consistency"}
EXACT = {name for name, found in SAMPLERS.items() if found.deterministic}
every_exact = pytest.mark.parametrize("name", sorted(EXACT))
every_noisy = pytest.mark.parametrize("name", sorted(NOISY))


def ideal(x: Tensor, sigma: float) -> Tensor:
    """E[x_0 | x] for x_0 ~ N(MEAN, DEVIATION^2)."""
    s2 = DEVIATION**2
    return (s2 * x + sigma**2 * MEAN) / (s2 + sigma**2)


def solution(x: Tensor, sigma: float, end: float = 0.0) -> Tensor:
    """Where the probability-flow ODE leads from x at sigma to another noise level."""
    return MEAN + (x - MEAN) * math.sqrt((DEVIATION**2 + end**2) / (DEVIATION**2 + sigma**2))


def two(x: Tensor, sigma: float) -> Tensor:
    """E[x_0 | x] for a mixture of N(-0.7, 0.35^2) and N(0.4, 0.35^2): not linear in x."""
    means, s2 = x.new_tensor([-0.7, 0.4]), 0.35**2
    far = (x[..., None] - means).square() / (2 * (s2 + sigma**2))
    share = (x.new_tensor([0.4, 0.6]).log() - far).softmax(-1)
    return (share * (s2 * x[..., None] + sigma**2 * means) / (s2 + sigma**2)).sum(-1)


def even(steps: int, high: float, low: float) -> list[float]:
    """Levels at equal steps of log sigma, not ending at 0: the last jump has no order."""
    return [high * (low / high) ** (i / steps) for i in range(steps + 1)]


def seeds(n: int) -> Tensor:
    """Starts of unit size, (n, 1, 1, 1)."""
    return torch.linspace(-2, 2, n, dtype=torch.float64).view(-1, 1, 1, 1)


@lru_cache
def best(high: float) -> Tensor:
    """The mixture's solution from this level, to ten digits."""
    return SAMPLERS["dpm++3s"](two, high * seeds(9), even(1000, high, 0.05), Noise(()))


def measured(name: str, high: float, *counts: int) -> list[float]:
    """The order of convergence between each two numbers of steps."""
    errors = []
    for steps in counts:
        found = SAMPLERS[name](two, high * seeds(9), even(steps, high, 0.05), Noise(()))
        errors.append((found - best(high)).abs().max().item())
    both = zip(pairwise(errors), pairwise(counts), strict=True)
    return [math.log(a / b) / math.log(n / m) for (a, b), (m, n) in both]


# from noise, as it is used: multistep methods that begin at first order begin where that does not matter
FROM_NOISE = {"lms": 3.8, "deis": 3.4, "unipc3": 4.0}


@every_exact
def test_order_of_convergence(name: str) -> None:
    wanted = FROM_NOISE.get(name, SAMPLERS[name].order)
    assert measured(name, 80.0, 60, 120, 180) == [pytest.approx(wanted, abs=0.25)] * 2


@pytest.mark.parametrize(("name", "order"), [("lms", 2), ("deis", 2), ("dpm++3m", 2), ("unipc3", 3)])
def test_order_of_multistep_methods_from_a_low_level(name: str, order: int) -> None:
    """Where the first step counts, its order is all that theory promises: the declared one."""
    assert SAMPLERS[name].order == order
    assert min(measured(name, 3.0, 80, 160, 240)) > order - 0.25


@every_exact
def test_exact_on_a_gaussian(name: str) -> None:
    """With 60 steps to 0 within what the order allows."""
    start = 80 * seeds(9)
    end = SAMPLERS[name](ideal, start, karras(60, 0.002, 80), Noise(()))
    error = (end - solution(start, 80)).abs().max().item()
    assert error < {1: 0.05, 2: 0.02, 3: 2e-3}[SAMPLERS[name].order]


@every_noisy
def test_noisy_samplers_give_the_gaussian(name: str) -> None:
    """Its mean and its deviation, which comes with the steps, and not the deterministic solution."""
    errors = []
    for steps in (40, 160):
        grid = karras(steps, 0.002, 80)
        noise = Noise(range(32))
        start = MEAN + math.sqrt(DEVIATION**2 + grid[0] ** 2) * noise.normal(1, 32, 32)
        end = SAMPLERS[name](ideal, start, grid, noise)
        assert end.mean().item() == pytest.approx(MEAN, abs=0.012)
        assert (end - solution(start, 80)).std().item() > 0.02
        errors.append(abs(end.std().item() - DEVIATION))
    assert errors[1] < max(0.4 * errors[0], 0.006)  # 0.006: three standard errors
    assert errors[1] < 0.025


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_ddpm_variances_bound_the_right_one(variance: str) -> None:
    """Few steps: a normal of variance 1 needs "large", which assumes it; "small" gives too little."""

    class Unit:
        def __call__(self, x: Tensor, sigma: float) -> Tensor:
            return x / (1 + sigma**2)

        def moments(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            return self(x, sigma), torch.ones_like(x)

    noise, grid = Noise(range(32)), log_snr(6, 0.05, 40.0)
    end = SAMPLERS["ddpm"](Unit(), 40 * noise.normal(1, 32, 32), grid, noise, variance=variance)
    if variance == "small":
        assert end.std().item() < 0.9
    else:
        assert end.std().item() == pytest.approx(1, abs=0.01)


def test_ddpm_says_what_variances_there_are() -> None:
    with pytest.raises(WrongUse, match="variance must be 'small' or 'large' or 'learned', not 'lerned'"):
        SAMPLERS["ddpm"](ideal, seeds(2), [1.0, 0.0], Noise(()), variance="lerned")
    with pytest.raises(WrongUse, match="learned no variances"):
        SAMPLERS["ddpm"](ideal, seeds(2), [1.0, 0.0], Noise(()), variance="learned")


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("high", [80.0, LARGEST])
def test_one_step_is_the_denoiser(name: str, high: float) -> None:
    start = (high * torch.linspace(-2, 2, 48)).view(2, 3, 2, 4)
    end = SAMPLERS[name](ideal, start, [high, 0.0], Noise(range(2)))
    torch.testing.assert_close(end, ideal(start, high), atol=2e-2 if high == LARGEST else 1e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"consistency"}))
@pytest.mark.parametrize(("steps", "allowed"), [(40, 0.05), (8, 0.16)])
def test_begins_at_pure_noise(name: str, steps: int, allowed: float) -> None:
    """In float32 from a level of 1e5, along the times of a straight line: right to what the steps allow."""
    times = [1 - i / steps for i in range(steps)]
    grid = [min(t / max(1 - t, 1e-9), LARGEST) for t in times] + [0.0]
    noise = Noise(range(32))
    end = SAMPLERS[name](ideal, LARGEST * noise.normal(1, 24, 24), grid, noise)
    assert end.isfinite().all()
    assert end.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert end.std().item() == pytest.approx(DEVIATION, abs=allowed)


def wavy(x: Tensor, sigma: float) -> Tensor:
    """The ideal denoiser, off by a hundredth in a way that changes with the level and the image."""
    return ideal(x, sigma) + 0.01 * torch.sin(5 * x / (1 + sigma) + 3 * math.log(sigma))


@every_exact
@pytest.mark.parametrize("steps", [8, 40])
def test_errors_of_the_denoiser_are_not_magnified_from_pure_noise(name: str, steps: int) -> None:
    """The levels next to the first are 7 and 39: a second slope would be magnified ten thousandfold."""
    grid = [min(t / max(1 - t, 1e-9), LARGEST) for t in (1 - i / steps for i in range(steps))] + [0.0]
    ends = [SAMPLERS[name](see, LARGEST * seeds(33), grid, Noise(())) for see in (ideal, wavy)]
    assert (ends[1] - ends[0]).abs().max() < 0.05


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_each_image_is_its_own_and_nothing_is_overwritten(name: str) -> None:
    """The same seeds give the same images in any batch, float32 stays, and the start stays as it was."""
    grid = karras(5, 0.02, 20)
    start = 20 * Noise(range(4)).normal(3, 4, 4).contiguous(memory_format=torch.channels_last)
    kept = start.clone()
    whole = SAMPLERS[name](ideal, start, grid, Noise(range(4)))
    assert torch.equal(start, kept)
    assert whole.dtype == torch.float32
    assert whole.is_contiguous(memory_format=torch.channels_last)
    part = SAMPLERS[name](ideal, start[1:3], grid, Noise(range(1, 3)))
    torch.testing.assert_close(whole[1:3], part)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_number_of_calls(name: str) -> None:
    """At most as many a step as promised; restart goes back at one level."""
    calls = [0]

    def counted(x: Tensor, sigma: float) -> Tensor:
        calls[0] += 1
        return ideal(x, sigma)

    found = SAMPLERS[name]
    found(counted, seeds(2), karras(10, 0.01, 10), Noise(range(2)))
    back = 2 * 2 * 2 if name == "restart" else 0  # two ways down of two steps of two calls
    assert calls[0] == found.calls * 9 + 1 + back


def same(a: Sampler, b: Sampler, options: dict[str, Any]) -> bool:
    """Whether two samplers lead to the same images."""
    grid, start = karras(7, 0.01, 10), 10 * seeds(4)
    ends = [s(two, start, grid, Noise(range(4)), **o) for s, o in ((a, options), (b, {}))]
    return torch.allclose(*ends, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("one", "options", "other"),
    [
        ("ddim", {}, "euler"),
        ("ddim", {"eta": 1.0}, "ddpm"),
        ("euler-ancestral", {"eta": 0.0}, "euler"),
        ("dpm2-ancestral", {"eta": 0.0}, "dpm2"),
        ("dpm2", {}, "dpm-solver-2"),
        ("dpm++2m-sde", {"eta": 0.0}, "dpm++2m"),
        ("dpm++sde", {"eta": 0.0}, "dpm++2s"),
        ("edm-stochastic", {"churn": 0.0}, "heun"),
        ("restart", {"restarts": 0}, "heun"),
        ("unipc", {"order": 3}, "unipc3"),
        ("lms", {"order": 1}, "euler"),
        ("deis", {"order": 1}, "euler"),
        ("ipndm", {"order": 1}, "euler"),
    ],
)
def test_families(one: str, options: dict[str, Any], other: str) -> None:
    """Names of the literature for the same thing."""
    assert same(SAMPLERS[one], SAMPLERS[other], options)


def test_integrals_of_polynomials() -> None:
    """Adams and Bashforth's weights; with an exponential, exactly those of its own integral."""
    assert integrals((0.0, -1.0, -2.0), 0.0, 1.0) == pytest.approx([23 / 12, -16 / 12, 5 / 12])
    h = 6.4
    flat, linear = 1 - math.exp(-h), h - (1 - math.exp(-h))  # of 1 and of t, times e^(t - h)
    weights = integrals((0.0, -2.0), 0.0, h, 1.0)
    assert sum(weights) == pytest.approx(flat)
    assert -2.0 * weights[1] == pytest.approx(linear)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("unipc", {"order": 4}, "order must be from 1 to 3, not 4"),
        ("lms", {"order": 0}, "order must be at least 1, not 0"),
        ("restart", {"restart_low": 0.5}, "restart_low 0.5 must be below restart_high 0.3"),
    ],
)
def test_wrong_options(name: str, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        SAMPLERS[name](ideal, seeds(2), [1.0, 0.5, 0.0], Noise(range(2)), **wrong)


def test_options_reach_the_sampler_or_are_refused() -> None:
    assert DiffusionOptions(sampler="ddim", eta=0.5).of_sampler() == {"eta": 0.5}
    with pytest.raises(WrongUse, match="sampler heun has no eta"):
        DiffusionOptions(sampler="heun", eta=0.5)


def test_consistency_sampler_keeps_the_distribution() -> None:
    """With the exact consistency function every number of steps gives the data's mean and deviation."""
    for steps in (1, 2, 4):
        grid = geometric(steps, 0.0084, 80)
        noise = Noise(range(2000))
        start = MEAN + math.sqrt(DEVIATION**2 + grid[0] ** 2) * noise.normal(16)
        end = SAMPLERS["consistency"](solution, start, grid, noise)
        assert end.mean().item() == pytest.approx(MEAN, abs=0.01)
        assert end.std().item() == pytest.approx(DEVIATION, abs=0.01)
