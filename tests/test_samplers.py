"""Samplers against a Gaussian, whose denoiser and whose probability-flow ODE are known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diptych.diffusion.samplers.consistency import consistency
from diptych.diffusion.samplers.euler import euler
from diptych.diffusion.samplers.grids import geometric, karras
from diptych.diffusion.samplers.heun import heun
from diptych.model import Noise

MEAN, DEVIATION = 0.3, 0.5


def ideal(x: Tensor, sigma: float) -> Tensor:
    """E[x_0 | x] for x_0 ~ N(MEAN, DEVIATION^2)."""
    s2 = DEVIATION**2
    return (s2 * x + sigma**2 * MEAN) / (s2 + sigma**2)


def solution(x: Tensor, sigma: float) -> Tensor:
    """Where the probability-flow ODE leads from x at sigma to noise level 0."""
    return MEAN + (x - MEAN) * DEVIATION / math.sqrt(DEVIATION**2 + sigma**2)


def test_karras_grid_ends() -> None:
    grid = karras(18, 0.002, 80)
    assert grid[0] == pytest.approx(80)
    assert grid[-2] == pytest.approx(0.002)
    assert grid[-1] == 0
    assert len(grid) == 19
    assert grid == sorted(grid, reverse=True)
    assert karras(1, 0.002, 80) == [pytest.approx(80), 0]


def test_geometric_grid_of_two_steps_is_that_of_the_literature() -> None:
    """iCT's middle level for two steps is 0.821 (Song and Dhariwal, 2024, section 4)."""
    assert geometric(2, 0.0084, 80)[1] == pytest.approx(0.82, abs=0.01)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)])
def test_order_of_convergence(sampler, order: int) -> None:  # type: ignore[no-untyped-def]
    start = torch.linspace(-160, 160, 9, dtype=torch.float64)
    errors = []
    for steps in (64, 128, 256):
        end = sampler(ideal, start, karras(steps, 0.002, 80), Noise(()))
        errors.append((end - solution(start, 80)).abs().max().item())
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert measured == [pytest.approx(order, abs=0.25)] * 2
    assert errors[-1] < (0.02 if order == 1 else 1e-3)


def test_euler_is_ddim() -> None:
    """x' = D + (sigma' / sigma) (x - D), which is DDIM with eta = 0."""
    x, sigma, following = torch.tensor([1.7]), 2.0, 0.5
    clean = ideal(x, sigma)
    torch.testing.assert_close(
        euler(ideal, x, [sigma, following], Noise(())), clean + following / sigma * (x - clean)
    )


def test_consistency_sampler_keeps_the_distribution() -> None:
    """With the exact consistency function every number of steps gives the data's mean and deviation."""

    def jump(x: Tensor, sigma: float) -> Tensor:
        return solution(x, sigma)

    for steps in (1, 2, 4):
        grid = geometric(steps, 0.0084, 80)
        noise = Noise(range(4000))
        start = MEAN + math.sqrt(DEVIATION**2 + grid[0] ** 2) * noise.normal(16)
        end = consistency(jump, start, grid, noise)
        assert end.mean().item() == pytest.approx(MEAN, abs=0.01)
        assert end.std().item() == pytest.approx(DEVIATION, abs=0.01)
