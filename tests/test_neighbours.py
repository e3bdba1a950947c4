"""Neighbours and balls, to the last bit those of float64 by brute force; precision, recall and the like."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych.errors import DiptychError, NotMeasurable, WrongUse
from diptych.exam import Exam
from diptych.metrics import bounds
from diptych.metrics.density_coverage import density_coverage
from diptych.metrics.intervals import REPEATS, normal, proportion
from diptych.metrics.manifolds import Shares, measured, shares
from diptych.metrics.neighbours import meet, nearest, radii
from diptych.metrics.precision_recall import precision_recall

Pair = tuple[Tensor, Tensor]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussians(n: int, m: int, dim: int, shift: float = 0.2, scale: float = 0.8, seed: int = 0) -> Pair:
    g = stream(seed)
    return torch.randn(n, dim, generator=g), torch.randn(m, dim, generator=g) * scale + shift


def copies() -> Pair:
    x = torch.randn(30, 40, generator=stream()).repeat(5, 1) * 50
    return x, x[:100]


def grid() -> Pair:
    """Many equal distances."""
    return tuple((each * 2).round() for each in gaussians(150, 130, 3))  # type: ignore[return-value]


def collapsed() -> Pair:
    """Points closer to each other than float32 products about one centre can tell."""
    x, y = gaussians(140, 130, 8)
    x[:70], x[70:], y[:65], y[65:] = x[:70] * 1e-6, x[70:] * 1e-6 + 1, y[:65] * 1e-6, y[65:] * 1e-3 - 5
    return x, y


def float_noise() -> Pair:
    """Points closer to each other than float64 products about one centre can tell."""
    x, y = gaussians(90, 80, 8)
    return x * 1e-9 + (torch.arange(90)[:, None] % 2), y * 1e-9


SETS: dict[str, Callable[[], Pair]] = {
    "one dimension": lambda: gaussians(150, 130, 1),
    "7 dimensions": lambda: gaussians(150, 130, 7),
    "600 dimensions": lambda: gaussians(70, 50, 600, 0.02, 1),
    "far from 0": lambda: tuple(each + 1e4 for each in gaussians(150, 130, 40)),  # type: ignore[return-value]
    "tiny": lambda: tuple(each * 1e-20 for each in gaussians(150, 130, 40)),  # type: ignore[return-value]
    "huge": lambda: tuple(each * 1e20 for each in gaussians(60, 50, 4)),  # type: ignore[return-value]
    "one far away": lambda: (
        torch.cat([gaussians(80, 1, 5)[0], torch.full((1, 5), 1e6)]),
        gaussians(1, 70, 5)[1],
    ),
    "float64": lambda: tuple(each.double() + 1e-12 for each in gaussians(90, 80, 6)),  # type: ignore[return-value]
    "copies": copies,
    "all identical": lambda: (torch.full((150, 40), 0.3), torch.full((130, 40), 0.3)),
    "grid": grid,
    "collapsed": collapsed,
    "float noise": float_noise,
}


def apart(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances, by differences in float64."""
    return (x.double()[:, None] - y.double()[None]).square().sum(2)


def radii_by_force(points: Tensor, k: int) -> Tensor:
    return apart(points, points).fill_diagonal_(torch.inf).kthvalue(k, dim=1).values


