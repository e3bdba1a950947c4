"""Profiles of averages: closed forms against numerical integration, and averages of known trajectories."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from diptych.errors import WrongUse
from diptych.recipe import half_life
from diptych.training.posthoc import wanted
from diptych.training.profiles import HalfLife, Power, Profile, mixture, products

TOTAL = 3000.0
LIVES = [(500, 0.05), (50, 0.05), (5000, 0.05), (100, 0.3), (500, 0), (20, 0), (1e6, 0)]


def density(profile: Profile, tau: float) -> float:
    """Written down anew, from the definitions."""
    if tau > profile.images:
        return 0.0
    if isinstance(profile, Power):
        return (profile.gamma + 1) * tau**profile.gamma / profile.images ** (profile.gamma + 1)
    assert isinstance(profile, HalfLife)
    length, ramp, end = profile.half_life, profile.ramp, profile.images
    corner = min(end, length / ramp) if ramp else 0.0
    late = 0.5 ** ((end - max(tau, corner)) / length)
    if tau < corner:
        return late * np.log(2) / (ramp * tau) * (tau / corner) ** (np.log(2) / ramp)
    return late * np.log(2) / length / (1 if ramp else 1 - 0.5 ** (end / length))


def integral(function: object, *corners: float) -> float:
    """Over [0, TOTAL], on pieces that halve towards the end, where profiles are steep."""
    edges = sorted({0.0, TOTAL, *corners, *(TOTAL * (1 - 0.5**k) for k in range(1, 12))})
    return sum(quad(function, a, b, epsabs=0, epsrel=1e-11, limit=200)[0] for a, b in pairwise(edges))


def powers(moments: int) -> list[Power]:
    """What a training of TOTAL images stores."""
    times = [TOTAL * (i + 1) / moments for i in range(moments)]
    return [Power.of(sigma_rel, t) for t in times for sigma_rel in (0.05, 0.10)]


@pytest.mark.parametrize(("one", "other"), [(0.05, 0.1), (0.05, 0.25), (0.28, 0.28), (0.02, 0.15)])
@pytest.mark.parametrize("moment", [TOTAL, TOTAL / 2, TOTAL / 16])
def test_products_of_powers_are_integrals(one: float, other: float, moment: float) -> None:
    a, b = Power.of(one, TOTAL), Power.of(other, moment)
    expected = integral(lambda tau: density(a, tau) * density(b, tau), moment)
    assert products([a], [b])[0, 0] == pytest.approx(expected, rel=1e-9)
    assert a.dot(b) == b.dot(a)
    assert integral(lambda tau: density(a, tau)) == pytest.approx(1)


@pytest.mark.parametrize(("length", "ramp"), LIVES)
def test_products_with_half_lives_are_integrals(length: float, ramp: float) -> None:
    wanted = HalfLife(length, TOTAL, ramp)
    corner = min(TOTAL, length / ramp) if ramp else 0.0
    corners = [corner, *(max(0.0, TOTAL - k * length) for k in (1, 4, 16, 32))]
    for sigma_rel, moment in ((0.05, TOTAL), (0.25, TOTAL), (0.1, TOTAL / 2), (0.28, TOTAL / 3)):
        power = Power.of(sigma_rel, moment)
        expected = integral(lambda tau, p=power: density(wanted, tau) * density(p, tau), moment, *corners)
        assert wanted.dot(power) == pytest.approx(expected, rel=1e-8, abs=1e-18)
    assert wanted.square == pytest.approx(integral(lambda tau: density(wanted, tau) ** 2, *corners), rel=1e-8)
    assert integral(lambda tau: density(wanted, tau), *corners) == pytest.approx(1)
    for tau in (TOTAL / 3, TOTAL * 0.99):
        below = integral(lambda x, t=tau: density(wanted, x) * (x < t), tau, *corners)
        assert wanted.share(tau) == pytest.approx(below, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize(("length", "ramp"), [(500, 0.05), (50, 0.05), (5000, 0.1)])
def test_half_lives_are_those_of_recipes(length: float, ramp: float) -> None:
    """What each of many small steps leaves of the past, multiplied up."""
    steps = int(TOTAL)
    kept = np.array([half_life(length, ramp)(i + 1, 1) for i in range(steps)])
    found = np.append(np.cumprod(kept[:0:-1])[::-1], 1.0)
    expected = [HalfLife(length, TOTAL, ramp).share(i + 1) for i in range(steps)]
    np.testing.assert_allclose(found, expected, atol=0.01)  # a ramp is not continuous in steps
    finer = [half_life(length, ramp)((i + 1) / 10, 0.1) for i in range(10 * steps)]  # type: ignore[arg-type]
    found = np.append(np.cumprod(np.array(finer)[:0:-1])[::-1], 1.0)[9::10]
    np.testing.assert_allclose(found, expected, atol=0.001)


@pytest.mark.parametrize(("moments", "most"), [(8, (0.014, 0.034, 0.08)), (16, (0.004, 0.0091, 0.024))])
def test_residual_is_the_distance_of_profiles(moments: int, most: tuple[float, float, float]) -> None:
    """Against integration of the difference. Sixteen moments miss less than 1 % of 0.15's norm."""
    stored = powers(moments)
    for sigma_rel, bound in zip((0.07, 0.15, 0.2), most, strict=True):
        wanted = Power.of(sigma_rel, TOTAL)
        found = mixture(wanted, stored)
        assert sum(found.weights) == pytest.approx(1)

        def error(tau: float, wanted: Power = wanted, weights: tuple[float, ...] = found.weights) -> float:
            made = sum(w * density(p, tau) for w, p in zip(weights, stored, strict=True))
            return float(made - density(wanted, tau)) ** 2

        moments_ = [p.images for p in stored]
        norm = integral(lambda tau, w=wanted: density(w, tau) ** 2)
        assert found.residual == pytest.approx((integral(error, *moments_) / norm) ** 0.5, rel=1e-4)
        assert found.residual < bound


