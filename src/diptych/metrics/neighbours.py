"""Exact nearest neighbours and balls around images, in tiles: one copy of the features and 200 MiB at most.

Lower bounds of distances (bounds.py) decide nearly all pairs; what they leave open, a few pairs an image, is
computed by direct differences in float64. So results are those of float64, and copies are at distance 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diptych.errors import WrongUse
from diptych.metrics.bounds import (
    PAIRS,
    Cloud,
    blocks,
    full_precision,
    mean,
    precision,
    row_sums,
    squared_distances,
)

SPARE = 3  # candidates kept beyond the k-th, so that rounding seldom leaves the k-th undecided


class Nearest(NamedTuple):
    """The nearest of other points."""

    squared: Tensor  # (N, K) float64 distances to the k-th nearest, one column for each k
    number: Tensor  # (N,) which one is nearest


class Balls(NamedTuple):
    """How points and balls of several radii meet."""

    held: Tensor  # (R, N) int64: how many points each ball holds
    around: Tensor  # (R, M) int64: in how many balls each point lies


def radii(points: Tensor, ks: Sequence[int]) -> Tensor:
    """Squared distances (len(ks), N) float64 from points (N, D) to their k-th nearest others, for each k."""
    _enough(len(points) - 1, ks)
    with full_precision():
        cloud = Cloud(points, mean(points), precision(points))
        squared, _, sure = _settled(cloud, cloud, _among(cloud, max(ks)), ks)
        rest = torch.nonzero(~sure).squeeze(1)
    if len(rest):
        squared[rest] = nearest(points[rest], points, ks, own=rest, dtype=torch.float64).squared
    return squared.T.contiguous()


def nearest(
    points: Tensor,
    others: Tensor,
    ks: Sequence[int] = (1,),
    own: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Nearest:
    """The k-th nearest of others (M, D) to points (N, D), for each k. `own` (N,) leaves one out for each.

    dtype is that of the products; it changes the time, not the result.
    """
    _enough(len(others) - (own is not None), ks)
    with full_precision():
        centre, dtype = mean(others), dtype or precision(points, others)
        x, y = Cloud(points, centre, dtype), Cloud(others, centre, dtype)
        squared, index, sure = _settled(x, y, _across(x, y, max(ks), own), ks)
        rest = torch.nonzero(~sure).squeeze(1)
    if len(rest) and dtype == torch.float32:
        again = nearest(points[rest], others, ks, None if own is None else own[rest], torch.float64)
        squared[rest], index[rest] = again
    elif len(rest):
        for row in rest.tolist():  # closer to each other than float64 products can tell
            squared[row], index[row] = _directly(points[row], others, ks, None if own is None else own[row])
    return Nearest(squared, index)


def meet(x: Tensor, y: Tensor, around_x: Tensor, around_y: Tensor) -> tuple[Balls, Balls]:
    """Balls around x (N, D) against points y (M, D), and balls around y against points x, borders included.

    around_x (R, N) and around_y (S, M) are squared radii.
    """
    with full_precision():
        centre = (mean(x) + mean(y)) / 2
        dtype = precision(x, y)
        return _met(Cloud(x, centre, dtype), Cloud(y, centre, dtype), around_x.double(), around_y.double())


class Candidates(NamedTuple):
    """For each row the smallest lower bounds so far, ascending, and whose they are."""

    low: Tensor  # (N, K)
    whose: Tensor  # (N, K) int64

    def take(self, rows: Tensor, columns: Tensor, low: Tensor) -> None:
        """Lets single pairs in where they are smaller."""
        if not len(rows):
            return
        order = low.argsort()
        order = order[rows[order].argsort(stable=True)]
        touched, slot, counts = torch.unique_consecutive(rows[order], return_inverse=True, return_counts=True)
        place = torch.arange(len(order), device=low.device) - (counts.cumsum(0) - counts)[slot]
        keep = place < self.low.shape[1]
        order, slot, place = order[keep], slot[keep], place[keep]
        new_low = torch.full_like(self.low[touched], torch.inf)
        new_whose = torch.zeros_like(self.whose[touched])
        new_low[slot, place], new_whose[slot, place] = low[order], columns[order]
        self.put(
            touched,
            torch.cat([self.low[touched], new_low], 1),
            torch.cat([self.whose[touched], new_whose], 1),
        )

    def put(self, rows: Tensor | slice, low: Tensor, index: Tensor) -> None:
        """The smallest of these are these rows' candidates."""
        best = low.topk(min(self.low.shape[1], low.shape[1]), dim=1, largest=False)
        self.low[rows, : best.values.shape[1]] = best.values
        self.whose[rows, : best.values.shape[1]] = index.gather(1, best.indices)