@pytest.fixture(params=[32, 1024])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time, and all at once."""
    monkeypatch.setattr(bounds, "TILE", request.param)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("name", SETS)
def test_radii_and_balls_are_those_of_float64_to_the_last_bit(name: str) -> None:
    x, y = SETS[name]()
    around_x, around_y = radii(x, (3, 5)), radii(y, (3,))
    assert torch.equal(around_x, torch.stack([radii_by_force(x, k) for k in (3, 5)]))
    assert torch.equal(around_y[0], radii_by_force(y, 3))
    balls_x, balls_y = meet(x, y, around_x, around_y)
    squared = apart(x, y)
    for i in range(2):
        inside = squared <= around_x[i][:, None]
        assert torch.equal(balls_x.held[i], inside.sum(1))
        assert torch.equal(balls_x.around[i], inside.sum(0))
    inside = squared <= around_y[0]
    assert torch.equal(balls_y.held[0], inside.sum(0))
    assert torch.equal(balls_y.around[0], inside.sum(1))


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("name", SETS)
def test_nearest_is_that_of_float64_to_the_last_bit(name: str) -> None:
    x, y = SETS[name]()
    squared, number = nearest(y, x, (1, 2))
    expected = apart(y, x)
    assert torch.equal(squared, expected.sort(1).values[:, :2])
    assert torch.equal(expected.gather(1, number[:, None])[:, 0], squared[:, 0])
    rows = torch.arange(1, len(x), 3)
    assert torch.equal(nearest(x[rows], x, (4,), own=rows).squared[:, 0], radii_by_force(x, 4)[rows])


@pytest.mark.parametrize("dim", [1, 30, 2048])
def test_bounds_enclose_the_distance(dim: int) -> None:
    # nearly parallel and all positive, so that rounding adds up
    x = 1 + torch.rand(60, dim, generator=stream()) * 1e-3
    for centre in (torch.zeros(dim), x.mean(0)):
        cloud = bounds.Cloud(x, centre, torch.float32)
        low = (cloud.panel(slice(0, 60)) @ cloud.panel(slice(0, 60), right=True).T).double()
        rows = torch.arange(60)
        high = low + cloud.gap(rows[:, None].expand(60, 60), cloud, rows.expand(60, 60))
        squared = apart(x, x)
        assert bool((low <= squared).all())
        assert bool((squared <= high).all())


def test_copies_are_at_distance_zero_however_many_rows_are_asked_for() -> None:
    x = torch.randn(5, 70_000, generator=stream())
    first = torch.arange(5)
    together = bounds.squared_distances(x, x.flip(0), first, first)
    singly = [bounds.squared_distances(x, x.flip(0), first[i : i + 1], first[i : i + 1]) for i in range(5)]
    assert torch.equal(together, torch.cat(singly))
    assert together[2] == 0


def test_a_point_is_not_its_own_neighbour() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(line, (1, 2)).sqrt().tolist() == [[1, 1, 2, 4], [3, 2, 3, 6]]
    balls, _ = meet(line, torch.tensor([[0.5], [4.0]]), radii(line, (1,)), torch.zeros(1, 2))
    assert balls.around.tolist() == [[2, 2]]
    assert balls.held.tolist() == [[1, 1, 1, 1]]


def test_low_precision_products_elsewhere_change_nothing() -> None:
    x, y = gaussians(100, 80, 64)
    expected = shares(x, y)
    torch.set_float32_matmul_precision("medium")
    try:
        assert shares(x, y) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_too_few_points_and_not_a_number_are_said() -> None:
    with pytest.raises(WrongUse, match="5th neighbour among 4 others"):
        radii(torch.randn(5, 2), (5,))
    with pytest.raises(WrongUse, match="not finite"):
        radii(torch.tensor([[0.0], [torch.nan], [1.0]]), (1,))


# --- precision, recall, density, coverage


def as_the_papers_write(real: Tensor, fake: Tensor, k: int = 3, density_k: int = 5) -> Shares:
    distances = apart(real, fake)
    in_real, in_fake = distances <= radii_by_force(real, k)[:, None], distances <= radii_by_force(fake, k)
    balls = distances <= radii_by_force(real, density_k)[:, None]
    return Shares(
        in_real.any(0).double().mean().item(),
        in_fake.any(1).double().mean().item(),
        balls.sum().item() / density_k / len(fake),
        balls.any(1).double().mean().item(),
    )


@pytest.mark.parametrize("name", SETS)
def test_shares_equal_brute_force(name: str) -> None:
    assert shares(*SETS[name]()) == pytest.approx(as_the_papers_write(*SETS[name]()), abs=1e-12)


def test_fakes_that_cover_one_of_two_clusters() -> None:
    cluster = torch.randn(400, 3, generator=stream())
    found = shares(torch.cat([cluster[:200], cluster[200:] + 1000]), cluster[:200])
    assert (found.precision, found.recall, found.coverage) == (1, 0.5, 0.5)


def test_identical_and_disjoint_sets() -> None:
    x = torch.randn(200, 5, generator=stream())
    same = shares(x, x)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert shares(x, x + 100) == (0, 0, 0, 0)


def test_spread_is_that_of_repetitions_and_intervals_cover() -> None:
    draws = [gaussians(160, 160, 6, 0.4, 0.8, seed) for seed in range(100)]
    values = np.array([shares(*pair) for pair in draws])
    truth, deviation = values.mean(0), values.std(0)
    kept = [measured(*pair, most=120) for pair in draws[:20]]
    errors = np.mean([[each.error for each in spreads] for _, spreads in kept], 0)
    assert errors == pytest.approx(deviation, rel=0.3)
    inside = []
    for value, spreads in kept:
        intervals = [proportion(v, 160, s.error) for v, s in zip(value, spreads, strict=True)]
        intervals[2] = normal(value[2], spreads[2].error)
        inside.append([low <= t <= high for (low, high), t in zip(intervals, truth, strict=True)])
    assert np.all(np.mean(inside, 0) >= 0.85)


def test_replicates_tell_the_error_and_are_the_same_draws_for_every_model() -> None:
    x, y = gaussians(200, 200, 6)
    better = y * 0.999
    (_, one), (_, two) = measured(x, y), measured(x, better)
    for a, b in zip(one, two, strict=True):
        assert len(a.replicates) == REPEATS
        assert np.std(a.replicates, ddof=1) == pytest.approx(a.error, rel=1e-2)
        # nearly the same fakes: the difference is far more certain than either
        assert np.std(np.subtract(a.replicates, b.replicates)) < 0.3 * a.error


def test_spread_of_sets_of_different_sizes_is_defined() -> None:
    x, y = gaussians(400, 40, 6)
    assert all(0 < each.error < 0.5 for each in measured(x, y)[1])


def test_metrics_of_an_exam() -> None:
    data = made_up(n=64, held_out=48)
    exam = Exam(None, data, n=48, fakes=data.held_out)
    scores = dict(precision_recall(exam)) | dict(density_coverage(exam))
    assert [scores[name].value for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    assert all(s.low <= s.value <= s.high and len(s.replicates) == REPEATS for s in scores.values())
    small = made_up(held_out=8)
    with pytest.raises(NotMeasurable, match="needs 12 real and 12 fake"):
        precision_recall(Exam(None, small, n=8, fakes=small.train))
    assert issubclass(NotMeasurable, DiptychError)


def test_the_spread_is_that_of_all_classes_though_files_are_sorted() -> None:
    """The first 200 of 1,000 sorted fakes are of two of ten classes; their spread was twice the true one."""
    stream = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(10, 8, generator=stream)
    label = torch.arange(1000) // 100
    real, fake = (centres[label] + torch.randn(1000, 8, generator=stream) for _ in range(2))
    real = real[torch.randperm(1000, generator=stream)]
    mixed = fake[torch.randperm(1000, generator=stream)]
    ordered, shuffled = (measured(real, each, most=200)[1] for each in (fake, mixed))
    for one, other in zip(ordered, shuffled, strict=True):
        assert one.error == pytest.approx(other.error, rel=0.5)
