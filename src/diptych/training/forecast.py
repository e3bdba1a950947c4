"""What a whole training would take: time, memory and disk, from a rehearsal that leaves nothing behind.

The rehearsal is the training itself, cut short: its probe, its exam found and calibrated, some of its steps,
and a few of its ticks with all that they do, in a folder beside the run's that is removed again.
"""

from __future__ import annotations

import ctypes
import gc
import io
import logging
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from diptych import pictures
from diptych.data.images import DataSet
from diptych.recipe import RecipeSpec
from diptych.runs import Run
from diptych.system import parallel
from diptych.system.aside import aside
from diptych.system.device import deterministic, keep_buffers, reset_peak, synchronize
from diptych.system.files import expanded, write_json
from diptych.system.interrupts import terminable
from diptych.system.shortage import enough_memory, remedy
from diptych.training import loop
from diptych.training.claims import describe
from diptych.training.probe import at_progress, peak_memory
from diptych.training.state import Settings, Training
from diptych.training.ticks import Ticks
from diptych.training.track import Examine

Clock = Callable[[], float]
TICKS = 3
SPELL = 1.5  # seconds of steps before each rehearsed tick, and again and again after the last
# how many spells' time in all: more than the fewest where speeds differ, as on a machine that others use
FEWEST, MOST = 8, 30
ALIKE = 0.01  # the error of their mean, as a part of it, at which it is enough
PATIENCE = 20.0  # seconds that one tick may take for it to be rehearsed again


@dataclass(frozen=True)
class Forecast:
    """What a training is expected to take, and what each part of it does. Memory and disk in MiB."""

    images: int
    batch: int
    seconds: float  # all of it, from the start of the process
    seconds_between: tuple[float, float]  # were all steps as quick as in the quickest spell, the slowest
    seconds_of: Mapping[str, float]  # start, steps, exams, sheets, checkpoints
    ticks: int
    exams: int
    exam_images: int  # that each exam looks at
    images_per_s: float  # of training, nothing else
    flop_per_image: float
    memory_mib: float  # at the peak: of the process on the CPU, of what torch allocates on a GPU
    disk_mib: float  # when it is done, where the best checkpoint is one of the last
    disk_most_mib: float  # ... where the best is an older one, which is kept too
    disk_peak_mib: float  # while the last checkpoint is written and the best is an old one
    disk_of: Mapping[str, float]  # checkpoints, models, snapshots, averages, sheets, logs

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        return asdict(self)


@dataclass
class Rehearsed:
    """What was seen of a training cut short."""

    steps: int = 0
    spells: list[tuple[int, float]] = field(default_factory=list)  # steps and seconds of each
    ticks: list[dict[str, float]] = field(default_factory=list)  # seconds of each, of exam and sheet in it
    sizes: dict[str, float] = field(  # MiB of a checkpoint, of a model, of what is logged at a tick
        default_factory=lambda: {"checkpoint": 0.0, "model": 0.0, "line": 0.0}
    )


def forecast(
    spec: RecipeSpec,
    data: DataSet,
    out: str | Path,
    *,
    arguments: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),
    examine: Examine | None = None,
    started: float | None = None,
    clock: Clock = time.perf_counter,
) -> Forecast:
    """What `train` with these arguments would take.

    started: `clock()` when the process began, whose seconds until now, and whose peak of memory, a training
    takes as well; None: memory is this rehearsal's peak, not that of one before it. clock:
    `time.process_time` counts the processor's seconds, whatever else the machine does.
    """
    if started is None:
        fresh_peak()
    keep_buffers()
    begun = clock() if started is None else started
    settings = replace(settings, on_alarm="warn")  # a training that has hardly begun is no cause for more
    recorded = describe(spec, data, arguments or {}, settings)
    enough = enough_memory("the rehearsal", remedy(recorded))
    with enough, deterministic(settings.deterministic), fork_rng(), terminable():
        expected = loop.plan(spec, data, arguments=arguments, settings=settings)
        training = loop.build(spec, data, arguments or {}, settings, expected.images)
        with beside(expanded(out)) as folder:
            training.compile()
            recorded |= {"probe": asdict(expected)}
            write_json(folder / "recipe.json", recorded)
            if examine is not None:
                examine = loop.settle(Run(folder), training, examine, recorded)
            start = clock() - begun
            with silent():
                seen = rehearse(folder, training, examine, expected.flop_per_image, clock)
    found = summed(training, expected.flop_per_image, seen, start, encoded(data) / 2**20, examine)
    return Forecast(**parallel.of_first(found.to_json()))


