"""An adaptive solver of ordinary differential equations: the Runge-Kutta pair of orders 5 and 4 of Dormand
and Prince (1980, J. Comput. Appl. Math. 6, 19-26). Each row of a batch has its own steps, so that its
solution does not depend on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diptych.errors import NotMeasurable

State = tuple[Tensor, ...]  # parts (B, ...); the tolerance holds for each of them
Slope = Callable[[Tensor, Tensor, State], State]  # rows (n,), times (n,), both on the CPU, state (n, ...)

NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the solution of order 5
)
ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # less that of order 4


def dormand_prince(
    slope: Slope, state: State, start: float, end: float, tolerance: float, most: int = 1000
) -> State:
    """The state at `end`, from that at `start` < end; a step's error is about tolerance (1 + |state|).

    A row takes the first of its slopes over from its last step. Raises NotMeasurable after `most` steps, or
    where steps vanish: there the slope is not finite or jumps.
    """
    n = state[0].shape[0]
    time = torch.full((n,), start, dtype=torch.float64)
    step = torch.full((n,), (end - start) / 50, dtype=torch.float64)
    state = tuple(part.clone() for part in state)
    first = slope(torch.arange(n), time, state)
    for _ in range(most):
        rows = (time < end).nonzero()[:, 0]
        if not len(rows):
            return state
        h = torch.minimum(step[rows], end - time[rows])
        here = rows.to(state[0].device)
        before, known = (tuple(part[here] for part in parts) for parts in (state, first))
        after, last, error = _one_step(slope, rows, time[rows], h, before, known, tolerance)
        good = error <= 1
        now = torch.where(good & (h == end - time[rows]), end, time[rows] + h)
        time[rows] = torch.where(good, now, time[rows])
        step[rows] = h * (0.9 * error.clamp_min(1e-6) ** -0.2).clamp(0.2, 5.0)  # Hairer et al., 1993, II.4
        if ((step[rows] < 1e-7 * (end - start)) & (time[rows] < end)).any():
            break
        moved, kept = here[good.to(here.device)], good.to(here.device)
        for whole, new in zip((*state, *first), (*after, *last), strict=True):
            whole[moved] = new[kept].to(whole.dtype)
    raise NotMeasurable(
        f"no solution within the tolerance {tolerance:g} was found in {most} steps",
        "a larger --tolerance, or look whether the network's output is finite",
    )


def _one_step(
    slope: Slope, rows: Tensor, time: Tensor, h: Tensor, before: State, first: State, tolerance: float
) -> tuple[State, State, Tensor]:
    """The state after one step, the slope there, and the error in units of the tolerance, (n,) on the CPU."""
    slopes, after = [first], before
    for node, weights in zip(NODES[1:], STAGES, strict=True):
        after = _moved(before, h, weights, slopes)
        slopes.append(slope(rows, time + node * h, after))
    wrong = _moved(tuple(torch.zeros_like(part) for part in before), h, ERROR, slopes)
    units = [
        (e / (tolerance * (1 + torch.maximum(a.abs(), b.abs())))).reshape(len(e), -1).square().mean(1).sqrt()
        for e, a, b in zip(wrong, before, after, strict=True)
    ]
    error = torch.stack(units).amax(0).cpu().double()
    return after, slopes[-1], error.nan_to_num(nan=torch.inf)


def _moved(state: State, h: Tensor, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """state + h times the weighted sum of the slopes, part by part."""
    moved = []
    for i, part in enumerate(state):
        total = sum(weight * each[i] for weight, each in zip(weights, slopes, strict=True) if weight)
        moved.append(part + h.to(part).view(-1, *[1] * (part.ndim - 1)) * total)
    return tuple(moved)
