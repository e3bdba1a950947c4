"""Who takes part in a duel, under which rules, and what is measured of each: every point on its dial."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from diptych import catalog, pictures
from diptych.choice import check_names
from diptych.data.images import DataSet
from diptych.errors import WrongUse, dimensions
from diptych.exam import Exam
from diptych.measuring.evaluation import PANEL, evaluate
from diptych.measuring.quick import check_asked
from diptych.measuring.subject import Subject, check_prompts, open_subject, recognise
from diptych.metrics.speed import measure_speed
from diptych.model import Model
from diptych.recipe import RecipeSpec
from diptych.report.record import Contender, DuelRecord
from diptych.runs import SOURCE, Run
from diptych.scores import Better, Estimate, Report, RulerCard, point_name, slug
from diptych.sheets import grid, neighbour_sheet
from diptych.system.files import read_json, write_json
from diptych.system.provenance import tensors_sha256
from diptych.training.state import Settings

log = logging.getLogger("diptych")


@dataclass(frozen=True)
class Entry:
    """Who takes part, under a name of its own: a recipe to train, or a model that is there already."""

    name: str
    spec: RecipeSpec | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""  # without a recipe: a run, a saved or converted model, a diffusers pipeline

    def opened(self, out: Path, device: str) -> Subject:
        """Its model: what was trained in the duel's directory, or what was there."""
        if self.spec is None:
            return open_subject(self.source, device=device, name=self.name)
        run = Run(out / self.name)
        return Subject(self.name, "run", run.model(device), recipe=self.spec.name, training=run.spent)


def ready(source: str, name: str = "") -> Entry:
    """A model that is there already as an entry. Raises DiptychError where there is none to be measured."""
    if recognise(source) == "images":
        raise WrongUse(f"{source} is no model: a duel measures speed and settings too", "diptych evaluate")
    name = name or slug(Path(source).resolve().name)
    if name in ("", ".", "..") or Path(name).name != name:
        raise WrongUse(f"{name!r} cannot be a contender's name: its folder is called so", f"mine={source}")
    return Entry(name, source=source)


