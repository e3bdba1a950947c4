"""Latency, throughput and memory of sampling, as a user meets them: in a process of its own, warmed up."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from diptych.device import keep_buffers, synchronize
from diptych.errors import DiptychError, NotMeasurable, RunError
from diptych.exam import Exam, metric
from diptych.metrics.intervals import rank_interval
from diptych.model import Model
from diptych.scores import Better, Estimate

BATCHES = (4, 16, 64, 256)
ONE, MANY = 0.8, 0.2  # seconds spent at batch 1, and at each larger batch
LONGEST = 0.5  # seconds that one call may take for its batch size to be tried


@metric
def speed(exam: Exam) -> Mapping[str, Estimate]:
    """Latency p50 and p95 at batch 1, images/s at the best batch, peak memory at batch 1, on this machine."""
    return measure_speed(exam.asked("speed"), [{}])[0]


def measure_speed(model: Model, settings: Sequence[Mapping[str, Any]] = ({},)) -> list[dict[str, Estimate]]:
    """Speed at each of these settings of the model's options, in one fresh process on the model's device.

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
            "device": str(next(model.parameters()).device),
            "modules": sorted(modules),
        }
        return [{name: Estimate(**e) for name, e in scores.items()} for scores in _in_own_process(job)]


def _in_own_process(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    # the other process finds what this one found
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "diptych.metrics.speed", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise DiptychError(f"the process that measures speed failed: {reason}")
    scores: list[dict[str, Any]] = json.loads(done.stdout)
    return scores


def speeds(models: Sequence[Model], memory: Memory) -> list[dict[str, Estimate]]:
    """Speed of each model, here and now."""
    peaks = [memory.of(model) for model in models]
    keep_buffers()  # as every command does; not before, since what it keeps would be counted
    singles = [timed(model, 1, ONE) for model in models]
    return [
        {**latency(times), "memory_mib": peak, "images_per_s": throughput(model, times)}
        for model, times, peak in zip(models, singles, peaks, strict=True)
    ]


def latency(times: Sequence[float]) -> dict[str, Estimate]:
    """Milliseconds from seed to image, p50 and p95, of calls that took so many seconds."""
    ordered = sorted(1000 * t for t in times)
    return {
        "latency_ms": quantile(ordered, 0.5, "lower", "ms", "p50, one image at a time"),
        "latency_p95_ms": quantile(ordered, 0.95, "lower", "ms", "p95, one image at a time"),
    }


def throughput(model: Model, singles: Sequence[float]) -> Estimate:
    """Images/s at the batch size that gives most. Larger ones are tried while they help.

    singles: seconds of calls at batch 1.
    """
    best, fastest = 1, sorted(1 / t for t in singles)
    for batch in BATCHES:
        before = fastest[-1]  # the least disturbed call decides what is tried; what is told is the median
        if batch / before > LONGEST:
            break
        rates = sorted(batch / t for t in timed(model, batch, MANY))
        if rates[-1] > before:
            best, fastest = batch, rates
        if rates[-1] < 1.05 * before:
            break
    return quantile(
        fastest,
        0.5,
        "higher",
        "images/s",
        f"median at batch {best}, the best of calls up to about {LONGEST} s",
    )


def timed(model: Model, batch: int, seconds: float, least: int = 3, most: int = 300) -> list[float]:
    """Seconds of each of repeated calls, after one call or a fifth of the time to warm up."""
    calls = _calls(model, batch, next(model.parameters()).device)
    _spend(calls, seconds / 5, 1, most)
    return _spend(calls, seconds, least, most)


def _calls(model: Model, batch: int, device: torch.device) -> Iterator[float]:
    seed = 0
    while True:
        synchronize(device)
        start = time.perf_counter()
        model.sample(range(seed, seed + batch), batch=batch)
        synchronize(device)
        yield time.perf_counter() - start
        seed += batch


def _spend(calls: Iterator[float], seconds: float, least: int, most: int) -> list[float]:
    spent: list[float] = []
    while len(spent) < least or (sum(spent) < seconds and len(spent) < most):
        spent.append(next(calls))
    return spent


def quantile(ordered: Sequence[float], q: float, better: Better, unit: str, what: str) -> Estimate:
    """A quantile of sorted values with the interval that order statistics give, whatever the distribution."""
    n = len(ordered)
    low, high = rank_interval(n, q)
    value = ordered[min(n - 1, int(q * n))]
    return Estimate(
        value, ordered[low], ordered[high], n, better, unit, f"{what}; interval: order statistics"
    )


class Memory:
    """Peak memory above what the process held when this was made: resident on the CPU, allocated on a GPU."""

    def __init__(self) -> None:
        self.before, _ = resident()

    def of(self, model: Model) -> Estimate:
        """MiB at the peak of drawing one image at a time: weights and activations."""
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_peak()
        model.sample(range(2), batch=1)
        note = "peak at batch 1, weights included, torch itself not"
        if device.type == "cuda":
            return Estimate.exact(torch.cuda.max_memory_allocated(device) / 2**20, "lower", "MiB", note)
        return Estimate.exact(max(0.0, resident()[1] - self.before), "lower", "MiB", note)


def resident() -> tuple[float, float]:
    """MiB of this process that are in memory, now and at the peak."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {
            line.split(":")[0]: float(line.split()[1]) / 1024
            for line in lines
            if line.startswith(("VmRSS", "VmHWM"))
        }
        if len(found) == 2:
            return found["VmRSS"], found["VmHWM"]
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return peak, peak


def reset_peak() -> None:
    """Lets the peak start from now where the system can; elsewhere it counts from the process's start."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main(text: str) -> None:
    """The other process: reads the job, prints the scores as JSON."""
    import importlib

    from diptych.runs import load_model

    job = json.loads(text)
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # a model may print; the scores must stay readable
        torch.set_num_threads(job["threads"])
        for name in job["modules"]:
            importlib.import_module(name)
        memory = Memory()
        model = load_model(job["directory"], job["device"])
        models = [model.using(**setting) if setting else model for setting in job["settings"]]
        scores = speeds(models, memory)
    json.dump([{name: asdict(e) for name, e in each.items()} for each in scores], out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="JSON: directory, settings, threads, device, modules")
    main(parser.parse_args().job)
