"""The training loop; there is one.

It knows nothing of families: it draws batches and lets phases take their turns.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from diptych import pictures
from diptych.budget import Budget
from diptych.data.images import DataSet
from diptych.errors import Diverged, RunError
from diptych.model import Model
from diptych.recipe import RecipeSpec
from diptych.runs import Run, best_of, read_lines, save_best, save_model, save_weights
from diptych.system import parallel
from diptych.system.device import deterministic, keep_buffers
from diptych.system.files import append_line, write_json
from diptych.system.interrupts import interrupts
from diptych.system.lock import check_writable, locked
from diptych.system.privacy import cleaned
from diptych.system.provenance import tensors_sha256
from diptych.system.shortage import enough_memory, remedy
from diptych.training import averages
from diptych.training.claims import claim, describe, unanimous
from diptych.training.probe import Plan, probe
from diptych.training.reactions import Reactions, check
from diptych.training.resumption import take_up
from diptych.training.state import Settings, Training
from diptych.training.ticks import Ticks
from diptych.training.track import ALARM, OK, Examine, Tracker, Watch, examining
from diptych.training.transfer import transfer

SAVE_EVERY = 600.0  # seconds between checkpoints where ticks are farther apart


def train(
    spec: RecipeSpec,
    data: DataSet,
    out: str | Path,
    *,
    arguments: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),
    examine: Examine | None = None,
    watch: Watch = lambda clock, logs: None,
    force: bool = False,
    expected: Plan | None = None,
) -> Run:
    """Trains until the budget is spent, and leaves a run directory.

    The same call again resumes, or returns at once. `expected` saves the probe where `plan` was asked before.
    Under torchrun (see diptych.system.parallel) every process calls it; the first one writes.

    Raises RunError where `out` holds another run (unless `force`) or another process is at work in it,
    Diverged where a number is not finite; on an interrupt writes a checkpoint and raises KeyboardInterrupt.
    """
    keep_buffers()
    run, first = Run(Path(out)), parallel.rank() == 0
    description = describe(spec, data, arguments or {}, settings)
    unanimous(description)
    with ExitStack() as held:
        held.enter_context(deterministic(settings.deterministic))
        held.enter_context(enough_memory("training", remedy(description)))
        begun = (run.path / "recipe.json").exists()
        if first:
            held.enter_context(locked(run.path)) if begun else check_writable(run.path)
        recorded = parallel.of_first(claim(run, description, force, spec.defaults) if first else None)
        if "images" not in recorded:
            if settings.init:  # before anything is written: what does not fit is no run
                transfer(build(spec, data, arguments or {}, settings, 1), settings.init)
            expected = expected or plan(spec, data, arguments=arguments, settings=settings)
            training = build(spec, data, arguments or {}, settings, expected.images)
            check(training, examine)
            recorded = {
                **description,
                **recorded,  # what was forced upon the run before
                "images": expected.images,
                "shards": training.shards,
                "probe": asdict(expected),
            }
            if first and not begun:
                held.enter_context(locked(run.path))
                unclaimed(run)
                write_json(run.path / "recipe.json", recorded)
        training = build(spec, data, arguments or {}, settings, recorded["images"], recorded.get("shards", 0))
        if settings.on_alarm == "firmer":
            training.method.firmer(1.0)  # raises where there are no penalties
        parallel.wait()  # until what the first process wrote is there to be read
        seconds = take_up(run, training)
        if first and begun and recorded != run.recipe:  # only now: what is forced upon a state may not fit it
            write_json(run.path / "recipe.json", recorded)
        training.compile()
        if examine is not None and not training.finished:
            examine = settle(run, training, examine, recorded)
        loop = Loop(run, training, seconds, recorded["probe"]["flop_per_image"], examine, watch)
        with interrupts() as interrupted, closing(loop.tracker):
            loop.run_to_the_end(interrupted)
    return Run(run.path)


def unclaimed(run: Run) -> None:
    """Raises RunError where another process began this run while this one was getting ready."""
    if (run.path / "recipe.json").exists():
        raise RunError(
            f"{run.path} was begun by another process just now", "the same command again resumes it"
        )


def settle(run: Run, training: Training, examine: Examine, recorded: Mapping[str, Any]) -> Examine:
    """Decides how the exam is to be done, once: recipe.json remembers it."""
    ticks, seconds = Ticks.of(training).in_all, recorded["probe"]["seconds"]
    model = training.whole()
    settled = examine.settled(model, seconds, ticks, recorded.get("exam", {}))
    if parallel.several():  # what was timed differs from process to process
        terms = parallel.of_first(dict(settled.terms()))
        settled = examine.settled(model, seconds, ticks, terms)
    if recorded.get("exam") != settled.terms() and parallel.rank() == 0:
        write_json(run.path / "recipe.json", {**recorded, "exam": settled.terms()})
    return settled


def plan(
    spec: RecipeSpec,
    data: DataSet,
    *,
    arguments: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),
) -> Plan:
    """What `train` would take, from a probe of a few steps that leaves nothing behind."""
    found = probe(
        lambda total: build(spec, data, arguments or {}, settings, total), Budget.parse(settings.budget)
    )
    return Plan(**parallel.of_first(asdict(found)))


def build(
    spec: RecipeSpec,
    data: DataSet,
    arguments: Mapping[str, Any],
    settings: Settings,
    total: int,
    shards: int = 0,
) -> Training:
    """A training at its first step: the weights are a function of the seed."""
    torch.manual_seed(settings.seed)
    return Training(spec(data.train, **arguments), data.train, total, settings, shards)


class Loop:
    """Steps, ticks and checkpoints of one run."""

    def __init__(
        self, run: Run, training: Training, seconds: float, flop: float, examine: Examine | None, watch: Watch
    ) -> None:
        self.run, self.training, self.seconds, self.flop = run, training, seconds, flop
        self.examine, self.watch, self.tracker = examine, watch, Tracker(run.path)
        self.ticks = Ticks.of(training)
        self.looks = self.ticks if examine is None else Ticks.of(training, examine.every)
        self.writes = parallel.rank() == 0
        self.lines = list(read_lines(run.path / "log.jsonl"))
        exams = [line["exam"] for line in self.lines if line.get("exam")]
        self.exam: Mapping[str, float] = exams[-1] if exams else {}
        self.reactions = Reactions(run, training, examine, self.lines)

    def run_to_the_end(self, interrupted: threading.Event) -> None:
        """Until the budget is spent, an interrupt, or a number that is not finite.

        What depends on the time, or comes from outside, all processes decide alike.
        """
        training = self.training
        self.reactions.begin()
        saved = refreshed = time.monotonic()
        started = time.perf_counter()
        while not training.finished:
            training.step()
            self.store()
            now, due = time.monotonic(), self.ticks.due(training.images)
            stop, look, late = parallel.everywhere(
                [interrupted.is_set(), now - refreshed > 0.5, now - saved > SAVE_EVERY]
            )
            if due or stop or look:
                if not self.reactions.recovers:
                    training.check_finite()
                self.tell(training.logs.means())
                refreshed = now
            if due or stop or late:
                self.seconds += time.perf_counter() - started
                self.tick() if due else self.save()
                saved, started = time.monotonic(), time.perf_counter()
            if stop and not training.finished:
                raise KeyboardInterrupt

    def store(self) -> None:
        """Writes the averages that others are made of afterwards, where the step came to a moment for it."""
        training = self.training
        followed, moments = training.averages, training.settings.averages
        if followed and Ticks.parts(training, moments).due(training.images):
            with suppress(Diverged):  # the next look at it says so
                training.check_finite()
                place = self.run.path / averages.FOLDER
                followed.store(place, training.method.model, training.images, self.writes)

    def tell(self, losses: Mapping[str, float]) -> None:
        """What the one who watches sees: losses, the last exam, and how bad alarms are: 1 or, ringing, 2."""
        told = {f"exam/{name}": value for name, value in self.exam.items()}
        told |= {f"alarm/{n}": 1.0 + (s == ALARM) for n, s in self.reactions.states.items() if s != OK}
        if self.writes:
            self.watch(self.training.clock, {**told, **losses})

    def tick(self) -> None:
        """A look at the averaged model, a log line, a checkpoint."""
        training = self.training
        line: dict[str, Any] = {
            "images": training.images,
            "step": training.steps,
            "seconds": round(self.seconds, 3),
            "flop": self.flop * training.images,
            "losses": training.logs.means(),
            "exam": {},
            "finished": training.finished,
        }
        try:
            training.check_finite()
        except Diverged as error:
            self.reactions.diverged(line, error)
            if self.writes:
                append_line(self.run.path / "log.jsonl", json.dumps(cleaned(line)))
        else:
            self.look(line)
        if line["exam"]:
            self.tell(line["losses"])
        training.logs.clear()
        self.reactions.go_back(line)
        self.lines.append(line)
        self.save()
        if self.writes and best_of(self.lines) is line:
            self.run.checkpoints.mark_best(training.images)
        self.reactions.stop(line)

    def look(self, line: dict[str, Any]) -> None:
        """The exam, what alarms say of it, and what is written of both."""
        training, begun = self.training, time.perf_counter()
        training.settle()
        model = training.whole()
        looks = self.looks.due(training.images)
        if self.examine is not None and looks:
            with examining(training.images):
                self.exam = line["exam"] = dict(self.examine(model))
            line["exam_n"] = self.examine.n
        self.reactions.judge(line, self.lines)
        if line["exam"]:
            line["exam_seconds"] = since(begun)
        if self.writes:
            self.write(line, model, begun, looks)

    def write(self, line: dict[str, Any], model: Model, begun: float, looks: bool) -> None:
        """What a tick leaves beside the checkpoint."""
        training, run = self.training, self.run
        if looks:
            drawn = time.perf_counter()
            sheet = pictures.sheet(model.sample(range(64)))
            pictures.save(sheet, run.path / "samples" / f"{training.images:012d}.png")
            line["sheet_seconds"] = since(drawn)
            if self.examine is not None and (found := self.examine.copies(line["alarms"])) is not None:
                file = run.path / "samples" / f"{training.images:012d}-copies.png"
                pictures.save(pictures.sheet(found, 8), file)
        save_model(model, run.path)
        if best_of([*self.lines, line]) is line:
            save_best(model, run, line)
        nth = self.ticks.passed(training.images)
        if nth.bit_count() == 1 and nth.bit_length() <= training.settings.snapshots:  # 1, 2, 4, 8 ...
            save_weights(model, run.snapshot(training.images))
        line["weights_sha256"] = tensors_sha256(model.state_dict())
        line["tick_seconds"] = since(begun)
        append_line(run.path / "log.jsonl", json.dumps(cleaned(line)))
        self.tracker.write(line)

    def save(self) -> None:
        """The checkpoint; the log is written before it, so that resuming can cut the log to fit."""
        if self.writes or self.training.settings.fsdp:  # what lies in shares, all bring together
            state = {**self.training.state_dict(), "seconds": self.seconds, "lines": len(self.lines)}
        if self.writes:
            self.run.checkpoints.write(self.training.images, state, self.training.settings.keep)
        parallel.wait()  # no process may end, and so end the others, while the first one writes


def since(start: float) -> float:
    """Seconds, to the millisecond."""
    return round(time.perf_counter() - start, 3)