def distinct(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, each with a folder of its own: a second one of a name is numbered, the first is not, so
    that it stays where it was before there was another."""
    taken, named = {entry.name for entry in entries}, list[Entry]()
    for entry in entries:
        name = entry.name
        if any(name == other.name for other in named):
            name = next(free for i in count(2) if (free := f"{entry.name}-{i}") not in taken)
            taken.add(name)
        named.append(replace(entry, name=name))
    return named


def check_ready(subject: Subject, data: DataSet) -> None:
    """Raises WrongUse for a model that makes other images than the data's, or knows fewer labels."""
    model, images = subject.asked, data.held_out
    assert isinstance(model, Model)
    if model.image_shape != images.shape:
        c, h, w = model.image_shape
        raise WrongUse(
            f"{subject.name} makes images of {dimensions(model.image_shape)}, not {dimensions(images.shape)}",
            f"--size {h} --channels {c}" if h == w else "another model, or other data",
        )
    told = 0 if images.attributes is None else images.attributes.shape[1]
    for what, known, asked in (
        ("classes", model.classes, images.classes),
        ("attributes", model.attributes, told),
    ):
        if known and asked > known:
            raise WrongUse(
                f"{subject.name} knows {known} {what}, not {asked}", "other data, or another model"
            )
    check_prompts(subject, images.captions)


def foreign(subject: Subject, data: DataSet, source: Path) -> str:
    """What is to be known of a model that was not trained in the duel; of converted ones the licence."""
    split = (subject.data or {}).get("held_out_sha256")
    unseen = "the held-out images here were held out there too"
    unknown = "whether it has seen the held-out images is not known"
    seen = unseen if split == data.card.held_out_sha256 else unknown
    told = read_json(source / SOURCE) if (source / SOURCE).is_file() else {}
    licence = f" Licence: {told['licence']}." if isinstance(told.get("licence"), str) else ""
    return f"{subject.name} ({subject.kind}) was there already and had a budget of its own; {seen}.{licence}"


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
        check_asked(self.exam)
        if self.n < 1:
            raise WrongUse(f"n is {self.n}", "n is how many images each score looks at, 1 or more")


def measured(
    entry: Entry, failed: str, data: DataSet, out: Path, rules: Rules, floor: Mapping[str, Estimate]
) -> Contender:
    """Every point on a contender's dial, measured once; reports that are there already are taken."""
    run = Run(out / entry.name)
    points: list[Report] = []
    samples: dict[str, str] = {}
    if not failed:
        subject = entry.opened(out, rules.settings.device)
        model = subject.asked
        assert isinstance(model, Model)
        names = {point_name(entry.name, setting): setting for setting in model.dial()}
        card = Exam(None, data, n=rules.n, seed=rules.settings.seed).card
        needed = {*floor, rules.best, *rules.at_most, *rules.at_least, "parameters", "latency_ms"}
        done = {name: report for name in names if (report := still_valid(run, name, subject, card, needed))}
        for name, setting in names.items():
            file = run.path / "samples" / f"{slug(name)}.png"
            samples[name] = str(file.relative_to(out))
            if name not in done:
                pictures.save(grid(model.using(**setting), data), file)
                neighbours_file(run, name).unlink(missing_ok=True)  # of the weights before these
        points = measured_points(entry, run, subject, names, done, data, rules, floor)
    trained = run.log() if entry.spec else []
    return Contender(
        name=entry.name,
        recipe=entry.spec.name if entry.spec else subject.recipe,
        arguments=entry.spec.arguments(entry.arguments) if entry.spec else {},
        run=entry.name,
        points=tuple(points),
        curve=tuple(trained),
        samples=samples,
        spent=run.spent if entry.spec else subject.training,
        failed=failed,
        weights_sha256=(trained or [{}])[-1].get("weights_sha256", "") if entry.spec else weights_of(subject),
    )


def measured_points(
    entry: Entry,
    run: Run,
    subject: Subject,
    names: Mapping[str, Mapping[str, Any]],
    done: Mapping[str, Report],
    data: DataSet,
    rules: Rules,
    floor: Mapping[str, Estimate],
) -> list[Report]:
    """One report for each setting; speed in one process of its own for all that are missing."""
    done, model = dict(done), subject.asked
    assert isinstance(model, Model)
    missing = [name for name in names if name not in done]
    speeds = measure_speed(model, [names[name] for name in missing]) if missing else []
    for name, speed in zip(missing, speeds, strict=True):
        log.info("measuring %s", name)
        here = model.using(**names[name])
        report = evaluate(
            here,
            data,
            name=name,
            recipe=subject.recipe,
            n=rules.n,
            seed=rules.settings.seed,
            metrics=PANEL,
            strict=False,
            floor=floor,
            run=entry.name,
            training=subject.training,
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
    record: DuelRecord, entry: Entry, contender: Contender, data: DataSet, out: Path, rules: Rules
) -> Contender:
    """The contender with the nearest training images of the point that the page shows of it."""
    name = record.headline(contender)
    if not name:
        return contender
    file = neighbours_file(Run(out / contender.run), name)
    if not file.exists():
        model = entry.opened(out, rules.settings.device).asked
        assert isinstance(model, Model)
        (setting,) = (each for each in model.dial() if point_name(contender.name, each) == name)
        pictures.save(neighbour_sheet(model.using(**setting), data), file)
    return replace(contender, neighbours=str(file.relative_to(out)), neighbours_of=name)


def still_valid(run: Run, name: str, subject: Subject, card: RulerCard, needed: Set[str]) -> Report | None:
    """A report from before, if it was made of these very weights with this very ruler, and has all of these.

    `diptych evaluate` may have left one of fewer scores.
    """
    file = report_file(run, name)
    if not file.exists():
        return None
    report = Report.from_json(read_json(file))
    same = report.ruler == card and report.training == subject.training and needed <= report.scores.keys()
    if subject.kind != "run" and report.provenance.get("weights_sha256") != weights_of(subject):
        return None  # a training's length tells of the weights of a run
    return report if same else None


def weights_of(subject: Subject) -> str:
    """The hash of a model's weights."""
    assert subject.model is not None
    return tensors_sha256(subject.model.state_dict())
