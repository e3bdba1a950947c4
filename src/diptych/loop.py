"""The training loop; there is one.

It knows nothing of families: it draws batches and lets phases take their turns.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import diptych
from diptych import pictures
from diptych.budget import Budget
from diptych.data.images import DataSet
from diptych.device import keep_buffers
from diptych.errors import Diverged, RunError
from diptych.files import read_state, write_json, write_state, write_text
from diptych.probe import Plan, probe
from diptych.recipe import RecipeSpec
from diptych.runs import Run, read_lines, save_model, save_weights
from diptych.track import Examine, Tracker, Watch
from diptych.training import Settings, Training
from diptych.transfer import begin, transfer

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

    Raises RunError where `out` holds another run (unless `force`), Diverged where a number is not finite;
    on an interrupt writes a checkpoint and raises KeyboardInterrupt.
    """
    keep_buffers()
    run = Run(Path(out))
    description = describe(spec, data, arguments or {}, settings)
    recorded = claim(run, description, force, spec.defaults)
    if "images" not in recorded:
        if settings.init:  # before anything is written: what does not fit is no run
            transfer(build(spec, data, arguments or {}, settings, 1), settings.init)
        expected = expected or plan(spec, data, arguments=arguments, settings=settings)
        recorded = {**description, "images": expected.images, "probe": asdict(expected)}
        write_json(run.path / "recipe.json", recorded)
    training = build(spec, data, arguments or {}, settings, recorded["images"])
    seconds = resume(run, training) if run.state_file.exists() else begin(training)
    training.compile()
    if examine is not None and not training.finished:
        examine = settle(run, training, examine, recorded)
    loop = Loop(run, training, seconds, recorded["probe"]["flop_per_image"], examine, watch)
    with interrupts() as interrupted, closing(loop.tracker):
        loop.run_to_the_end(interrupted)
    return Run(run.path)


def settle(run: Run, training: Training, examine: Examine, recorded: Mapping[str, Any]) -> Examine:
    """Decides how the exam is to be done, once: recipe.json remembers it."""
    ticks = expected_ticks(training)
    seconds = recorded["probe"]["seconds"]
    settled = examine.settled(training.average, seconds, ticks, recorded.get("exam", {}))
    if recorded.get("exam") != settled.terms():
        write_json(run.path / "recipe.json", {**recorded, "exam": settled.terms()})
    return settled


