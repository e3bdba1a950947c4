"""Latency, throughput and memory of sampling, as a user meets them: in a process of its own, warmed up."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from diptych.errors import DiptychError, NotMeasurable, RunError
from diptych.exam import Exam, metric
from diptych.measuring import student
from diptych.metrics.intervals import rank_interval
from diptych.model import Model
from diptych.scores import Better, Estimate
from diptych.system.device import keep_buffers, reset_peak, resident, synchronize
from diptych.system.shortage import is_shortage

BATCHES = (4, 16, 64, 256)
ONE, MANY = 0.8, 0.2  # seconds spent at batch 1, and at each larger batch
PATIENCE = 2.0  # seconds at batch 1 that may be spent on having enough calls for the p99
# these times are spent in so many spells, with those of other batches and settings between: a machine is now
# faster, now slower, and calls one after another share that
SPELLS = 6
LONGEST = 1.0  # seconds that one call may take for its batch size to be tried
SLOWEST = 10.0  # seconds that a call at batch 1 may take for a larger batch to be tried at all


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


@metric(timed=True)
def speed(exam: Exam) -> Mapping[str, Estimate]:
    """Latency p50, p95 and p99 at batch 1, images/s at the best batch, peak memory, on this machine."""
    return scores(shared_timings(exam))


@metric(asked_only=True, timed=True)
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
    command = [sys.executable, "-m", "diptych.metrics.speed", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise DiptychError(f"the process that measures speed failed: {reason}")
    found: list[tuple[dict[str, list[list[float]]], float]] = json.loads(done.stdout)
    return found


def spells_by_batch(
    models: Sequence[Model], patience: float = PATIENCE
) -> list[dict[int, list[list[float]]]]:
    """Seconds of each call of each spell by batch size, for each model; one spell of all before the next."""
    found = [{batch: [calls] for batch, calls in calls_by_batch(model, patience).items()} for model in models]
    for _ in range(SPELLS - 1):
        for model, by_batch in zip(models, found, strict=True):
            for batch, spells in by_batch.items():
                seconds, most = (ONE / SPELLS, patience / SPELLS) if batch == 1 else (MANY / SPELLS, 0.0)
                warm = min(spells[0]) < seconds / 4  # a slow one costs more than it would tell
                try:
                    spells.append(timed(model, batch, seconds, patience=most, warm=warm, least=1))
                except (MemoryError, RuntimeError) as error:
                    if batch == 1 or not is_shortage(error):
                        raise
    return found


def calls_by_batch(model: Model, patience: float = PATIENCE) -> dict[int, list[float]]:
    """The first spell: seconds of each call at batch 1, then at larger batches while they give more images/s.

    One larger batch at least is tried where a call at batch 1 takes less than `SLOWEST`; none above one that
    memory does not suffice for.
    """
    calls = {1: timed(model, 1, ONE / SPELLS, patience=patience / SPELLS)}
    for batch in BATCHES:
        # the least disturbed call decides what is tried; what is told is the median
        rate = max(size / min(seconds) for size, seconds in calls.items())
        expected = batch / rate
        if expected > LONGEST and (len(calls) > 1 or 1 / rate > SLOWEST):
            break
        try:
            calls[batch] = timed(model, batch, MANY / SPELLS, warm=expected < LONGEST)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            break
        if batch / min(calls[batch]) < 1.05 * rate:
            break
    return calls


def timed(
    model: Model, batch: int, seconds: float, *, patience: float = 0.0, warm: bool = True, least: int = 2
) -> list[float]:
    """One spell: seconds of each of repeated calls, after one call or a fifth of the time to warm up.

    Of all spells there are 6 calls or more, as the interval of a median needs; up to `patience` seconds are
    spent on this one's part of the 400 that the interval of a p99 can be read from.
    """
    calls = _calls(model, batch, model.device)
    if warm:
        _spend(calls, seconds / 5, 1)
    spent = _spend(calls, seconds, least)
    while len(spent) < 400 / SPELLS and sum(spent) < patience:
        spent.append(next(calls))
    return spent


def _calls(model: Model, batch: int, device: torch.device) -> Iterator[float]:
    seed = 0
    while True:
        synchronize(device)
        start = time.perf_counter()
        model.sample(range(seed, seed + batch), batch=batch)
        synchronize(device)
        yield time.perf_counter() - start
        seed += batch


def _spend(calls: Iterator[float], seconds: float, least: int, most: int = 1000 // SPELLS) -> list[float]:
    spent: list[float] = []
    while len(spent) < least or (sum(spent) < seconds and len(spent) < most):
        spent.append(next(calls))
    return spent


class Memory:
    """Peak memory above what the process held when this was made: resident on the CPU, allocated on a GPU."""

    def __init__(self) -> None:
        self.before, _ = resident()

    def of(self, model: Model) -> float:
        """MiB at the peak of drawing one image at a time: weights and activations."""
        device = model.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_peak()
        model.sample(range(2), batch=1)
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        return max(0.0, resident()[1] - self.before)


def main(text: str) -> None:
    """The other process: reads the job, prints for each setting its timings as JSON."""
    import importlib

    from diptych.runs import load_model

    job = json.loads(text)
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # a model may print; what was found must stay readable
        torch.set_num_threads(job["threads"])
        for name in job["modules"]:
            importlib.import_module(name)
        memory = Memory()
        model = load_model(job["directory"], job["device"])
        models = [model.using(**setting) if setting else model for setting in job["settings"]]
        peaks = [memory.of(model) for model in models]
        keep_buffers()  # as every command does; not before, since what it keeps would be counted
        found = list(zip(spells_by_batch(models, job["patience"]), peaks, strict=True))
    json.dump(found, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="JSON: directory, settings, threads, device, modules, patience")
    main(parser.parse_args().job)
