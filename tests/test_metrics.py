"""Each metric against something that knows the answer: closed forms, SciPy, brute force, planted clusters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

from diptych.metrics import density_coverage, kid, precision_recall
from diptych.metrics.fid import bias, distance_with_error, frechet_distance
from diptych.metrics.intervals import normal, proportion, rank_interval, subset_errors, wilson
from diptych.metrics.kid import kernel_distance
from diptych.metrics.neighbours import radii, within

Draw = Callable[[], tuple[Tensor, Tensor]]


def gaussians(n: int, dim: int, shift: float, scale: float, *, m: int | None = None, seed: int = 0) -> Draw:
    """Pairs of samples (n, dim) and (m, dim) of two Gaussians, a new pair each call."""
    stream = torch.Generator().manual_seed(seed)
    return lambda: (
        torch.randn(n, dim, generator=stream),
        torch.randn(m or n, dim, generator=stream) * scale + shift,
    )


# --- FID


def with_a_matrix_root(x: Tensor, y: Tensor) -> float:
    """The textbook formula."""
    a, b = x.double().numpy(), y.double().numpy()
    ca, cb = np.cov(a.T), np.cov(b.T)
    cross = np.trace(scipy.linalg.sqrtm(ca @ cb)).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


@pytest.mark.parametrize(("n", "m", "dim"), [(300, 250, 12), (2000, 2000, 96), (600, 900, 550)])
def test_frechet_equals_the_formula_with_a_matrix_root(n: int, m: int, dim: int) -> None:
    x, y = gaussians(n, dim, 0.2, 1.3, m=m)()
    expected = with_a_matrix_root(x, y)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(30, 500), (500, 30), (40, 35), (3, 2)])
def test_frechet_with_fewer_images_than_dimensions(n: int, m: int) -> None:
    x, y = gaussians(n, 64, 0.2, 1.3, m=m)()
    assert frechet_distance(x, y) == pytest.approx(with_a_matrix_root(x, y), rel=1e-6)
    assert distance_with_error(x, y)[0] == pytest.approx(frechet_distance(x, y), rel=1e-10)


def test_frechet_of_a_set_with_itself_is_zero() -> None:
    x = torch.randn(400, 20, generator=torch.Generator().manual_seed(0))
    dependent = torch.cat([x, x[:, :5] * 3, torch.zeros(400, 2)], 1)
    for features in (x, x * 1e-3, x * 100, dependent, x[:10]):
        assert frechet_distance(features, features) < 1e-8 * max(1.0, float(features.var(0).sum()))


def test_frechet_between_points_and_lines_has_a_closed_form() -> None:
    # one-dimensional: (m1 - m2)^2 + (s1 - s2)^2
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [9.0]])
    assert frechet_distance(x, y) == pytest.approx((1 - 6) ** 2 + (math.sqrt(2) - math.sqrt(18)) ** 2)


def test_frechet_is_the_same_after_a_rotation() -> None:
    x, y = gaussians(300, 10, 0.3, 1.2)()
    q = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(1)).double())[0]
    assert frechet_distance(x.double() @ q, y.double() @ q) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def coverage(
    draw: Draw, interval: Callable[[Tensor, Tensor], tuple[float, float]], truth: float, n: int
) -> float:
    """The share of n intervals that hold the truth."""
    intervals = [interval(*draw()) for _ in range(n)]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def fid_interval(x: Tensor, y: Tensor) -> tuple[float, float]:
    return normal(*distance_with_error(x, y))


def test_fid_interval_covers_the_known_distance() -> None:
    truth = 8 * 0.5**2 + 8 * 0.2**2
    assert 0.9 <= coverage(gaussians(500, 8, 0.5, 1.2), fid_interval, truth, 200) <= 0.99


@pytest.mark.parametrize(("n", "dim", "shift"), [(150, 32, 0.0), (150, 32, 0.2), (40, 48, 0.2)])
def test_fid_interval_covers_the_expected_fid_at_this_n_where_bias_rules(
    n: int, dim: int, shift: float
) -> None:
    draw = gaussians(n, dim, shift, 1.1, seed=1)
    expected = float(np.mean([frechet_distance(*draw()) for _ in range(200)]))
    assert coverage(draw, fid_interval, expected, 150) >= 0.9


def test_fid_error_matches_the_spread_of_repetitions() -> None:
    draw = gaussians(400, 6, 0.4, 0.8, seed=2)
    values, errors = zip(*(distance_with_error(*draw()) for _ in range(200)), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


def test_bias_is_what_more_images_would_take_away() -> None:
    draw = gaussians(360, 48, 0.1, 1.1, seed=3)
    truth = 48 * 0.1**2 + 48 * 0.1**2
    pairs = [draw() for _ in range(10)]
    excess = np.mean([frechet_distance(*pair) for pair in pairs]) - truth
    assert np.mean([bias(*pair) for pair in pairs]) == pytest.approx(excess, rel=0.1)


# --- KID


def brute_force_kid(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    def k(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i, j in itertools.permutations(range(m), 2)) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kid_equals_the_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kid, "BLOCK", 7)
    x, y = gaussians(20, 5, 0.5, 1.2, m=15)()
    value, error = kernel_distance(x, y)
    a, b = x.double().numpy(), y.double().numpy()
    assert value == pytest.approx(brute_force_kid(a, b), rel=1e-10)
    left_out_x = [brute_force_kid(np.delete(a, i, 0), b) for i in range(20)]
    left_out_y = [brute_force_kid(a, np.delete(b, i, 0)) for i in range(15)]
    variance = 19 * np.var(left_out_x) + 14 * np.var(left_out_y)
    assert error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_kid_is_unbiased_and_its_interval_covers() -> None:
    draw = gaussians(150, 8, 0.0, 1.0)
    values, errors = zip(*(kernel_distance(*draw()) for _ in range(200)), strict=True)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
    assert np.mean([abs(v) < 1.96 * e for v, e in zip(values, errors, strict=True)]) >= 0.9


def expected_kernel(u: float, v: float, dim: int) -> float:
    """E (a.b / d + 1)^3 for a ~ N(u, I), b ~ N(v, I): cumulants of the coordinates' products add up."""
    m1, m2, m3 = u * v, (1 + u**2) * (1 + v**2), (u**3 + 3 * u) * (v**3 + 3 * v)
    k1, k2, k3 = dim * m1, dim * (m2 - m1**2), dim * (m3 - 3 * m2 * m1 + 2 * m1**3)
    s1, s2, s3 = k1, k2 + k1**2, k3 + 3 * k2 * k1 + k1**3
    return 1 + 3 * s1 / dim + 3 * s2 / dim**2 + s3 / dim**3


