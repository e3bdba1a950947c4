"""Training in Python: one recipe, several against each other, a run once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import torch

from diptych import catalog
from diptych.arguments import opened, picked, spelled
from diptych.data.decode import Channels, Fit
from diptych.data.images import DataSet
from diptych.errors import WrongUse
from diptych.given import fitted, fitting
from diptych.measuring.quick import Asked, QuickExam
from diptych.recipe import RecipeSpec
from diptych.runs import Run
from diptych.system.files import expanded
from diptych.training.loop import train as run_training
from diptych.training.state import Settings

if TYPE_CHECKING:
    from diptych.report.record import DuelRecord
    from diptych.training.agreement import Agreement

SETTINGS = tuple(f.name for f in fields(Settings))
Reaction = Literal["warn", "stop", "rollback", "firmer"]


@spelled
def train(
    recipe: str | RecipeSpec,
    data: str | Path | DataSet,
    out: str | Path,
    *,
    budget: str = "10m",
    seed: int = 0,
    device: str | torch.device = "auto",
    precision: str = "auto",
    compile: bool = False,
    microbatch: int = 0,
    ticks: int = 10,
    exam: Asked = "auto",
    snapshots: int = 1,
    averages: int = 0,
    keep: int = 2,
    init: str | Path = "",
    on_alarm: Reaction = "warn",
    deterministic: bool = False,
    fsdp: bool = False,
    size: int | None = None,
    fit: Fit = "crop",
    channels: Channels | None = None,
    held_out: float | int | None = None,
    flip: bool = False,
    attributes: str | Sequence[str] | None = None,
    cache: str | Path | None = None,
    force: bool = False,
    **arguments: Any,
) -> Run:
    """Trains a recipe and returns its run directory; the same call again resumes, or returns at once.

    budget: "20M-images", "30m", "1.5h" or "5e17flop". exam: samples scored at each tick; 0: none; "auto": as
    many as 5 % of the training's time allow. force: go on though arguments changed. From `seed` to `fsdp` see
    `diptych.training.state.Settings`; from `size` to `cache`, for a `data` that is to be opened, see
    `diptych.open_data`. All other keyword arguments are the recipe's own (`width`, `lr`).
    Raises WrongUse for an argument that cannot be meant, DataError for images that cannot be read, RunError
    for a directory that holds another run.
    """
    given = dict(locals())
    spec = catalog.recipe(recipe) if isinstance(recipe, str) else recipe
    images = opened(data, given)
    settings = Settings(**picked(given, SETTINGS))
    examine = QuickExam.asked(images, fitting(exam, Asked, "exam", "auto"))
    force = fitting(force, bool, "force", False)
    return run_training(
        spec, images, out, arguments=arguments, settings=settings, examine=examine, force=force
    )


@spelled
def duel(
    data: str | Path | DataSet,
    out: str | Path,
    contenders: Sequence[str | Path | tuple[str, Mapping[str, Any]]] = ("r3gan", "edm", "consistency"),
    *,
    best: str = "fid",
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    n: int = 2000,
    exam: Asked = "auto",
    budget: str = "10m",
    seed: int = 0,
    device: str | torch.device = "auto",
    precision: str = "auto",
    compile: bool = False,
    microbatch: int = 0,
    ticks: int = 10,
    snapshots: int = 1,
    averages: int = 0,
    keep: int = 2,
    init: str | Path = "",
    on_alarm: Reaction = "warn",
    deterministic: bool = False,
    fsdp: bool = False,
    size: int | None = None,
    fit: Fit = "crop",
    channels: Channels | None = None,
    held_out: float | int | None = None,
    flip: bool = False,
    attributes: str | Sequence[str] | None = None,
    cache: str | Path | None = None,
    force: bool = False,
) -> DuelRecord:
    """Trains contenders under one budget, measures them with one ruler, chooses, and writes `out`/index.html.

    A contender is a recipe's name, a name with arguments, or the path of a model that is there already: runs,
    converted weights and diffusers pipelines are measured as they are. best: the score that decides among
    those whose scores are `at_most` and `at_least` so much ({"latency_ms": 50}). n: fakes and reals that each
    score looks at, at most. All others are as in `train`, for each contender.
    Raises WrongUse for what cannot be meant, and what the trainings raise, but for one that diverges.
    """
    from diptych.contenders import Entry, Rules, distinct, ready
    from diptych.contest import duel as fight

    given = dict(locals())
    entries = []
    for each in contenders:
        name, arguments = each if isinstance(each, tuple) else (each, {})
        if str(name) not in catalog.recipes() and expanded(name).is_dir():
            entries.append(ready(str(name)))
        else:
            entries.append(Entry(str(name), catalog.recipe(str(name)), dict(arguments)))
    images = opened(data, given)
    settings = Settings(**picked(given, SETTINGS))
    asked = {"n": n, "exam": exam, "best": best, "at_most": at_most or {}, "at_least": at_least or {}}
    rules = Rules(settings=settings, **fitted(asked, get_type_hints(Rules), vars(Rules())))
    force = fitting(force, bool, "force", False)
    return fight(images, distinct(entries), expanded(out), rules=rules, force=force)


@spelled
def rerun(
    run: str | Path, out: str | Path | None = None, *, data: str | Path = "", device: str = ""
) -> list[Agreement]:
    """Repeats a run from what it recorded: how the repetition agrees. Of a duel's directory, all of its runs.

    out: where it goes; None: beside the run, as RUN-again. data: where the data lies now; "": where it lay.
    device: another than then. `[0].exact` says whether all is the same to the bit, `.close` whether intervals
    of scores overlap. Raises DataError where the data is not that of then, RunError where there is nothing to
    repeat.
    """
    from diptych.training.rerun import rerun as repeated

    where, on = str(data), str(device)
    return [repeated(one, again, source=where, device=on) for one, again in repetitions(run, out)]


def repetitions(run: str | Path, out: str | Path | None = None) -> list[tuple[Run, Path]]:
    """The run of a directory, or a duel's, each with the directory of its repetition.

    Raises WrongUse where that is the run's own, RunError where there is no run.
    """
    from diptych.training.rerun import runs_in

    path = expanded(run)
    place = path.with_name(f"{path.resolve().name}-again") if out is None else expanded(out)
    if place.resolve() == path.resolve():
        raise WrongUse(f"{place} is the run itself", "choose another directory")
    return [(one, place if one.path == path else place / one.path.name) for one in runs_in(path)]