def fresh_peak() -> None:
    """Lets the process's peak of memory start from what is in use now, where the system can: Linux."""
    if sys.platform != "linux":
        return
    gc.collect()
    # freed memory that `keep_buffers` has kept would count as in use
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    reset_peak()


def fork_rng() -> AbstractContextManager[None]:
    """What is drawn inside is not missed outside."""
    return torch.random.fork_rng(range(torch.cuda.device_count()))


@contextmanager
def silent() -> Iterator[None]:
    """No warnings: what rings in a rehearsal is the alarm of a model that has hardly begun."""
    log = logging.getLogger("diptych")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """An empty folder on the disk that `out` is on, removed again; one for all processes."""
    place = next(p for p in out.absolute().parents if p.is_dir())
    if not os.access(place, os.W_OK):
        place = Path(tempfile.gettempdir())
    first = parallel.rank() == 0
    with aside(place) if first else nullcontext(place) as folder:
        yield Path(parallel.of_first(str(folder)))
        parallel.wait()


def rehearse(
    folder: Path, training: Training, examine: Examine | None, flop: float, clock: Clock
) -> Rehearsed:
    """Steps and ticks by turns, each tick with an exam and a sheet."""
    run, seen = Run(folder), Rehearsed()
    rehearsed = loop.Loop(run, training, 0.0, flop, examine, lambda clock, logs: None)
    rehearsed.looks = Ticks(training.total, training.batch, training.batch)  # after any step
    with closing(rehearsed.tracker):
        for _ in range(TICKS):
            training.step()  # what a tick has pushed out of the caches comes back
            some_steps(training, seen, clock)
            begun, wall = clock(), time.perf_counter()
            rehearsed.tick()
            seconds, wall = clock() - begun, time.perf_counter() - wall
            line = rehearsed.lines[-1]
            parts = {name: line.get(name, 0.0) * seconds / wall for name in ("exam_seconds", "sheet_seconds")}
            seen.ticks.append({"seconds": seconds, **parts})
            if parallel.anywhere(seconds > PATIENCE):
                break
    training.step()
    while parallel.anywhere(not known(seen.spells)):
        some_steps(training, seen, clock)
    if run.checkpoints.kept:  # the first process writes
        seen.sizes = {
            "checkpoint": size(*run.checkpoints.kept.values()) / len(run.checkpoints.kept),
            "model": size(run.path / "model.safetensors"),
            "line": size(run.path / "log.jsonl", run.path / "tensorboard") / len(rehearsed.lines),
        }
    return seen


def some_steps(training: Training, seen: Rehearsed, clock: Clock) -> None:
    """Steps all over the schedule, timed as the loop makes them: the device is waited for at the end only."""
    synchronize(training.device)
    begun, before, late = clock(), seen.steps, False
    while not late:
        if seen.steps % 8 == 0:  # not at each: an epoch's order is found once, and kept for its steps
            at_progress(training, (seen.steps * 0.618034) % 1)
        training.step()
        seen.steps += 1
        late = parallel.anywhere(clock() - begun > SPELL)
    synchronize(training.device)
    seen.spells.append((seen.steps - before, clock() - begun))


