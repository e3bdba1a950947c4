"""Calls of a model timed and its memory watched, in a process that does nothing else: see speed.py."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence

import torch

from diptych.model import Model
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
