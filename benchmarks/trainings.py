"""How often alarms ring over whole trainings: healthy ones, ones that blow up, and ones on too few images.

    python benchmarks/trainings.py [--recipes sngan edm] [--rounds 20] [--planted 10] [--work runs/alarms]

Small networks on the built-in digits, an exam of 64 samples at each of twelve ticks. "Blows up": half-way
every weight is made three times as large. "Few": 48 training images. Each line of the log that an alarm has
judged counts; lines of one training depend on each other, so trainings with any are counted too. Started
again it goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import diptych
from diptych.alarms import Calibration, Watchman
from diptych.alarms.verdict import ALARM, OK
from diptych.data import open_data
from diptych.method import Clock
from diptych.metrics.intervals import wilson
from diptych.runs import Run
from diptych.training.state import Training
from paired import finish, parser, table
from small_data import first

WIDTH, EXAM, TICKS, FEW, LARGER = 16, 64, 12, 48, 3.0
WORLDS = ("healthy", "blows up", "few")
ALARMS = ("divergence", "overtraining", "overfit", "collapse", "quality", "copying")


def main() -> None:
    """Trains and counts."""
    flags = parser(__doc__ or "", rounds=20)
    flags.add_argument("--recipes", nargs="+", default=["sngan", "edm"])
    flags.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    flags.add_argument("--planted", type=int, default=10, help="trainings of each other kind")
    flags.add_argument("--budget", default="16k-images")
    flags.add_argument("--work", type=Path, default=Path("runs/alarms"))
    given = flags.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[str, dict[str, list[list[str]]]] = {}
    for world in given.worlds:
        for recipe in given.recipes:
            for seed in range(given.rounds if world == "healthy" else given.planted):
                run = trained(world, recipe, seed, given.budget, given.work)
                for alarm, states in judged(run).items():
                    found.setdefault(f"{recipe}, {world}", {}).setdefault(alarm, []).append(states)
    head = ["training", "alarm", "lines", "beyond chance", "alarm", "trainings", "with an alarm"]
    rows = [
        row(name, alarm, each)
        for name, alarms in found.items()
        for alarm in ALARMS
        if (each := alarms.get(alarm))
    ]
    table(head, rows)
    finish(found, given.out)


def trained(world: str, recipe: str, seed: int, budget: str, work: Path) -> Run:
    """One training of a kind."""
    data, out = open_data("digits"), work / f"{recipe}-{world.replace(' ', '-')}-{seed}"
    few = world == "few"
    how: dict[str, Any] = {"budget": budget, "ticks": TICKS, "seed": seed, "device": "cpu"}
    data = first(data, FEW, seed) if few else data
    with larger_half_way() if world == "blows up" else nullcontext():
        return diptych.train(recipe, data, out, exam=EXAM, width=WIDTH, batch=24 if few else 64, **how)


@contextmanager
def larger_half_way() -> Iterator[None]:
    """Within it, the step that reaches half of a training makes every weight larger, once."""
    step = Training.step

    def stepped(here: Training) -> None:
        before = here.images
        step(here)
        if before < here.total / 2 <= here.images:
            with torch.no_grad():
                torch._foreach_mul_(list(here.method.parameters()), LARGER)

    with mock.patch.object(Training, "step", stepped):
        yield


def judged(run: Run) -> Mapping[str, list[str]]:
    """The states of each alarm as of today, at the lines where it is not too early to tell."""
    log, known = run.log(), run.recipe["exam"]["calibration"]
    watchman = Watchman(Calibration.from_json(known) if known else None)
    found: dict[str, list[str]] = {}
    for end, line in enumerate(log, 1):
        clock = Clock(line["images"], log[-1]["images"], line["step"])
        for name, verdict in watchman.judge(log[:end], clock).items():
            if verdict.limit or verdict.state != OK:
                found.setdefault(name, []).append(verdict.state)
    return found


def row(name: str, alarm: str, trainings: Sequence[Sequence[str]]) -> list[str]:
    """A line of the table."""
    states = [state for each in trainings for state in each]
    rang = sum(any(state == ALARM for state in each) for each in trainings)
    cells = [share(sum(s != OK for s in states), len(states)), share(states.count(ALARM), len(states))]
    return [name, alarm, str(len(states)), *cells, str(len(trainings)), str(rang)]


def share(count: int, of: int) -> str:
    """In percent, with Wilson's interval."""
    low, high = wilson(count / of, of)
    return f"{100 * count / of:.1f} ({100 * low:.1f}..{100 * high:.1f})"


if __name__ == "__main__":
    main()
