"""Distances between feature distributions against closed forms, SciPy, brute force and recorded peers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

from diptych.errors import NotMeasurable, WrongUse
from diptych.exam import Exam
from diptych.metrics import cmmd, fid, fid_infinity, kid, mind, mmd, moments, sfid
from diptych.metrics.fid import bias, frechet, frechet_distance
from diptych.metrics.intervals import from_influence, normal
from diptych.metrics.kid import kernel_distance, kernel_distance_subsets
from diptych.metrics.mind import directions, levels, monge_distance, potentials
from diptych.metrics.moments import Moments

Draw = Callable[[], tuple[Tensor, Tensor]]
Measure = Callable[[Tensor, Tensor], Any]  # something with value, real, fake


def gaussians(n: int, dim: int, shift: float, scale: float, *, m: int | None = None, seed: int = 0) -> Draw:
    """Pairs of samples (n, dim) and (m, dim) of two Gaussians, a new pair each call."""
    stream = torch.Generator().manual_seed(seed)
    return lambda: (
        torch.randn(n, dim, generator=stream),
        torch.randn(m or n, dim, generator=stream) * scale + shift,
    )


def frozen(n: int, m: int, dim: int, rank: int, offset: float) -> tuple[Tensor, Tensor]:
    """Features of a stream that never changes, for which peers' values were recorded."""
    stream = np.random.RandomState(0)
    mix = stream.standard_normal((rank, dim)) / rank**0.5
    x = stream.standard_normal((n, rank)) @ mix + offset
    y = stream.standard_normal((m, rank)) @ mix * 1.2 + offset + 0.1
    return torch.from_numpy(x), torch.from_numpy(y)


def interval(found: Any) -> tuple[float, float]:
    return normal(found.value, from_influence(found.real, found.fake).error)


def coverage(draw: Draw, measure: Measure, truth: float, repetitions: int) -> float:
    """The share of 95 % intervals that hold the truth."""
    intervals = [interval(measure(*draw())) for _ in range(repetitions)]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def exam(real: Tensor, fake: Tensor, extractor: str = "clip-1", view: str = "pooled") -> Exam:
    """What a distance asks of an exam, with these features."""
    given = {"real": real, "fake": fake}

    def features(which: str, wanted: str = "pooled") -> Tensor:
        if wanted != view:
            raise NotMeasurable(f"there is no {wanted} view")
        return given[which]

    made = SimpleNamespace(
        features=features, extractor=SimpleNamespace(name=extractor), shared=lambda key, compute: compute()
    )
    return cast(Exam, made)


# --- moments


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("dim", [7, 600])
def test_moments_in_blocks_equal_numpy(offset: float, dim: int) -> None:
    x = torch.randn(900, dim, generator=torch.Generator().manual_seed(0)).double() + offset
    streamed = Moments(dim)
    for block in x.split([1, 200, 0, 299, 400]):
        streamed.update(block)
    assert streamed.count == 900
    centred = x.numpy() - offset
    assert np.abs(streamed.mean.numpy() - offset - centred.mean(0)).max() < 1e-15 * max(100, 10 * offset)
    expected = np.cov(centred, rowvar=False)
    assert np.abs(streamed.covariance.numpy() - expected).max() < 1e-13 * max(1, offset / 1e3)
    torch.testing.assert_close(streamed.covariance, streamed.covariance.T, rtol=0, atol=1e-13)


def test_moments_refuse_other_shapes_and_too_few() -> None:
    with pytest.raises(WrongUse, match=r"features are \(3, 4\)"):
        Moments(5).update(torch.zeros(3, 4))
    with pytest.raises(WrongUse, match="no covariance of 1 features"):
        frechet_distance(Moments.of(torch.zeros(1, 4)), Moments.of(torch.zeros(3, 4)))
    with pytest.raises(WrongUse, match="no covariance of 1 features"):
        frechet_distance(torch.zeros(1, 4), torch.zeros(3, 4))


# --- FID


def with_a_matrix_root(x: Tensor, y: Tensor) -> float:
    """The textbook formula."""
    a, b = x.double().numpy(), y.double().numpy()
    ca, cb = np.cov(a.T), np.cov(b.T)
    cross = np.trace(scipy.linalg.sqrtm(ca @ cb)).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


