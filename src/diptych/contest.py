"""The duel: contenders under one budget, one split, one ruler; then the choice, and a page to read."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from diptych import catalog, pictures
from diptych.alarms import LEVEL
from diptych.checking import made
from diptych.choice import check_names, choose
from diptych.data.images import DataSet
from diptych.errors import Alarmed, Diverged, NotMeasurable, WrongUse
from diptych.exam import Exam, shuffle
from diptych.measuring.evaluation import PANEL, evaluate, floor_of, metrics_named, warned_once
from diptych.measuring.quick import QuickExam, check_number
from diptych.metrics.speed import measure_speed
from diptych.model import Model
from diptych.recipe import RecipeSpec
from diptych.report.page import write_report
from diptych.report.record import Contender, DuelRecord
from diptych.runs import Run
from diptych.scores import Better, Estimate, Report, RulerCard, point_name, slug
from diptych.sheets import grid, neighbour_sheet, real_sheet
from diptych.system.files import expanded, read_json, write_json
from diptych.system.machine import machine
from diptych.system.provenance import versions
from diptych.training.claims import before
from diptych.training.loop import build, expected_ticks, plan, train
from diptych.training.probe import Plan
from diptych.training.state import Settings

log = logging.getLogger("diptych")
Watching = Callable[[str], Any]  # a contender's name -> a Watch for its training


@dataclass(frozen=True)
class Entry:
    """Who takes part: a recipe with its arguments, under a name of its own."""

    name: str
    spec: RecipeSpec
    arguments: Mapping[str, Any] = field(default_factory=dict)


def measured_of_points() -> dict[str, Better]:
    """What a duel measures of each point, and which side is better: so what may be asked for is known."""
    known = catalog.metrics()
    return {score: side for name in (*PANEL, "speed") for score, side in known[name].scores.items()}


@dataclass(frozen=True)
class Rules:
    """What is the same for all contenders, and what decides."""

    settings: Settings = field(default_factory=Settings)
    n: int = 2000  # fakes and reals that each score looks at, at most
    exam: int | Literal["auto"] = "auto"  # the same at ticks of training; 0: none; auto: see QuickExam
    best: str = "fid"
    at_most: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(measured_of_points(), self.best, self.at_most, self.at_least)
        check_number(0 if self.exam == "auto" else self.exam)
        if self.n < 1:
            raise WrongUse(f"n is {self.n}", "n is how many images each score looks at, 1 or more")


def duel(
    data: DataSet,
    entries: Sequence[Entry],
    out: str | Path,
    *,
    rules: Rules = Rules(),
    watch: Watching | None = None,
    command: str = "",
    force: bool = False,
) -> DuelRecord:
    """Trains and measures every entry, chooses, and writes `out`/index.html.

    Killed and called again, it continues.

    Each has the same budget, split, ruler and sampling seeds. A contender that diverges is reported as such.
    """
    out = expanded(out)
    started = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    check_measurable(data, rules)
    start = starts(data, entries, out, rules)
    trained: dict[str, str] = {}  # name -> why it failed, or nothing
    for entry in entries:
        log.info("training %s", entry.name)
        try:
            train(
                entry.spec,
                data,
                out / entry.name,
                arguments=entry.arguments,
                settings=rules.settings,
                examine=start[entry.name].examine,
                expected=start[entry.name].expected,
                force=force,
                **({"watch": watch(entry.name)} if watch else {}),
            )
            trained[entry.name] = ""
        except (Alarmed, Diverged) as error:
            log.warning("%s: %s", entry.name, error.message)
            trained[entry.name] = error.message
    rules = replace(rules, n=min(rules.n, len(data.held_out)))
    floor = floor_of(data, n=rules.n, seed=rules.settings.seed, metrics=PANEL)
    with warned_once():  # of one n, what cannot be had of one point cannot be had of any
        contenders = [measured(entry, trained[entry.name], data, out, rules, floor) for entry in entries]
    points = [point for contender in contenders for point in contender.points]
    choice = choose(points, best=rules.best, at_most=rules.at_most, at_least=rules.at_least)
    record = DuelRecord(
        title=f"{data.card.name}: {', '.join(entry.name for entry in entries)}",
        data=asdict(data.card),
        contenders=tuple(contenders),
        choice=choice,
        budget=rules.settings.budget,
        seeds=[rules.settings.seed],
        machine=machine(rules.settings.device),
        versions=versions(),
        command=command,
        real_samples=real_sheet(data, out),
        created=started,
        notes=(),
    )
    shown = [with_neighbours(record, contender, data, out, rules) for contender in contenders]
    record = replace(record, contenders=tuple(shown))
    write_report(record, out)
    return record


def check_measurable(data: DataSet, rules: Rules) -> None:
    """Raises WrongUse where a score that decides or is limited cannot be had of this data, at this n.

    Found by measuring it of training images in the fakes' place. What is of the model or of the machine only
    cannot be known so early.
    """
    if not len(data.train):
        return
    held_out = len(data.held_out)
    # as many as a model draws, the same again where there are fewer
    rows = np.sort(np.resize(shuffle(len(data.train)), min(rules.n, held_out)))
    exam = Exam(None, data, n=rules.n, seed=rules.settings.seed, fakes=data.train.subset(rows))
    more = "look at more: --n" if rules.n < held_out else "keep more for measuring: --held-out"
    for name in dict.fromkeys((rules.best, *rules.at_most, *rules.at_least)):
        (metric,) = metrics_named([name])
        try:
            if not metric.cost:
                metric(exam)
        except NotMeasurable as error:
            role = "is to decide" if name == rules.best else "has a limit"
            hint = error.hint or f"{held_out:,} images are held out, n is {rules.n:,}; {more}"
            raise WrongUse(f"{name} {role} but cannot be measured here: {error.message}", hint) from error


class Start(NamedTuple):
    """What is known of a contender before it is trained."""

    examine: QuickExam | None
    expected: Plan | None = None


def starts(data: DataSet, entries: Sequence[Entry], out: Path, rules: Rules) -> dict[str, Start]:
    """The exam of every contender's training: of one n, the largest that all of them can afford."""
    if rules.exam != "auto":
        return {entry.name: Start(QuickExam(data, rules.exam) if rules.exam else None) for entry in entries}
    found = {}
    for entry in entries:
        recorded = before(Run(out / entry.name), rules.settings)
        expected = (
            made(Plan, recorded.get("probe", {}), f"probe in {out / entry.name / 'recipe.json'}")
            if recorded
            else plan(entry.spec, data, arguments=entry.arguments, settings=rules.settings)
        )
        training = build(entry.spec, data, entry.arguments, rules.settings, expected.images)
        examine = QuickExam(data, level=0).settled(
            training.whole(), expected.seconds, expected_ticks(training), recorded.get("exam", {})
        )
        found[entry.name] = examine, expected
    n = min(examine.n for examine, _ in found.values())
    return {
        name: Start(replace(examine, n=n, seconds=examine.seconds * n / examine.n, level=LEVEL), expected)
        for name, (examine, expected) in found.items()
    }