def _candidates(cloud: Cloud, k: int) -> Candidates:
    low = torch.full((len(cloud.points), k + SPARE), torch.inf, dtype=cloud.dtype, device=cloud.points.device)
    return Candidates(low, torch.zeros_like(low, dtype=torch.int64))


def _among(cloud: Cloud, k: int) -> Candidates:
    """Candidates of each point among the others; each pair is looked at once."""
    best, parts = _candidates(cloud, k), blocks(len(cloud.points))
    for rows in parts:
        low = cloud.panel(rows) @ cloud.panel(rows, right=True).T
        low.fill_diagonal_(torch.inf)
        best.put(rows, low, _numbers(rows, low).expand_as(low))
    for i, rows in enumerate(parts):
        left = cloud.panel(rows)
        for columns in parts[i + 1 :]:
            low = left @ cloud.panel(columns, right=True).T
            mask = low < best.low[rows, -1:]
            mask |= low < best.low[columns, -1]
            row, column = _places(mask)
            value = low[row, column]
            row, column = row + rows.start, column + columns.start
            for a, b in ((row, column), (column, row)):
                better = value < best.low[a, -1]
                best.take(a[better], b[better], value[better])
    return best


def _across(x: Cloud, y: Cloud, k: int, own: Tensor | None) -> Candidates:
    """Candidates of each point of x among those of y."""
    best = _candidates(x, k)
    for rows in blocks(len(x.points)):
        left = x.panel(rows)
        for columns in blocks(len(y.points)):
            low = left @ y.panel(columns, right=True).T
            if own is not None:
                mine = torch.nonzero((own[rows] >= columns.start) & (own[rows] < columns.stop)).squeeze(1)
                low[mine, own[rows][mine] - columns.start] = torch.inf
            if columns.start == 0:
                best.put(rows, low, _numbers(columns, low).expand_as(low))
                continue
            row, column = _places(low < best.low[rows, -1:])
            best.take(row + rows.start, column + columns.start, low[row, column])
    return best