def test_no_other_mixture_is_nearer() -> None:
    stored, wanted = powers(8), HalfLife(200, TOTAL, 0.0)
    found, rng = mixture(wanted, stored), np.random.default_rng(0)
    gram = products(stored, stored)
    along = np.array([wanted.dot(p) for p in stored])
    weights = np.array(found.weights)
    for _ in range(50):
        step = rng.normal(size=len(stored)) * 1e-3
        other = weights + step - step.mean()  # still adds up to 1
        worse = (other @ gram @ other - weights @ gram @ weights - 2 * (other - weights) @ along) * TOTAL
        assert worse > 0


def test_what_is_stored_comes_back_exactly() -> None:
    stored = powers(4)
    for place, profile in enumerate(stored):
        found = mixture(profile, stored)
        assert found.weights == tuple(float(i == place) for i in range(len(stored)))
        assert found.residual == 0
    nearly = mixture(Power(stored[3].gamma * (1 + 1e-9), stored[3].images), stored)
    assert nearly.weights[3] == pytest.approx(1, abs=1e-6)
    assert nearly.residual < 1e-6


@pytest.mark.parametrize("exponent", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("sigma_rel", [0.04, 0.07, 0.15, 0.2])
def test_averages_of_a_known_trajectory(exponent: float, sigma_rel: float) -> None:
    """Weights that are tau^a have the average (gamma + 1) / (gamma + 1 + a) t^a."""
    stored, wanted = powers(16), Power.of(sigma_rel, TOTAL)

    def average(profile: Power) -> float:
        return (profile.gamma + 1) / (profile.gamma + 1 + exponent) * (profile.images / TOTAL) ** exponent

    weights = mixture(wanted, stored).weights
    made = sum(w * average(p) for w, p in zip(weights, stored, strict=True))
    assert made == pytest.approx(average(wanted), abs=1.5e-3)
    assert abs(made - average(wanted)) < 0.01 * abs(average(wanted) - average(Power.of(0.05, TOTAL)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: HalfLife(0, TOTAL),
        lambda: HalfLife(float("inf"), TOTAL),
        lambda: HalfLife(-1, TOTAL),
        lambda: HalfLife(100, TOTAL, ramp=0.9),
        lambda: Power.of(0.3, TOTAL),
        lambda: Power.of(0.0, TOTAL),
    ],
)
def test_profiles_that_cannot_be(make: object) -> None:
    with pytest.raises(WrongUse):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("text", ["nan-images", "0-images", "soon", "50s", "1e30-images"])
def test_half_lives_that_cannot_be_are_told_what_can(text: str) -> None:
    with pytest.raises(WrongUse, match="half-life") as raised:
        wanted(None, text, 0.05, TOTAL)
    assert "images" in raised.value.hint
    assert "50s" not in raised.value.hint
    assert wanted(None, "1M-images", 0.05, TOTAL)[0] == HalfLife(1e6, TOTAL)


@pytest.mark.parametrize(
    ("sigma_rel", "images"), [(float("nan"), TOTAL), (0.3, TOTAL), (0.1, 0.0), (0.1, float("nan"))]
)
def test_moments_and_deviations_that_cannot_be_have_a_hint(sigma_rel: float, images: float) -> None:
    with pytest.raises(WrongUse) as raised:
        wanted(sigma_rel, None, 0.05, images)
    assert raised.value.hint