def known(spells: Sequence[tuple[int, float]]) -> bool:
    """Whether spells, (steps, seconds), are enough of them to tell how many steps a second makes.

    >>> known([(3, 1.5)] * 8), known([(3, 1.5), (2, 1.5)] * 4), known([(3, 1.5), (2, 1.5)] * 15)
    (True, False, True)
    """
    seconds = sum(seconds for _, seconds in spells)
    if len(spells) <= TICKS or not FEWEST * SPELL <= seconds < MOST * SPELL:
        return seconds >= MOST * SPELL
    rates = speeds(spells)
    error = statistics.stdev(rates) / math.sqrt(len(rates))
    return error <= ALIKE * statistics.mean(rates)


def speeds(spells: Sequence[tuple[int, float]]) -> list[float]:
    """Steps a second in each."""
    return [steps / seconds for steps, seconds in spells]


def summed(
    training: Training,
    flop: float,
    seen: Rehearsed,
    start: float,
    sheet: float,
    examine: Examine | None,
) -> Forecast:
    """The parts of a rehearsal, each as often as the whole training does it."""
    settings, batch = training.settings, training.batch
    whole = -(-training.total // batch) * batch  # the last batch is a whole one
    ticks = Ticks.of(training).in_all
    looks = ticks if examine is None else Ticks.of(training, examine.every).in_all
    steps, rates = whole / batch, speeds(seen.spells)
    timed, taken = map(sum, zip(*seen.spells, strict=True))
    rate = batch * timed / taken
    later = seen.ticks[1:] or seen.ticks  # the first does what later ones find done
    once = seen.ticks[0]["seconds"] - mean(later, "seconds")
    exam, drawn = mean(later, "exam_seconds"), mean(later, "sheet_seconds")
    saving = mean(later, "seconds") - exam - drawn
    more = max(0, int(whole / rate / loop.SAVE_EVERY) - ticks)  # checkpoints between ticks
    seconds_of = {
        "start": start + max(0.0, once),
        "steps": whole / rate,
        "exams": looks * exam,
        "sheets": looks * drawn,
        "checkpoints": (ticks + more) * saving,
    }
    state, model = seen.sizes["checkpoint"], seen.sizes["model"]
    stored = Ticks.parts(training, settings.averages).in_all if settings.averages else 0
    kept = min(settings.keep, ticks + more)
    disk_of = {
        "checkpoints": kept * state,
        "models": model * (1 if examine is None else 2),
        "snapshots": model * sum(2**i <= ticks for i in range(settings.snapshots)),
        "averages": model * stored,  # two of half precision
        "sheets": looks * sheet,
        "logs": ticks * seen.sizes["line"],
    }
    seconds, disk = sum(seconds_of.values()), sum(disk_of.values())
    others = seconds - seconds_of["steps"]
    most = disk if examine is None else disk + state
    return Forecast(
        images=whole,
        batch=batch,
        seconds=seconds,
        seconds_between=(others + steps / max(rates), others + steps / min(rates)),
        seconds_of=seconds_of,
        ticks=ticks,
        exams=0 if examine is None else looks,
        exam_images=0 if examine is None else examine.n,
        images_per_s=rate,
        flop_per_image=flop,
        memory_mib=peak_memory(training.device),
        disk_mib=disk,
        disk_most_mib=most,
        disk_peak_mib=most + state,
        disk_of=disk_of,
    )


def mean(ticks: Sequence[Mapping[str, float]], name: str) -> float:
    """Of an entry that all have."""
    return sum(tick[name] for tick in ticks) / len(ticks)


def size(*paths: Path) -> float:
    """MiB of files, and of all files in folders."""
    files = [f for p in paths for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


def encoded(data: DataSet) -> int:
    """Bytes of a sheet of training images as PNG: samples become like them, and noise compresses worse."""
    file = io.BytesIO()
    pictures.sheet(data.train.tensor(slice(0, 64))).save(file, format="PNG")
    return file.tell()
