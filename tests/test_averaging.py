"""The averaged weights: what each moment of training weighs in them, against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import made_up
from diptych import catalog
from diptych.errors import WrongUse
from diptych.recipe import Averaging, half_life, power, power_exponent
from diptych.training.state import Settings, Training


def weights(keep: Averaging, steps: int, batch: int = 64) -> np.ndarray:
    """What each of `steps` steps weighs in the average at the end."""
    kept = np.array([keep(batch * (i + 1), batch) for i in range(steps)])
    later = np.append(np.cumprod(kept[:0:-1])[::-1], 1.0)  # what the steps after each one keep of it
    return (1 - kept) * later


def test_exponents_are_those_of_the_paper() -> None:
    """EDM2, section 3.1: 6.94 for 0.10 and 16.97 for 0.05."""
    assert power_exponent(0.10) == pytest.approx(6.94, abs=0.005)
    assert power_exponent(0.05) == pytest.approx(16.97, abs=0.005)
    for sigma_rel in (0.01, 0.2, 0.28):
        gamma = power_exponent(sigma_rel)
        polynomial = gamma**3 + 7 * gamma**2 + (16 - sigma_rel**-2) * gamma + 12 - sigma_rel**-2
        assert polynomial == pytest.approx(0, abs=1e-6 * sigma_rel**-2)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_power_weighs_the_past_by_a_power_of_time(sigma_rel: float) -> None:
    steps, gamma = 2000, power_exponent(sigma_rel)
    found = weights(power(sigma_rel), steps)
    assert found.sum() == pytest.approx(1)  # nothing is left of the weights before training
    tau = np.arange(1, steps + 1) / steps
    np.testing.assert_allclose(np.cumsum(found), tau ** (gamma + 1), rtol=1e-9)
    middle = (tau * found).sum()
    deviation = np.sqrt(((tau - middle) ** 2 * found).sum())
    assert deviation == pytest.approx(sigma_rel, rel=0.005)


def test_power_does_not_depend_on_the_batch() -> None:
    coarse, fine = (np.cumsum(weights(power(0.1), 2**9 // b, b)) for b in (16, 4))
    np.testing.assert_allclose(coarse, fine[3::4], rtol=1e-9)


def test_half_life_forgets_half_and_ramps_up() -> None:
    keep = half_life(1000, ramp=0.1)
    assert keep(10**6, 1000) == pytest.approx(0.5)
    assert keep(10**6, 500) ** 2 == pytest.approx(0.5)
    assert keep(5000, 500) == pytest.approx(0.5)  # a tenth of the images seen


@pytest.mark.parametrize("sigma_rel", [0.0, -1.0, 0.3])
def test_a_profile_that_cannot_be_is_refused(sigma_rel: float) -> None:
    with pytest.raises(WrongUse, match="sigma_rel"):
        power(sigma_rel)


def test_training_averages_as_the_recipe_says() -> None:
    """Weights that jump from 0 to 1 at time s are 1 - (s / t)^(gamma + 1) at time t, resumed or not."""
    spec, data = catalog.recipe("edm"), made_up().train
    recipe = replace(spec(data, **spec.small), average=power(0.1))
    training = Training(recipe, data, 1000, Settings(device="cpu"))
    total, jump = 40, 25
    for step in range(total):
        with torch.no_grad():
            for p in training.method.model.parameters():
                p.fill_(float(step >= jump))
        training.images += training.batch
        training.move_average()
        if step == 30:
            again = replace(spec(data, **spec.small), average=power(0.1))
            resumed = Training(again, data, 1000, Settings(device="cpu"))
            resumed.load_state_dict(training.state_dict())
            training = resumed
    expected = 1 - (jump / total) ** (power_exponent(0.1) + 1)
    for p in training.average.parameters():
        torch.testing.assert_close(p, torch.full_like(p, expected), atol=1e-5, rtol=0)