def expected_ticks(training: Training) -> int:
    """How many there will be: fewer than asked for where a batch is longer."""
    return min(training.settings.ticks, -(-training.total // training.batch))


def before(run: Run, settings: Settings) -> Mapping[str, Any]:
    """recipe.json of an earlier start of this run under the same budget; empty where there was none."""
    there = (run.path / "recipe.json").exists()
    if not there or run.recipe["settings"]["budget"] != settings.budget:
        return {}
    return run.recipe


def plan(
    spec: RecipeSpec,
    data: DataSet,
    *,
    arguments: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),
) -> Plan:
    """What `train` would take, from a probe of a few steps that leaves nothing behind."""
    return probe(
        lambda total: build(spec, data, arguments or {}, settings, total), Budget.parse(settings.budget)
    )


def build(
    spec: RecipeSpec, data: DataSet, arguments: Mapping[str, Any], settings: Settings, total: int
) -> Training:
    """A training at its first step: the weights are a function of the seed."""
    torch.manual_seed(settings.seed)
    return Training(spec(data.train, **arguments), data.train, total, settings)


def describe(
    spec: RecipeSpec, data: DataSet, arguments: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """recipe.json: what must be the same for a run to be resumed."""
    card = asdict(data.card)
    card.pop("incidents")
    return {
        "recipe": spec.name,
        "arguments": spec.arguments(arguments),
        "data": card,
        "settings": asdict(settings),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what numbers could depend on."""
    return {"diptych": diptych.__version__, "torch": torch.__version__}


def claim(
    run: Run, description: Mapping[str, Any], force: bool, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """What recipe.json says already, or nothing. defaults: the recipe's own.

    Raises RunError where it says something else and not `force`.
    """
    if not (run.path / "recipe.json").exists():
        if run.path.is_dir() and any(run.path.iterdir()):
            raise RunError(f"{run.path} is not empty and not a run", "choose another --out")
        return {}
    recorded = dict(run.recipe)
    different = differences(recorded, description, defaults)
    if different and not force:
        raise RunError(
            f"{run.path} was made by another command:\n  " + "\n  ".join(different),
            "repeat the old arguments to resume, choose another --out, or go on with the new ones by --force",
        )
    if not different:
        return recorded
    budget = recorded["settings"]["budget"] != description["settings"]["budget"]
    keys = set() if budget else recorded.keys() & {"images", "probe", "exam"}
    merged = {**description, **{key: recorded[key] for key in keys}}
    if not budget:
        write_json(run.path / "recipe.json", merged)
    return merged


def differences(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """One line for each argument that changed. The device may change, compiling, and where the data lies."""
    ignored = {
        ("settings", "device"),
        ("settings", "compile"),
        ("data", "source"),
        ("data", "name"),
        ("data", "licence"),
    }
    unsaid = {
        "settings": asdict(Settings()),
        "arguments": defaults,
    }  # what runs of earlier versions could not set
    lines = [] if old["recipe"] == new["recipe"] else [f"recipe: {old['recipe']}, now {new['recipe']}"]
    for part in ("arguments", "data", "settings"):
        trees = ({**unsaid.get(part, {}), **tree[part]} for tree in (old, new))
        before, after = (json.loads(json.dumps(tree)) for tree in trees)
        lines += [
            f"{part}.{name}: {before.get(name)}, now {after.get(name)}"
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name) and (part, name) not in ignored
        ]
    return lines


def resume(run: Run, training: Training) -> float:
    """Takes up the state, and forgets log lines that were written after it.

    Returns the seconds spent so far.
    """
    state = read_state(run.state_file)
    try:
        training.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise RunError(f"{run.state_file} does not fit this recipe: {error}") from error
    kept = [line for line in read_lines(run.path / "log.jsonl") if line["images"] <= training.images]
    write_text(run.path / "log.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
    return float(state["seconds"])


class Loop:
    """Steps, ticks and checkpoints of one run."""

    def __init__(
        self, run: Run, training: Training, seconds: float, flop: float, examine: Examine | None, watch: Watch
    ) -> None:
        self.run, self.training, self.seconds, self.flop = run, training, seconds, flop
        self.examine, self.watch, self.tracker = examine, watch, Tracker(run.path)
        self.tick_images = -(-training.total // training.settings.ticks)
        lines = [line["exam"] for line in read_lines(run.path / "log.jsonl") if line["exam"]]
        self.exam: Mapping[str, float] = lines[-1] if lines else {}

    def run_to_the_end(self, interrupted: threading.Event) -> None:
        """Until the budget is spent, an interrupt, or a number that is not finite."""
        training = self.training
        saved = refreshed = time.monotonic()
        started = time.perf_counter()
        while not training.finished:
            before = training.images
            training.step()
            now = time.monotonic()
            due = self.due(before, 1)
            if due or interrupted.is_set() or now - refreshed > 0.5:
                training.check_finite()
                self.tell(training.logs.means())
                refreshed = now
            if due or interrupted.is_set() or now - saved > SAVE_EVERY:
                self.seconds += time.perf_counter() - started
                self.tick(before) if due else self.save()
                saved, started = time.monotonic(), time.perf_counter()
            if interrupted.is_set() and not training.finished:
                raise KeyboardInterrupt

    def due(self, before: int, every: int) -> bool:
        """Whether the step that began at `before` images came to a tick, of every k-th, or to the end."""
        images = every * self.tick_images
        return self.training.finished or self.training.images // images > before // images

    def tell(self, losses: Mapping[str, float]) -> None:
        """What the one who watches sees: losses, and the last exam."""
        self.watch(self.training.clock, {**{f"exam/{k}": v for k, v in self.exam.items()}, **losses})

    def tick(self, before: int) -> None:
        """A look at the averaged model, a log line, a checkpoint. The last step began at `before` images."""
        training, model = self.training, self.training.average
        training.settle()
        line: dict[str, Any] = {
            "images": training.images,
            "step": training.steps,
            "seconds": round(self.seconds, 3),
            "flop": self.flop * training.images,
            "losses": training.logs.means(),
            "exam": {},
            "finished": training.finished,
        }
        begun = time.perf_counter()
        looks = self.examine is None or self.due(before, self.examine.every)
        if self.examine is not None and looks:
            self.exam = line["exam"] = dict(self.examine(model))
            line |= {"exam_n": self.examine.n, "exam_seconds": since(begun)}
        if looks:
            drawn = time.perf_counter()
            sheet = pictures.sheet(model.sample(range(64)))
            pictures.save(sheet, self.run.path / "samples" / f"{training.images:012d}.png")
            line["sheet_seconds"] = since(drawn)
        save_model(model, self.run.path)
        if training.images // self.tick_images in [2**i for i in range(training.settings.snapshots)]:
            save_weights(model, self.run.snapshot(training.images))
        line["tick_seconds"] = since(begun)
        with (self.run.path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self.tracker.write(line)
        if line["exam"]:
            self.tell(line["losses"])
        training.logs.clear()
        self.save()

    def save(self) -> None:
        """The checkpoint; the log is written before it, so that resuming can cut the log to fit."""
        write_state(self.run.state_file, {**self.training.state_dict(), "seconds": self.seconds})


def since(start: float) -> float:
    """Seconds, to the millisecond."""
    return round(time.perf_counter() - start, 3)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of breaking off in the middle of a step."""
    event = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():  # the second time they mean it
            raise KeyboardInterrupt
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["Diverged", "Examine", "Plan", "Settings", "Watch", "plan", "train"]