def measured(
    entry: Entry, failed: str, data: DataSet, out: Path, rules: Rules, floor: Mapping[str, Estimate]
) -> Contender:
    """Every point on a contender's dial, measured once; reports that are there already are taken."""
    run = Run(out / entry.name)
    points: list[Report] = []
    samples: dict[str, str] = {}
    if not failed:
        model = run.model(rules.settings.device)
        names = {point_name(entry.name, setting): setting for setting in model.dial()}
        card = Exam(None, data, n=rules.n, seed=rules.settings.seed).card
        needed = {*floor, rules.best, *rules.at_most, *rules.at_least, "parameters", "latency_ms"}
        done = {name: report for name in names if (report := still_valid(run, name, card, needed))}
        for name, setting in names.items():
            file = run.path / "samples" / f"{slug(name)}.png"
            samples[name] = str(file.relative_to(out))
            if name not in done:
                pictures.save(grid(model.using(**setting), data), file)
                neighbours_file(run, name).unlink(missing_ok=True)  # of the weights before these
        points = measured_points(entry, run, model, names, done, data, rules, floor)
    return Contender(
        name=entry.name,
        recipe=entry.spec.name,
        arguments=entry.spec.arguments(entry.arguments),
        run=entry.name,
        points=tuple(points),
        curve=tuple(run.log()),
        samples=samples,
        spent=run.spent,
        failed=failed,
        weights_sha256=(run.log() or [{}])[-1].get("weights_sha256", ""),
    )


def measured_points(
    entry: Entry,
    run: Run,
    model: Model,
    names: Mapping[str, Mapping[str, Any]],
    done: Mapping[str, Report],
    data: DataSet,
    rules: Rules,
    floor: Mapping[str, Estimate],
) -> list[Report]:
    """One report for each setting; speed in one process of its own for all that are missing."""
    done = dict(done)
    missing = [name for name in names if name not in done]
    speeds = measure_speed(model, [names[name] for name in missing]) if missing else []
    for name, speed in zip(missing, speeds, strict=True):
        log.info("measuring %s", name)
        here = model.using(**names[name])
        report = evaluate(
            here,
            data,
            name=name,
            recipe=entry.spec.name,
            n=rules.n,
            seed=rules.settings.seed,
            metrics=PANEL,
            strict=False,
            floor=floor,
            run=entry.name,
            training=run.spent,
        )
        done[name] = replace(report, scores={**report.scores, **speed})
        write_json(report_file(run, name), done[name].to_json())
    return [done[name] for name in names]


def report_file(run: Run, name: str) -> Path:
    """Where the report of a point is kept."""
    return run.path / "reports" / f"{slug(name)}.json"


def neighbours_file(run: Run, name: str) -> Path:
    """Where the nearest training images of a point are drawn."""
    return run.path / "samples" / f"neighbours-{slug(name)}.png"


def with_neighbours(
    record: DuelRecord, contender: Contender, data: DataSet, out: Path, rules: Rules
) -> Contender:
    """The contender with the nearest training images of the point that the page shows of it."""
    name = record.headline(contender)
    if not name:
        return contender
    run = Run(out / contender.run)
    file = neighbours_file(run, name)
    if not file.exists():
        model = run.model(rules.settings.device)
        (setting,) = (each for each in model.dial() if point_name(contender.name, each) == name)
        pictures.save(neighbour_sheet(model.using(**setting), data), file)
    return replace(contender, neighbours=str(file.relative_to(out)), neighbours_of=name)


def still_valid(run: Run, name: str, card: RulerCard, needed: Set[str]) -> Report | None:
    """A report from before, if it was made of this very training with this very ruler, and has all of these.

    `diptych evaluate` may have left one of fewer scores.
    """
    file = report_file(run, name)
    if not file.exists():
        return None
    report = Report.from_json(read_json(file))
    same = report.ruler == card and report.training == run.spent and needed <= report.scores.keys()
    return report if same else None