@pytest.mark.parametrize(("n", "m", "dim"), [(300, 250, 12), (2000, 2000, 96), (530, 600, 520)])
def test_frechet_equals_the_formula_with_a_matrix_root(n: int, m: int, dim: int) -> None:
    x, y = gaussians(n, dim, 0.2, 1.3, m=m)()
    expected = with_a_matrix_root(x, y)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-10)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(Moments.of(x), y) == pytest.approx(expected, rel=1e-8)


# the products are singular, which scipy notices on some processors
@pytest.mark.filterwarnings("ignore:Matrix is:scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize(("n", "m"), [(30, 500), (500, 30), (40, 35), (3, 2)])
def test_frechet_with_fewer_images_than_dimensions(n: int, m: int) -> None:
    x, y = gaussians(n, 64, 0.2, 1.3, m=m)()
    assert frechet_distance(x, y) == pytest.approx(with_a_matrix_root(x, y), rel=1e-6)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(frechet_distance(x, y), rel=1e-7)
    assert frechet(x, y).value == pytest.approx(frechet_distance(x, y), rel=1e-10)


@pytest.mark.parametrize(
    ("made", "fidelity", "metrics", "pytorch_fid"),
    [
        ((300, 250, 24, 24, 0), 2.529977175328277, 2.529977175330316, 2.529977175328213),
        ((300, 250, 24, 24, 1000), 2.5299771753319433, 2.529977175332675, 2.5299771753318723),
        ((300, 250, 24, 10, 0), 2.2471812127969457, 2.2471811611822545, 2.247181212796967),
        ((40, 35, 64, 64, 0), 42.804558798442315, 42.80455871520054, 42.804558798442216),
    ],
)
def test_frechet_equals_peers(
    made: tuple[int, int, int, int, float], fidelity: float, metrics: float, pytorch_fid: float
) -> None:
    # recorded from torch-fidelity 0.4.0, torchmetrics 1.9.0, pytorch-fid 0.3.0; where covariances are
    # singular, the peers differ among themselves by 3e-8
    value = frechet_distance(*frozen(*made))
    for peer in (fidelity, metrics, pytorch_fid):
        assert value == pytest.approx(peer, rel=1e-11 if made[2] == made[3] < made[1] else 3e-7)


def from_singular_values(x: Tensor, y: Tensor) -> float:
    """Backward stable and slow: triangular factors of the centred features, never squared."""
    (mean_x, a), (mean_y, b) = ((f.mean(0), (f - f.mean(0)) / (len(f) - 1) ** 0.5) for f in (x, y))
    ra, rb = np.linalg.qr(a.numpy(), mode="r"), np.linalg.qr(b.numpy(), mode="r")
    nuclear = np.linalg.svd(ra @ rb.T, compute_uv=False).sum()
    traces = float(a.square().sum() + b.square().sum())
    return float((mean_x - mean_y).square().sum()) + traces - 2 * float(nuclear)


@pytest.mark.parametrize(
    "kind", ["plain", "offset", "rank", "dead", "dead in one", "duplicated", "steep", "near"]
)
def test_frechet_keeps_its_digits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fid, "SMALL", 30)  # the way of large dimensions, at the cost of small ones
    monkeypatch.setattr(moments, "STRIP", 16)
    x, y = (features.double() for features in gaussians(400, 60, 0.1, 1.1)())
    if kind == "offset":
        x, y = x + 1e4, y + 1e4
    elif kind == "rank":
        mix = torch.randn(20, 60, generator=torch.Generator().manual_seed(2)).double()
        x, y = x[:, :20] @ mix, y[:, :20] @ mix
    elif kind == "dead":
        x[:, ::2], y[:, ::2] = 0, 0
    elif kind == "dead in one":
        x[:, ::2] = 0
    elif kind == "duplicated":
        x[:, 30:], y[:, 30:] = x[:, :30], y[:, :30]
    elif kind == "steep":
        spectrum = torch.logspace(0, -7, 60, dtype=torch.float64)
        x, y = x * spectrum, y * spectrum
    elif kind == "near":
        y = x + 1e-3 * y
    expected = from_singular_values(x, y)
    # what can be had near 0: a rounding error of the traces, which are subtracted
    least = 1e-13 * float(x.var(0).sum() + y.var(0).sum())
    for value in (
        frechet_distance(x, y),
        frechet(x, y).value,
        frechet_distance(Moments.of(x), Moments.of(y)),
    ):
        assert value == pytest.approx(expected, rel=1e-7 if kind == "dead in one" else 1e-9, abs=least)