def _settled(x: Cloud, y: Cloud, best: Candidates, ks: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances (N, K), the nearest one's number (N,), and which rows are certain of them (N,)."""
    rows = torch.arange(len(best.low), device=best.low.device)[:, None].expand_as(best.whose)
    low = best.low.double()
    high = low + x.gap(rows, y, best.whose)
    ordered, open_ = high.sort(1).values, torch.zeros_like(low, dtype=torch.bool)
    for k in ks:
        open_ |= (high >= low[:, k - 1 : k]) & (low <= ordered[:, k - 1 : k])
    mixed = low.clone()
    mixed[open_] = squared_distances(x.points, y.points, rows[open_], best.whose[open_])
    values, place = mixed.sort(1)
    squared = values[:, [k - 1 for k in ks]]
    # one that is not among the candidates is at least as far as the last candidate's lower bound
    sure = ((squared <= low[:, -1:]) | (squared == 0)).all(1)
    return squared, best.whose.gather(1, place[:, :1]).squeeze(1), sure


def _met(x: Cloud, y: Cloud, around_x: Tensor, around_y: Tensor) -> tuple[Balls, Balls]:
    copies_x, copies_y = _copies(x, y)
    most_x, most_y = (_rounded_up(each.amax(0), x.dtype) for each in (around_x, around_y))
    counts = [
        Balls(torch.zeros_like(each, dtype=torch.int64), each.new_zeros(len(each), n, dtype=torch.int64))
        for each, n in ((around_x, len(y.points)), (around_y, len(x.points)))
    ]
    for rows in blocks(len(x.points)):
        left = x.panel(rows)
        for columns in blocks(len(y.points)):
            low = left @ y.panel(columns, right=True).T
            mask = low <= most_x[rows, None]
            mask |= low <= most_y[columns]
            row, column = _places(mask)
            bound = low[row, column].double()
            row, column = row + rows.start, column + columns.start
            border = torch.cat([around_x[:, row], around_y[:, column]])
            same = copies_x[row] == copies_y[column]
            inside = _inside(x, y, row, column, bound, border, same)
            for held, around, one, other, hits in (
                (*counts[0], row, column, inside[: len(around_x)]),
                (*counts[1], column, row, inside[len(around_x) :]),
            ):
                for i, hit in enumerate(hits):
                    held[i] += torch.bincount(one[hit], minlength=held.shape[1])
                    around[i] += torch.bincount(other[hit], minlength=around.shape[1])
    return counts[0], counts[1]


def _inside(
    x: Cloud, y: Cloud, row: Tensor, column: Tensor, low: Tensor, border: Tensor, same: Tensor
) -> Tensor:
    """Whether each pair (P,) is no farther apart than each of its squared borders (R, P)."""
    surely = (low + x.gap(row, y, column)) <= border
    unclear = (low <= border) & ~surely
    squared = torch.where(same, 0.0, torch.inf).double()
    # of points that differ, none is at distance 0
    ask = (unclear & (border > 0)).any(0) & ~same
    squared[ask] = squared_distances(x.points, y.points, row[ask], column[ask])
    return torch.where(unclear, squared <= border, surely)


def _directly(point: Tensor, others: Tensor, ks: Sequence[int], own: Tensor | None) -> tuple[Tensor, Tensor]:
    differences = (others[rows].double() - point.double() for rows in blocks(len(others)))
    squared = torch.cat([row_sums(each.square_()) for each in differences])
    if own is not None:
        squared[own] = torch.inf
    best = squared.topk(max(ks), largest=False)
    return best.values[[k - 1 for k in ks]], best.indices[0]


def _copies(x: Cloud, y: Cloud) -> tuple[Tensor, Tensor]:
    """Numbers (N,) and (M,) that are the same for identical points only."""
    squares = torch.cat([x.squares, y.squares])
    order = squares.argsort(stable=True)
    new = torch.ones_like(order)
    alike = torch.nonzero(squares[order][1:] == squares[order][:-1]).squeeze(1)
    for at in torch.split(alike, max(1, PAIRS // x.dim)):
        before, after = (_rows_of(x.points, y.points, order[place]) for place in (at, at + 1))
        new[at + 1] = (before != after).any(1).long()
    numbers = torch.empty_like(order)
    numbers[order] = new.cumsum(0)
    return numbers[: len(x.points)], numbers[len(x.points) :]


def _rows_of(x: Tensor, y: Tensor, numbers: Tensor) -> Tensor:
    """Rows of x, then of y, by number."""
    first = numbers < len(x)
    rows = x.new_empty(len(numbers), x.shape[1])
    rows[first], rows[~first] = x[numbers[first]], y[numbers[~first] - len(x)]
    return rows


def _places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column numbers of what is true in a contiguous mask."""
    if mask.device.type == "cpu":  # NumPy is several times faster where little is true
        flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    else:
        flat = mask.flatten().nonzero().squeeze(1)
    row = flat.div(mask.shape[1], rounding_mode="floor")
    return row, flat - row * mask.shape[1]


def _rounded_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.nextafter(values.to(dtype), torch.tensor(torch.inf, dtype=dtype, device=values.device))


def _numbers(rows: slice, like: Tensor) -> Tensor:
    return torch.arange(rows.start, rows.stop, device=like.device)


def _enough(n: int, ks: Sequence[int]) -> None:
    if n < max(ks):
        raise WrongUse(f"there is no {max(ks)}th neighbour among {n} others", "give more points")