def test_kid_of_a_shifted_gaussian_has_a_closed_form() -> None:
    truth = expected_kernel(0, 0, 3) + expected_kernel(0.5, 0.5, 3) - 2 * expected_kernel(0, 0.5, 3)
    draw = gaussians(300, 3, 0.5, 1.0, seed=4)
    values = [kernel_distance(*draw())[0] for _ in range(60)]
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / math.sqrt(60))
    assert coverage(draw, lambda x, y: normal(*kernel_distance(x, y)), truth, 100) >= 0.9


# --- neighbours


def brute_force(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """Precision, recall, density and coverage as the papers write them."""
    x, y = real.double().numpy(), fake.double().numpy()

    def apart(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.linalg.norm(a[:, None] - b[None], axis=2))

    ball_x, ball_y = (
        np.sort(apart(x, x), axis=1)[:, k],
        np.sort(apart(y, y), axis=1)[:, k],
    )  # place 0 is itself
    in_x = apart(y, x) <= ball_x  # (fakes, reals)
    in_y = apart(x, y) <= ball_y  # (reals, fakes)
    return {
        "precision": in_x.any(1).mean(),
        "recall": in_y.any(1).mean(),
        "density": in_x.sum(1).mean() / k,
        "coverage": in_x.any(0).mean(),
    }


def shares(real: Tensor, fake: Tensor) -> dict[str, float]:
    values = [*precision_recall.both(real, fake), *density_coverage.both(real, fake)]
    return dict(zip(("precision", "recall", "density", "coverage"), map(float, values), strict=True))


@pytest.mark.parametrize(("shift", "scale", "dim"), [(0, 1, 4), (0.5, 0.7, 4), (1, 1, 2), (0.1, 1, 600)])
def test_neighbour_metrics_equal_brute_force(
    shift: float, scale: float, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diptych.metrics.neighbours.BLOCK", 1000)  # a few rows at a time
    real, fake = gaussians(120, dim, shift, scale, m=90)()
    found = shares(real, fake)
    three, five = brute_force(real, fake, 3), brute_force(real, fake, 5)
    expected = {name: (three if name in ("precision", "recall") else five)[name] for name in found}
    assert found == pytest.approx(expected, abs=1e-12)


def test_fakes_that_cover_one_of_two_clusters() -> None:
    stream = torch.Generator().manual_seed(0)
    cluster = torch.randn(400, 3, generator=stream)
    real = torch.cat([cluster[:200], cluster[200:] + 1000])
    found = shares(real, cluster[:200])
    assert found["precision"] == 1
    assert found["recall"] == 0.5
    assert found["coverage"] == 0.5


def test_identical_and_disjoint_sets() -> None:
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    same = shares(x, x)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert same["density"] == pytest.approx(brute_force(x, x, 5)["density"])
    assert shares(x, x + 100) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_copies_lie_in_balls_of_radius_zero() -> None:
    x = torch.randn(30, 40, generator=torch.Generator().manual_seed(0)).repeat(6, 1) * 50
    assert set(shares(x, x[:60]).values()) >= {1.0}
    assert shares(x, x[:60])["precision"] == 1


def test_a_point_is_not_its_own_neighbour() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(line, 1).sqrt().tolist() == [1, 1, 2, 4]
    assert radii(line, 2).sqrt().tolist() == [3, 2, 3, 6]
    hits = within(torch.tensor([[0.5], [4.0]]), line, radii(line, 1))
    assert hits.balls.tolist() == [2, 2]
    assert hits.reached.tolist() == [True, True, True, True]


@pytest.mark.parametrize(
    ("both", "index"), [(precision_recall.both, 0), (precision_recall.both, 1), (density_coverage.both, 1)]
)
def test_intervals_of_neighbour_metrics_cover(both: Callable[[Tensor, Tensor], Tensor], index: int) -> None:
    draw = gaussians(150, 6, 0.4, 0.8, seed=5)

    def interval(x: Tensor, y: Tensor) -> tuple[float, float]:
        return proportion(float(both(x, y)[index]), len(x), float(subset_errors(both, x, y)[index]))

    expected = float(np.mean([float(both(*draw())[index]) for _ in range(200)]))
    assert coverage(draw, interval, expected, 60) >= 0.85


# --- intervals


def test_wilson_equals_scipy() -> None:
    for hits, n in ((0, 20), (7, 20), (20, 20), (450, 1000)):
        low, high = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert wilson(hits / n, n) == pytest.approx((low, high), abs=1e-6)


def test_proportion_falls_back_to_the_binomial() -> None:
    assert proportion(0.3, 100, math.sqrt(0.3 * 0.7 / 100)) == pytest.approx(wilson(0.3, 100))
    assert proportion(1.0, 100, 0.0) == wilson(1.0, 100)
    low, high = proportion(0.3, 100, 0.2)
    assert high - low > 0.5


@pytest.mark.parametrize(("n", "q"), [(100, 0.5), (300, 0.95)])
def test_rank_interval_holds_the_quantile(n: int, q: float) -> None:
    low, high = rank_interval(n, q)
    inside = scipy.stats.binom.cdf(high, n, q) - scipy.stats.binom.cdf(low, n, q)
    assert 0.94 <= inside <= 0.98
    values = np.sort(np.random.default_rng(0).random((2000, n)), axis=1)
    assert np.mean((values[:, low] <= q) & (q <= values[:, high])) >= 0.94


def test_rank_interval_of_few_values_is_all_of_them() -> None:
    assert rank_interval(5, 0.5) == (0, 4)
    assert rank_interval(1, 0.95) == (0, 0)