def test_frechet_of_a_set_with_itself_is_zero() -> None:
    x = torch.randn(400, 20, generator=torch.Generator().manual_seed(0))
    dependent = torch.cat([x, x[:, :5] * 3, torch.zeros(400, 2)], 1)
    for features in (x, x * 1e-3, x * 100, dependent, x[:10]):
        assert frechet_distance(features, features) < 1e-12 * max(1.0, float(features.var(0).sum()))
        assert frechet(features, features).value < 1e-12 * max(1.0, float(features.var(0).sum()))


@pytest.mark.parametrize("n", [10, 100])
def test_frechet_of_identical_images(n: int) -> None:
    # no covariance on one side: (m1 - m2)² + tr C2
    y = torch.randn(n, 20, generator=torch.Generator().manual_seed(0)).double()
    x = torch.full((n, 20), 2.0, dtype=torch.float64)
    expected = float((y.mean(0) - 2).square().sum() + y.var(0).sum())
    for a, b in ((x, y), (y, x)):
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
        assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-12)
        assert frechet(a, b).value == pytest.approx(expected, rel=1e-12)
    assert frechet(x, x + 1).value == pytest.approx(20)
    assert kernel_distance(x, x).value == pytest.approx(0, abs=1e-12)
    assert monge_distance(x, x + 1).value == pytest.approx(3 * 20 * _mean_square_of_ones(20), rel=1e-6)


def _mean_square_of_ones(dim: int) -> float:
    return float((directions(dim).double() @ torch.ones(dim).double()).square().mean())


def test_every_distance_of_identical_images_is_finite() -> None:
    x = torch.ones(100, 8)
    y = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    for metric in (fid.fid, fid_infinity.fid_infinity, kid.kid, cmmd.cmmd, mind.mind):
        for a, b in ((x, y), (y, x), (x, x)):
            (score,) = metric(exam(a, b)).values()
            assert all(map(math.isfinite, (score.value, score.low, score.high, *score.replicates)))
            assert score.low <= score.value <= score.high


def test_frechet_between_points_and_lines_has_a_closed_form() -> None:
    # one-dimensional: (m1 - m2)^2 + (s1 - s2)^2
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [9.0]])
    assert frechet_distance(x, y) == pytest.approx((1 - 6) ** 2 + (math.sqrt(2) - math.sqrt(18)) ** 2)


