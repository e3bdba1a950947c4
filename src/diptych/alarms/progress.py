"""Divergence and over-training: told by log lines alone, against the run's own past."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, median, stdev
from typing import Any

from diptych.alarms.verdict import ALARM, OK, Verdict, state_of
from diptych.measuring.student import quantile

Line = Mapping[str, Any]
EARLIER = 4  # log lines that a prediction of the next one needs
SETTLING = 1  # log lines at the beginning that are not of a kind with the others
GROWN = 10.0  # times the median of its past: a gradient or a logit out of bounds
WORSE = 0.1  # rise of FID, as a share of the best, that is much
LEAST = 0.05  # spread of logarithms that nothing is steadier than
WATCHED = ("_gradient", "_logit", "logit_gap")  # sizes that should stay what they are; losses differ in kind


def divergence(history: Sequence[Line], level: float) -> Verdict:
    """Is a number no longer finite, or a gradient, a logit or a loss far above what it used to be?

    The logarithm of each size is compared with Student's t prediction from the earlier lines. Of K sizes each
    has its part of `level` (Bonferroni); log-normal fluctuation would keep it.
    """
    losses: Mapping[str, float] = history[-1].get("losses", {})
    bad = [name for name, value in losses.items() if value is None or not math.isfinite(value)]
    if bad:
        sentence = f"{bad[0]} is no longer finite"
        return Verdict("divergence", ALARM, 0.0, 0.0, level, sentence)
    sizes = {name: past for name in losses if (past := logarithms(history, name))}
    if not sizes:
        return Verdict("divergence", OK, 0.0, 0.0, level, "too early to tell")
    found = {name: surprise(past) for name, past in sizes.items()}
    limit = {name: quantile(1 - level / len(sizes), len(sizes[name]) - 2) for name in sizes}
    worst = max(found, key=lambda name: found[name] - limit[name])
    *past, now = sizes[worst]
    times = math.exp(min(700.0, now - median(past)))
    state = state_of(found[worst] > limit[worst], times > GROWN)
    sentence = f"{worst} is {times:.3g} times what it used to be"
    if state == OK:
        sentence = "losses, gradients and logits are what they used to be"
    return Verdict("divergence", state, round(found[worst], 3), round(limit[worst], 3), level, sentence)


def logarithms(history: Sequence[Line], name: str) -> list[float]:
    """ln |value| at each line after the first; empty where too few lines have it, or it is no size."""
    values = [line.get("losses", {}).get(name) for line in history[SETTLING:]]
    known = [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    gradient_or_logit = name.endswith(WATCHED) or f"{name}_gradient" in history[-1]["losses"]
    if len(known) <= EARLIER or not gradient_or_logit:
        return []
    return [math.log(max(abs(value), 1e-12)) for value in known]


def surprise(values: Sequence[float]) -> float:
    """How far the last value lies above a prediction from the others, in its standard errors."""
    *past, now = values
    spread = max(stdev(past), LEAST) * math.sqrt(1 + 1 / len(past))
    return (now - fmean(past)) / spread


def overtraining(history: Sequence[Line], level: float) -> Verdict | None:
    """Has FID risen from its best beyond the noise of both exams, while a loss fell? None without an exam.

    The best of several exams is low by chance: each has its part of `level` (Bonferroni).
    """
    exams = [line for line in history if "fid_error" in line.get("exam", {})]
    if not exams or exams[-1] is not history[-1]:
        return None
    *others, now = exams
    earlier = [line for line in others if line.get("exam_n") == now.get("exam_n")]  # FID falls with n
    if not earlier:
        return Verdict("overtraining", OK, 0.0, 0.0, level, "the first exam")
    best = min(earlier, key=lambda line: float(line["exam"]["fid"]))
    old, new = (float(line["exam"]["fid"]) for line in (best, now))
    noise = math.hypot(*(float(line["exam"]["fid_error"]) for line in (best, now)))
    z = (new - old) / max(noise, 1e-9)
    limit = NormalDist().inv_cdf(1 - level / len(earlier))
    fell = fallen(best, now)
    state = state_of(z > limit, bool(fell) and new > (1 + WORSE) * old)
    sentence = f"FID is {new:.3g}; it was {old:.3g} after {best['images']:,} images"
    if fell and state != OK:
        sentence += f", while the loss of {fell[0]} fell"
    return Verdict("overtraining", state, round(z, 3), round(limit, 3), level, sentence)


def fallen(before: Line, now: Line) -> list[str]:
    """The phases whose loss is lower than it was."""
    old, new = before.get("losses", {}), now.get("losses", {})
    return [name for name in new if f"{name}_gradient" in new and new[name] < old.get(name, -math.inf)]
