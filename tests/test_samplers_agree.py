"""Samplers and grids beside diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from diptych.diffusion.samplers.grids import beta_sigma, karras, log_snr, trailing
from diptych.diffusion.schedules import Flow
from sampler_peers import CASES, LINEAR, VP, Case, N, after_start, begin, clean, ours, scheduler_of

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_diffusers(case: Case) -> None:
    """To 1e-4, of images of about unit size."""
    mine, theirs = case.run()
    assert theirs.isfinite().all()
    assert theirs.std() > 0.3
    assert (mine - theirs).abs().max().item() < 1e-4


def test_the_network_of_the_comparison_can_tell_samplers_apart() -> None:
    """On the levels of a case two samplers differ by much more than they may from their peers."""
    sigmas = karras(N, 0.01, 80)
    ends = [ours(name, sigmas) for name in ("euler", "dpm++2m", "dpm++3m", "unipc", "unipc3", "heun", "lms")]
    for i, one in enumerate(ends):
        for other in ends[:i]:
            assert (one - other).abs().max() > 3e-4
    assert (after_start().normal(3, 8, 8) - begin(1.0)).abs().max() > 1
    assert clean(begin(1.0), 1.0).std() > 0.3


def test_last_step_of_deis_is_the_clean_image() -> None:
    sigmas = karras(N, 0.01, 80)
    near = ours("deis", sigmas[:-1])
    assert (ours("deis", sigmas) - clean(near, sigmas[-2])).abs().max().item() < 1e-12


def test_the_flow_schedule_is_a_grid_of_flow_matching() -> None:
    """FlowMatchEuler with a pipeline's sigmas 1, 1 - 1/n ...: the grid trailing on Flow(shift)."""
    theirs = scheduler_of("FlowMatchEulerDiscreteScheduler", shift=3.0)
    theirs.set_timesteps(sigmas=[1 - i / N for i in range(N)])
    schedule = Flow(3.0)
    mine = [sigma / (1 + sigma) for sigma in trailing(N, *schedule.ends(), schedule)]
    assert mine == pytest.approx(theirs.sigmas.tolist(), abs=2e-5)


def test_edm_grid() -> None:
    theirs = scheduler_of("EDMEulerScheduler")
    assert karras(N, 0.002, 80) == pytest.approx(theirs.sigmas.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("option", "grid"),
    [("use_karras_sigmas", karras), ("use_exponential_sigmas", log_snr), ("use_beta_sigmas", beta_sigma)],
)
def test_grids_by_level(option: str, grid: Callable[[int, float, float], list[float]]) -> None:
    theirs = scheduler_of("EulerDiscreteScheduler", **VP, **{option: True})
    assert grid(N, *LINEAR.ends()) == pytest.approx(theirs.sigmas.tolist(), rel=1e-4)