def test_frechet_is_the_same_after_a_rotation() -> None:
    x, y = gaussians(300, 10, 0.3, 1.2)()
    q = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(1)).double())[0]
    assert frechet_distance(x.double() @ q, y.double() @ q) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_influence_is_the_derivative_by_an_images_weight() -> None:
    x, y = (features.double() for features in gaussians(60, 5, 0.3, 1.2, m=50)())
    found = frechet(x, y)

    def weighted(features: Tensor, row: int, extra: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        weights = np.ones(len(features))
        weights[row] += extra
        a = features.numpy()
        mean = np.average(a, axis=0, weights=weights)
        # the weights' covariance, times what makes the unweighted one that of n - 1
        scale = len(a) / (len(a) - 1)
        return mean, ((a - mean) * weights[:, None]).T @ (a - mean) / weights.sum() * scale

    def distance(one: tuple[Any, Any], two: tuple[Any, Any]) -> float:
        root = np.trace(scipy.linalg.sqrtm(one[1] @ two[1])).real
        return float(((one[0] - two[0]) ** 2).sum() + np.trace(one[1]) + np.trace(two[1]) - 2 * root)

    plain_x, plain_y, h = weighted(x, 0, 0), weighted(y, 0, 0), 1e-4
    for influence, slope_of in (
        (found.real, lambda row, by: distance(weighted(x, row, by), plain_y)),
        (found.fake, lambda row, by: distance(plain_x, weighted(y, row, by))),
    ):
        slopes = [(slope_of(i, h) - slope_of(i, -h)) / (2 * h / len(influence)) for i in range(20)]
        centred = (influence - influence.mean())[:20].numpy()
        share = float(centred @ slopes / (np.array(slopes) @ slopes))
        assert 0.7 < share < 1.05  # what pairs add is taken off, half of the variance at most
        assert np.abs(centred - share * np.array(slopes)).max() < 0.03 * np.abs(centred).max()


def test_large_dimensions_give_the_same_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussians(200, 40, 0.1, 1.1, m=150)()
    direct = frechet(x, y)
    monkeypatch.setattr(fid, "SMALL", 8)
    monkeypatch.setattr(moments, "STRIP", 7)
    monkeypatch.setattr(fid, "ROWS", 64)
    squared = frechet(x, y)
    assert squared.value == pytest.approx(direct.value, rel=1e-9)
    assert squared.bias == pytest.approx(direct.bias, rel=1e-5)
    torch.testing.assert_close(squared.real, direct.real, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(squared.fake, direct.fake, rtol=1e-4, atol=1e-4)


def test_fid_interval_covers_the_known_distance() -> None:
    truth = 8 * 0.5**2 + 8 * 0.2**2
    assert 0.9 <= coverage(gaussians(500, 8, 0.5, 1.2), frechet, truth, 200) <= 0.99


@pytest.mark.parametrize(("n", "dim", "shift"), [(150, 32, 0.0), (150, 32, 0.2), (40, 48, 0.2)])
def test_fid_interval_covers_the_expected_fid_at_this_n_where_bias_rules(
    n: int, dim: int, shift: float
) -> None:
    draw = gaussians(n, dim, shift, 1.1, seed=1)
    expected = float(np.mean([frechet_distance(*draw()) for _ in range(200)]))
    assert coverage(draw, frechet, expected, 100) >= 0.9


def test_fid_error_matches_the_spread_of_repetitions() -> None:
    draw = gaussians(400, 6, 0.4, 0.8, seed=2)
    found = [frechet(*draw()) for _ in range(200)]
    errors = [from_influence(each.real, each.fake).error for each in found]
    assert np.mean(errors) == pytest.approx(np.std([each.value for each in found]), rel=0.25)


def test_bias_is_what_more_images_would_take_away() -> None:
    draw = gaussians(360, 48, 0.1, 1.1, seed=3)
    truth = 48 * 0.1**2 + 48 * 0.1**2
    pairs = [draw() for _ in range(10)]
    excess = np.mean([frechet_distance(*pair) for pair in pairs]) - truth
    assert np.mean([bias(*pair) for pair in pairs]) == pytest.approx(excess, rel=0.1)
    assert np.mean([frechet(*pair).bias for pair in pairs]) == pytest.approx(excess, rel=0.12)


def test_fid_is_an_estimate_with_replicates_and_says_its_bias() -> None:
    x, y = gaussians(200, 8, 0.3, 1.1)()
    score = fid.fid(exam(x, y))["fid"]
    assert score.value == pytest.approx(frechet_distance(x, y))
    error = (score.high - score.low) / 2 / 1.959964
    assert np.std(score.replicates) == pytest.approx(error, rel=0.25)
    assert "biased upwards" in score.note
    few = fid.fid(exam(x[:20].repeat(1, 4), y[:20].repeat(1, 4)))["fid"]
    assert "Fewer images than the 32 features" in few.note


def test_sfid_is_the_distance_of_the_spatial_view() -> None:
    x, y = gaussians(100, 12, 0.3, 1.1)()
    score = sfid.sfid(exam(x, y, view="spatial"))["sfid"]
    assert score.value == pytest.approx(frechet_distance(x, y))
    with pytest.raises(NotMeasurable, match="no spatial view"):
        sfid.sfid(exam(x, y))


@pytest.mark.parametrize("metric", [fid.fid, fid_infinity.fid_infinity, kid.kid, cmmd.cmmd, mind.mind])
def test_too_few_images_say_how_many_are_needed(metric: Callable[[Exam], Any]) -> None:
    with pytest.raises(NotMeasurable, match=r"needs \d+ real and \d+ fake images or more; there are 3"):
        metric(exam(torch.zeros(3, 20), torch.zeros(9, 20)))


# --- FID_infinity


def infinite(x: Tensor, y: Tensor) -> Any:
    whole = frechet(x, y)
    return whole._replace(value=fid_infinity.extrapolated(whole, x, y))


@pytest.mark.parametrize(
    ("n", "m", "dim", "shift", "scale"), [(160, 160, 32, 0, 1), (120, 300, 16, 0.3, 1.2)]
)
def test_fid_infinity_is_unbiased(n: int, m: int, dim: int, shift: float, scale: float) -> None:
    draw = gaussians(n, dim, shift, scale, m=m, seed=5)
    truth = dim * (shift**2 + (scale - 1) ** 2)
    pairs = [draw() for _ in range(100)]
    values = [infinite(*pair).value for pair in pairs]
    plain = np.mean([frechet_distance(*pair) for pair in pairs]) - truth
    assert plain > 1  # the bias that is to go
    assert np.mean(values) == pytest.approx(truth, abs=0.02 * plain + 3 * np.std(values) / 10)


@pytest.mark.parametrize(("shift", "scale"), [(0.1, 1.05), (0.5, 1.2)])
def test_fid_infinity_interval_covers_the_closed_form(shift: float, scale: float) -> None:
    truth = 16 * (shift**2 + (scale - 1) ** 2)
    assert coverage(gaussians(150, 16, shift, scale, seed=6), infinite, truth, 100) >= 0.9


def test_fid_infinity_needs_more_images_than_dimensions() -> None:
    x, y = gaussians(239, 100, 0, 1)()
    with pytest.raises(NotMeasurable, match="in 100 dimensions needs 241"):
        fid_infinity.fid_infinity(exam(x, y))


# --- KID


def brute_force_kid(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    def k(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i, j in itertools.permutations(range(m), 2)) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kid_equals_the_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmd, "BLOCK", 7)
    x, y = gaussians(20, 5, 0.5, 1.2, m=15)()
    found = kernel_distance(x, y)
    a, b = x.double().numpy(), y.double().numpy()
    assert found.value == pytest.approx(brute_force_kid(a, b), rel=1e-10)
    left_out_x = [brute_force_kid(np.delete(a, i, 0), b) for i in range(20)]
    left_out_y = [brute_force_kid(a, np.delete(b, i, 0)) for i in range(15)]
    xx, yy, xy = (pairs_alone(p, q) for p, q in ((a, a), (b, b), (a, b)))
    variance_x = 19 * np.var(left_out_x) - 2 * xx / 20**2 - 2 * xy / (20 * 15)
    variance_y = 14 * np.var(left_out_y) - 2 * yy / 15**2 - 2 * xy / (20 * 15)
    error = from_influence(found.real, found.fake).error
    assert error == pytest.approx(math.sqrt(variance_x + variance_y), rel=1e-9)


def pairs_alone(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Mean square of the kernel matrix less its rows' and columns' means, its diagonal left out."""
    k = (x @ y.T / x.shape[1] + 1) ** 3
    used = ~np.eye(len(x), dtype=bool) if x is y else np.ones(k.shape, dtype=bool)
    rows, columns = (np.where(used, k, 0).sum(i) / used.sum(i) for i in (1, 0))
    # the variance of independent parts adds up
    return float(k[used].var() - rows.var() - columns.var())


def test_kid_subsets_equal_torch_fidelity() -> None:
    # recorded from torch-fidelity 0.4.0: kid_subsets=10, kid_subset_size=100, rng_seed=2020
    mean, deviation = kernel_distance_subsets(*frozen(300, 250, 24, 24, 0), subsets=10, size=100)
    assert mean == pytest.approx(0.09948124467413497, rel=1e-12)
    assert deviation == pytest.approx(0.04232091968760406, rel=1e-12)
    with pytest.raises(WrongUse, match="subsets of 1000 cannot be drawn from 250"):
        kernel_distance_subsets(*frozen(300, 250, 24, 24, 0))


def test_kid_is_unbiased_and_its_interval_covers() -> None:
    draw = gaussians(150, 8, 0.0, 1.0)
    found = [kernel_distance(*draw()) for _ in range(200)]
    values = [each.value for each in found]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
    assert np.mean([low <= 0 <= high for low, high in map(interval, found)]) >= 0.9


def test_kid_in_many_dimensions_loses_nothing_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (features.abs() for features in gaussians(400, 600, 0.0, 1.02)())
    quick = kernel_distance(x, y)
    monkeypatch.setattr(mmd, "precise", Tensor.double)
    exact = kernel_distance(x, y)
    error = from_influence(exact.real, exact.fake).error
    assert quick.value == pytest.approx(exact.value, abs=1e-4 * error)


def expected_kernel(u: float, v: float, dim: int) -> float:
    """E (a.b / d + 1)^3 for a ~ N(u, I), b ~ N(v, I): cumulants of the coordinates' products add up."""
    m1, m2, m3 = u * v, (1 + u**2) * (1 + v**2), (u**3 + 3 * u) * (v**3 + 3 * v)
    k1, k2, k3 = dim * m1, dim * (m2 - m1**2), dim * (m3 - 3 * m2 * m1 + 2 * m1**3)
    s1, s2, s3 = k1, k2 + k1**2, k3 + 3 * k2 * k1 + k1**3
    return 1 + 3 * s1 / dim + 3 * s2 / dim**2 + s3 / dim**3


def test_kid_of_a_shifted_gaussian_has_a_closed_form() -> None:
    truth = expected_kernel(0, 0, 3) + expected_kernel(0.5, 0.5, 3) - 2 * expected_kernel(0, 0.5, 3)
    draw = gaussians(300, 3, 0.5, 1.0, seed=4)
    values = [kernel_distance(*draw()).value for _ in range(60)]
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / math.sqrt(60))
    assert coverage(draw, kernel_distance, truth, 100) >= 0.9


# --- CMMD


def as_the_authors_write_it(x: Tensor, y: Tensor) -> float:
    """1,000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)) over all pairs, each image with itself too."""
    a, b = (f.double().numpy() for f in (x, y))
    a, b = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (a, b))

    def mean(p: npt.NDArray[Any], q: npt.NDArray[Any]) -> float:
        return float(np.exp(-((p[:, None] - q[None]) ** 2).sum(2) / 200).mean())

    return 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


def test_cmmd_equals_its_definition() -> None:
    x, y = gaussians(60, 16, 0.3, 1.2, m=40)()
    found = cmmd.embedding_distance(x, y)
    assert found.biased == pytest.approx(as_the_authors_write_it(x, y), rel=1e-9)
    # without the pairs of an image with itself, where k = 1
    a, b = (f.double() / f.double().norm(dim=1, keepdim=True) for f in (x, y))
    xx, yy, xy = (torch.exp(-torch.cdist(p, q).square() / 200) for p, q in ((a, a), (b, b), (a, b)))
    within = (xx.sum() - 60) / (60 * 59) + (yy.sum() - 40) / (40 * 39)
    assert found.value == pytest.approx(1000 * float(within - 2 * xy.mean()), rel=1e-6)


def test_cmmd_is_unbiased_and_its_interval_covers() -> None:
    draw = gaussians(60, 12, 0.0, 1.0, seed=7)
    found = [cmmd.embedding_distance(*draw()) for _ in range(200)]
    values = [each.value for each in found]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
    assert np.mean([each.biased for each in found]) > 10 * abs(np.mean(values))
    assert np.mean([low <= 0 <= high for low, high in map(interval, found)]) >= 0.9


def test_cmmd_wants_clip() -> None:
    x, y = gaussians(20, 4, 0.3, 1.2)()
    assert cmmd.cmmd(exam(x, y))["cmmd"].value == cmmd.embedding_distance(x, y).value
    with pytest.raises(NotMeasurable, match="the extractor is diptych-1"):
        cmmd.cmmd(exam(x, y, extractor="diptych-1"))


# --- MIND


@pytest.mark.parametrize(("n", "m"), [(50, 50), (60, 40), (7, 90)])
def test_mind_equals_sorted_copies(n: int, m: int) -> None:
    x, y = gaussians(n, 6, 0.3, 1.2, m=m)()
    common = math.lcm(n, m)
    lines = directions(6, 20).double()
    sides = [
        (lines @ f.double().T).sort(1).values.repeat_interleave(common // len(f), 1) for f in (x, y)
    ]  # as many copies as make the sets equally large
    expected = 3 * 6 * float((sides[0] - sides[1]).square().mean())
    assert monge_distance(x, y, 20).value == pytest.approx(expected, rel=1e-5)
    assert float(levels(n, m).weight.sum()) == pytest.approx(1)


def test_mind_of_moved_and_stretched_sets_has_a_closed_form() -> None:
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(0)) + 1e4
    lines = directions(5).double()
    shift = torch.arange(5.0)
    moved = 3 * 5 * float((lines @ shift.double()).square().mean())
    assert monge_distance(x, x + shift).value == pytest.approx(moved, rel=1e-3)
    # 3 d E(θ·Δ)² = 3 |Δ|² on average over all directions
    assert moved == pytest.approx(3 * float(shift.square().sum()), rel=0.1)
    centred = x - x.mean(0)
    stretched = 0.3**2 * 3 * 5 * float((lines @ centred.double().T).square().mean())
    assert monge_distance(centred, centred * 1.3).value == pytest.approx(stretched, rel=1e-4)


def test_potentials_are_the_derivative_by_a_points_mass() -> None:
    stream = np.random.default_rng(0)
    u, v = np.sort(stream.standard_normal(40)), np.sort(stream.standard_normal(25) * 1.3 + 0.2)

    def distance(weights: npt.NDArray[np.float64]) -> float:
        cumulative_u, cumulative_v = np.cumsum(weights) / weights.sum(), np.arange(1, 26) / 25
        ends = np.union1d(cumulative_u, cumulative_v)
        widths = np.diff(ends, prepend=0)
        middle = ends - widths / 2
        facing_u = u[np.searchsorted(cumulative_u, middle).clip(max=39)]
        facing_v = v[np.searchsorted(cumulative_v, middle).clip(max=24)]
        return float((widths * (facing_u - facing_v) ** 2).sum())

    found = potentials(torch.from_numpy(u)[None], torch.from_numpy(v)[None])[0]
    for row in (0, 11, 39):
        up, down = np.ones(40), np.ones(40)
        up[row], down[row] = 1 + 1e-3, 1 - 1e-3
        slope = (distance(up) - distance(down)) / (2e-3 / 40)
        assert float(found[row]) == pytest.approx(slope, abs=1e-3)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.2)])
