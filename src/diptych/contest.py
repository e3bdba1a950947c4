"""The duel: contenders under one budget, one split, one ruler; then the choice, and a page to read."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diptych.alarms import LEVEL
from diptych.checking import made
from diptych.choice import choose
from diptych.contenders import Entry, Rules, check_ready, foreign, measured, with_neighbours
from diptych.data.images import DataSet
from diptych.errors import Alarmed, Diverged, NotMeasurable, WrongUse
from diptych.exam import Exam, shuffle
from diptych.measuring.evaluation import PANEL, floor_of, metrics_named, warned_once
from diptych.measuring.quick import QuickExam
from diptych.report.page import write_report
from diptych.report.record import DuelRecord
from diptych.runs import Run
from diptych.sheets import real_sheet
from diptych.system.files import expanded
from diptych.system.machine import machine
from diptych.system.provenance import versions
from diptych.training.claims import before
from diptych.training.loop import build, plan, train
from diptych.training.probe import Plan
from diptych.training.ticks import Ticks

log = logging.getLogger("diptych")
Watching = Callable[[str], Any]  # a contender's name -> a Watch for its training


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

    Killed and called again, it continues. Models that are there already are measured as they are.

    Each has the same budget, split, ruler and sampling seeds. A contender that diverges is reported as such.
    """
    out = expanded(out)
    started = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    check_measurable(data, rules)
    notes = tuple(admitted(entry, data, out) for entry in entries if entry.spec is None)
    start = starts(data, entries, out, rules)
    failed = dict.fromkeys((entry.name for entry in entries), "")  # why, where it did
    for entry in entries:
        if entry.spec is None:
            continue
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
        except (Alarmed, Diverged) as error:
            log.warning("%s: %s", entry.name, error.message)
            failed[entry.name] = error.message
    rules = replace(rules, n=min(rules.n, len(data.held_out)))
    floor = floor_of(data, n=rules.n, seed=rules.settings.seed, metrics=PANEL)
    with warned_once():  # of one n, what cannot be had of one point cannot be had of any
        contenders = [measured(entry, failed[entry.name], data, out, rules, floor) for entry in entries]
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
        notes=notes,
    )
    shown = [
        with_neighbours(record, entry, contender, data, out, rules)
        for entry, contender in zip(entries, contenders, strict=True)
    ]
    record = replace(record, contenders=tuple(shown))
    write_report(record, out)
    return record


def admitted(entry: Entry, data: DataSet, out: Path) -> str:
    """What is to be known of a model that is there already. Raises DiptychError where it cannot take part."""
    subject, place = entry.opened(out, "cpu"), out / entry.name
    if (place / "recipe.json").exists() and place.resolve() != expanded(entry.source).resolve():
        raise WrongUse(
            f"{place} holds a run of a contender of the same name", f"another name: mine={entry.source}"
        )
    check_ready(subject, data)
    return foreign(subject, data, expanded(entry.source))


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
        return {entry.name: Start(QuickExam.asked(data, rules.exam)) for entry in entries}
    found = {}
    for entry in entries:
        if entry.spec is None:
            continue
        recorded = before(Run(out / entry.name), rules.settings)
        expected = (
            made(Plan, recorded.get("probe", {}), f"probe in {out / entry.name / 'recipe.json'}")
            if recorded
            else plan(entry.spec, data, arguments=entry.arguments, settings=rules.settings)
        )
        training = build(entry.spec, data, entry.arguments, rules.settings, expected.images)
        examine = QuickExam(data, level=0).settled(
            training.whole(), expected.seconds, Ticks.of(training).in_all, recorded.get("exam", {})
        )
        found[entry.name] = examine, expected
    n = min((examine.n for examine, _ in found.values()), default=0)
    return {
        name: Start(replace(examine, size=n, seconds=examine.seconds * n / examine.n, level=LEVEL), expected)
        for name, (examine, expected) in found.items()
    }
