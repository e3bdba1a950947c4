"""Does a network tell its training images from held-out ones? The same for critics and denoisers.

r_v = (E[train] - E[held out]) / (E[train] - E[fake]), and r_t = E[sign(train)] (Karras et al., 2020,
arXiv:2006.06676, section 3): r_v is 0 where nothing is learned by heart, 1 where held-out images look as
fakes do. Where there are no fakes, the probability that a training image scores higher (Mann and Whitney,
1947).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from diptych.alarms.verdict import ALARM, OK, Verdict, state_of

MUCH = 0.5  # of r_v: held-out images are nearer to fakes than to training images
ABOVE = 0.75  # of the probability: a training image has the higher score three times in four


def remembered(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """The statistics of per-image scores "train" (B,), "held_out" (B,) and perhaps "fake" (B,); one wait.

    above: P(train > held out), ties as half; z: how far that is from one half, in its standard errors, by the
    variance of the ranks (DeLong et al., 1988); sign: mean sign of "train"; r_v and its standard error.
    """
    if not scores:
        return {}
    parts = {name: value.detach().cpu().double().flatten() for name, value in scores.items()}
    if not all(bool(part.isfinite().all()) for part in parts.values()):
        return {}
    train, held_out = parts["train"], parts["held_out"]
    beaten = shares_below(held_out, train)  # (B,) of held-out images, below each training image
    lost = 1 - shares_below(train, held_out)
    above = float(beaten.mean())
    n, m = len(train), len(held_out)
    usual = math.sqrt((n + m + 1) / (12 * n * m))  # of equal distributions, exact
    found = {"above": above, "z": (above - 0.5) / usual, "sign": float(train.sign().mean())}
    found["above_error"] = math.sqrt(float(beaten.var() / n + lost.var() / m))
    if "fake" in parts:
        found |= ratio(train, held_out, parts["fake"])
    return found


def ratio(train: Tensor, held_out: Tensor, fake: Tensor) -> dict[str, float]:
    """r_v and its standard error (delta method); nothing where training images look no better than fakes."""
    gap = float(train.mean() - fake.mean())
    variances = [float(part.var() / len(part)) for part in (train, held_out, fake)]
    if gap <= 2 * math.sqrt(variances[0] + variances[2]):
        return {}
    r_v = float(train.mean() - held_out.mean()) / gap
    slopes = ((1 - r_v) / gap, -1 / gap, r_v / gap)  # of r_v with each mean
    error = math.sqrt(sum(s**2 * v for s, v in zip(slopes, variances, strict=True)))
    return {"r_v": r_v, "r_v_error": error}


def shares_below(values: Tensor, others: Tensor) -> Tensor:
    """Which share of `values` lies below each of others; ties count half."""
    ordered = values.sort().values
    sides = [torch.searchsorted(ordered, others, right=right) for right in (False, True)]
    return (sides[0] + sides[1]).double() / (2 * len(values))


def overfit(history: Sequence[Mapping[str, Any]], level: float) -> Verdict | None:
    """The verdict on the last line's "memory"; None where it has none."""
    memory: Mapping[str, float] = history[-1].get("memory") or {}
    if "z" not in memory:
        return None
    limit = NormalDist().inv_cdf(1 - level)
    if "r_v" in memory:
        value = memory["r_v"]
        material = value - limit * memory["r_v_error"] > MUCH
        told = f"r_v is {value:.2f} (0: held-out images look like training images, 1: like fakes)"
    else:
        value = memory["above"]
        material = value - limit * memory["above_error"] > ABOVE
        told = f"a training image scores above a held-out one with probability {value:.2f}"
    signed = f"; r_t, the mean sign of their logits, is {memory['sign']:.2f}" if "r_v" in memory else ""
    state = state_of(memory["z"] > limit, material)
    if state == OK:
        told = "held-out images score as training images do"
    elif state == ALARM:
        told = f"training images are known by heart: {told}"
    return Verdict("overfit", state, round(memory["z"], 3), round(limit, 3), level, told + signed)