def test_mind_interval_covers_the_expected_mind_at_this_n(shift: float, scale: float) -> None:
    draw = gaussians(200, 8, shift, scale, seed=8)

    def measure(x: Tensor, y: Tensor) -> Any:
        return monge_distance(x, y, 30)

    expected = float(np.mean([measure(*draw()).value for _ in range(150)]))
    assert coverage(draw, measure, expected, 80) >= 0.9


def test_mind_says_its_bias() -> None:
    draw = gaussians(400, 8, 0.0, 1.0, seed=9)
    pairs = [draw() for _ in range(15)]
    excess = np.mean(
        [monge_distance(*pair, 30).value for pair in pairs]
    )  # of equal distributions: the truth is 0
    assert np.mean([mind.bias(*pair, 30) for pair in pairs]) == pytest.approx(excess, rel=0.2)
    assert "biased upwards" in mind.mind(exam(*pairs[0]))["mind"].note


# --- devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dim", [24, 700])
def test_distances_are_the_same_on_a_gpu(dim: int) -> None:
    x, y = gaussians(2000, dim, 0.1, 1.1)()
    on_x, on_y = x.cuda(), y.cuda()
    assert frechet_distance(on_x, on_y) == pytest.approx(frechet_distance(x, y), rel=1e-8)
    assert frechet_distance(on_x[:500], on_y[:600]) == pytest.approx(
        frechet_distance(x[:500], y[:600]), rel=1e-8
    )
    for metric in (fid.fid, fid_infinity.fid_infinity, kid.kid, cmmd.cmmd, mind.mind):
        (here,), (there,) = metric(exam(x, y)).values(), metric(exam(on_x, on_y)).values()
        assert there.value == pytest.approx(here.value, rel=1e-4, abs=1e-6)
        assert there.high - there.low == pytest.approx(here.high - here.low, rel=1e-3)
