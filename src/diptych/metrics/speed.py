"""Latency, throughput and memory of sampling, as a user meets them: in a process of its own, warmed up."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from diptych.errors import DiptychError, NotMeasurable, RunError
from diptych.exam import Exam
from diptych.measuring import student
from diptych.metric import metric
from diptych.metrics.intervals import rank_interval
from diptych.metrics.stopwatch import PATIENCE, SPELLS
from diptych.model import Model
from diptych.scores import Better, Estimate


class Timings(NamedTuple):
    """What was measured of one model at one setting of its options."""

    calls: Mapping[int, Sequence[float]]  # seconds of each call, by batch size; 1 is always there
    memory: float  # MiB at the peak
    drift: Mapping[int, float] = {}  # by batch size: see `drift`

    @classmethod
    def of(cls, spells: Mapping[int, Sequence[Sequence[float]]], memory: float) -> Timings:
        """From seconds of each call, spell by spell, by batch size."""
        calls = {batch: [t for spell in each for t in spell] for batch, each in spells.items()}
        return cls(calls, memory, {batch: drift(each) for batch, each in spells.items()})

    @property
    def fastest(self) -> int:
        """The batch size that gives most images a second, by the least disturbed of its calls."""
        return max(self.calls, key=lambda batch: batch / min(self.calls[batch]))


@metric(
    {
        "latency_ms": "lower",
        "latency_p95_ms": "lower",
        "latency_p99_ms": "lower",
        "memory_mib": "lower",
        "images_per_s": "higher",
    },
    cost=True,
    timed=True,
)
def speed(exam: Exam) -> Mapping[str, Estimate]:
    """Latency p50, p95 and p99 at batch 1, images/s at the best batch, peak memory, on this machine."""
    return scores(shared_timings(exam))


@metric({}, cost=True, asked_only=True, timed=True)
def speed_by_batch(exam: Exam) -> Mapping[str, Estimate]:
    """Latency p50, p95 and p99 at each larger batch that was tried for the best throughput."""
    found: dict[str, Estimate] = {}
    timings = shared_timings(exam)
    for batch, seconds in timings.calls.items():
        if batch > 1:
            found |= latency(seconds, batch, timings.drift.get(batch, 0.0))
    return found


def shared_timings(exam: Exam) -> Timings:
    """The timings of this exam's model, measured once for all metrics that rest on them."""
    model = exam.asked("speed")
    return exam.shared("speed", lambda: timings(model)[0])


def measure_speed(
    model: Model, settings: Sequence[Mapping[str, Any]] = ({},), *, patience: float = PATIENCE
) -> list[dict[str, Estimate]]:
    """The scores of `speed` at each of these settings of the model's options; see `timings`."""
    return [scores(found) for found in timings(model, settings, patience=patience)]


def scores(found: Timings) -> dict[str, Estimate]:
    """What a table shows of the timings."""
    note = "peak at batch 1, weights included, torch itself not"
    return {
        **latency(found.calls[1], drift=found.drift.get(1, 0.0)),
        "memory_mib": Estimate.exact(found.memory, "lower", "MiB", note),
        "images_per_s": throughput(found),
    }


def latency(seconds: Sequence[float], batch: int = 1, drift: float = 0.0) -> dict[str, Estimate]:
    """Milliseconds from seeds to images, p50, p95 and p99, of calls that took so many seconds."""
    ordered = sorted(1000 * t for t in seconds)
    what = "one image at a time" if batch == 1 else f"{batch} images at a time"
    end = "" if batch == 1 else f"_b{batch}"
    return {
        f"latency{part}_ms{end}": quantile(ordered, q, "lower", "ms", f"p{100 * q:.0f}, {what}", drift)
        for part, q in (("", 0.5), ("_p95", 0.95), ("_p99", 0.99))
    }


def throughput(found: Timings) -> Estimate:
    """Images/s at the batch size that gives most."""
    rates = sorted(found.fastest / t for t in found.calls[found.fastest])
    what = f"median at batch {found.fastest}, the best tried"
    return quantile(rates, 0.5, "higher", "images/s", what, found.drift.get(found.fastest, 0.0))


def drift(spells: Sequence[Sequence[float]]) -> float:
    """Half of the t-interval over the medians of spells, as a share of their mean; 0 of one spell."""
    medians = [statistics.median(spell) for spell in spells]
    if len(medians) < 2:
        return 0.0
    error = statistics.stdev(medians) / math.sqrt(len(medians))
    return student.quantile(0.975, len(medians) - 1) * error / statistics.mean(medians)


def quantile(
    ordered: Sequence[float], q: float, better: Better, unit: str, what: str, drift: float = 0.0
) -> Estimate:
    """A quantile of sorted values, with the interval that order statistics give, whatever the distribution.

    Where there are too few values for an end of the interval, it is 0 or infinite, and the note says so.
    Those of calls hold for calls in the hour of these: no end is nearer than the drift, a share of the value.
    """
    n = len(ordered)
    low, high = rank_interval(n, q)
    note = f"{what}; interval: order statistics"
    for end, tail in (("lower", 1 - q), ("upper", q)):
        # the quantile is beyond all n values with probability tail^n
        if tail**n > 0.025:
            note += f", which have no {end} end below {math.ceil(math.log(0.025, tail))} calls"
    at_least = ordered[low] if (1 - q) ** n <= 0.025 else 0.0
    at_most = ordered[high] if q**n <= 0.025 else math.inf
    value = ordered[min(n - 1, int(q * n))]
    if drift:
        note += f"; or, where that is wider, t over the medians of {SPELLS} spells"
        at_least, at_most = (
            min(at_least, max(0.0, value * (1 - drift))),
            max(at_most, value * (1 + drift)),
        )
    return Estimate(value, at_least, at_most, n, better, unit, note)


def timings(
    model: Model, settings: Sequence[Mapping[str, Any]] = ({},), *, patience: float = PATIENCE
) -> list[Timings]:
    """Timings at each of these settings of the model's options, in one fresh process on the model's device.

    Up to `patience` seconds a setting are spent on calls at batch 1, so that p99 has an interval.
    Raises NotMeasurable for a model that cannot be saved, or whose class another process cannot import.
    """
    from diptych.runs import save_model

    modules = {type(part).__module__: type(part).__name__ for part in model.modules()}
    if "__main__" in modules:
        raise NotMeasurable(
            f"{modules['__main__']} is defined in a script, which another process cannot import",
            "move the class to a module",
        )
    with tempfile.TemporaryDirectory(prefix="diptych-speed-") as directory:
        try:
            save_model(model, directory)
        except RunError as error:
            raise NotMeasurable(f"speed is measured on a saved model: {error.message}", error.hint) from error
        job = {
            "directory": directory,
            "settings": [dict(setting) for setting in settings],
            "threads": torch.get_num_threads(),
            "device": str(model.device),
            "modules": sorted(modules),
            "patience": patience,
        }
        return [
            Timings.of({int(batch): each for batch, each in spells.items()}, memory)
            for spells, memory in _in_own_process(job)
        ]


def _in_own_process(job: Mapping[str, Any]) -> list[tuple[dict[str, list[list[float]]], float]]:
    # the other process finds what this one found
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "diptych.metrics.stopwatch", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise DiptychError(f"the process that measures speed failed: {reason}")
    found: list[tuple[dict[str, list[list[float]]], float]] = json.loads(done.stdout)
    return found
