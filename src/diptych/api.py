"""The verbs of the command line, in Python, with names and paths where objects are expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from diptych import catalog
from diptych.data import open_data
from diptych.data.images import DataSet, Images
from diptych.errors import WrongUse, did_you_mean
from diptych.given import fitted, fitting, plain
from diptych.measuring.grading import Grading, grade
from diptych.measuring.quick import QuickExam
from diptych.model import Model
from diptych.recipe import RecipeSpec
from diptych.runs import Run, load_model
from diptych.scores import Report
from diptych.system.files import expanded
from diptych.training.loop import train as run_training
from diptych.training.state import Settings

if TYPE_CHECKING:
    from diptych.choice import Choice
    from diptych.diffusion.model import DiffusionModel
    from diptych.diffusion.tuning import Tuned
    from diptych.exporter import Exported
    from diptych.measuring.judging import Judged
    from diptych.measuring.profile_sweep import ProfileSweep
    from diptych.measuring.sweep import Sweep
    from diptych.report.record import DuelRecord
    from diptych.training.posthoc import Averaged

Source = str | Path | DataSet
Measurable = str | Path | Model | Images | DataSet


def train(
    recipe: str | RecipeSpec,
    data: Source,
    out: str | Path,
    *,
    exam: int | Literal["auto"] = "auto",
    force: bool = False,
    **arguments: Any,
) -> Run:
    """Trains a recipe and returns its run directory; the same call again resumes, or returns at once.

    exam: samples scored at each tick; 0: none; "auto": as many as 5 % of the training's time allow.
    Keyword arguments are the recipe's flags (`width`, `gamma`), the training's (`budget`, `seed`; see
    `diptych.training.state.Settings`) and, where `data` is a path, those of `open_data` (`size`, `fit`).
    """
    spec = catalog.recipe(recipe) if isinstance(recipe, str) else recipe
    images = opened(data, arguments)
    settings = Settings(**taken(arguments, {f.name for f in fields(Settings)}))
    exam = fitting(exam, int | Literal["auto"], "exam", "auto")
    examine = None if exam == 0 else QuickExam(images, 0 if exam == "auto" else exam)
    force = fitting(force, bool, "force", False)
    return run_training(
        spec, images, out, arguments=arguments, settings=settings, examine=examine, force=force
    )


def load(run: str | Path, device: str = "auto") -> Model:
    """The model of a run directory, ready to sample: `load("runs/a").using(steps=4).sample(range(64))`."""
    return load_model(run, device)


def average(run: str | Path, **profile: Any) -> Averaged:
    """Another average of a run's weights than it was trained with: `average("runs/a", sigma_rel=0.15).model`.

    Keyword arguments are those of `diptych.training.posthoc.average` (`sigma_rel`, `half_life`, `ramp`,
    `images`); the run was trained with `averages=16`, say. `.save(out)` leaves a run directory.
    """
    from diptych.training.posthoc import average as averaged

    return averaged(run, **profile)


def sweep_averages(
    run: str | Path, values: Sequence[float], against: Source | None = None, **settings: Any
) -> ProfileSweep:
    """Measures a run with power averages of each sigma_rel: which is best, and whether that can be told.

    Keyword arguments are those of `diptych.measuring.profile_sweep.sweep_averages` (`n`, `metrics`,
    `images`).
    """
    from diptych.measuring.profile_sweep import sweep_averages as swept

    return swept(run, values, against, **settings)


def sweep_option(source: Measurable, option: str, values: Sequence[float | str], **settings: Any) -> Sweep:
    """Measures a model at each value of one of its options: `sweep_option("runs/b", "guidance", [1, 2, 3])`.

    Keyword arguments are those of `diptych.measuring.sweep.sweep` (`options`, `against`, `n`, `metrics`).
    `.best` says at which value each score is best, `.save(directory)` leaves tables and a drawing.
    """
    from diptych.measuring.sweep import sweep

    return sweep(source, option, values, **settings)


def guide(run: str | Path, weak: str | Path | None = None, **settings: Any) -> DiffusionModel:
    """A diffusion run's model, led away from a weaker one: a smaller run, or weights kept early in its own.

    Keyword arguments are those of `diptych.autoguidance.autoguided` (`images`, `guidance`).
    """
    from diptych.autoguidance import autoguided

    return autoguided(run, weak, **settings)


def tune_steps(model: Model | str | Path, steps: int = 10, **settings: Any) -> Tuned:
    """Noise levels that bring so many steps nearest to many: `tune_steps("runs/b", 8).model`.

    Keyword arguments are those of `diptych.diffusion.tuning.tune` (`seeds`, `others`, `fine`).
    Raises WrongUse for a model that takes no steps.
    """
    from diptych.diffusion.model import DiffusionModel
    from diptych.diffusion.tuning import tune

    loaded = model if isinstance(model, Model) else load_model(model)
    if not isinstance(loaded, DiffusionModel):
        raise WrongUse(f"a {type(loaded).__name__} has no steps", "tune_steps is for diffusion")
    return tune(loaded, steps, **settings)


def judge(source: Measurable, against: Source | None = None, **settings: Any) -> Judged:
    """What alarms say of a run or a saved model: collapse, quality, copying, and what its log tells.

    Keyword arguments are those of `diptych.measuring.judging.judge` (`n`, `level`).
    """
    from diptych.measuring.judging import judge as judged

    return judged(source, against, **settings)


def evaluate(
    source: Measurable, against: Measurable | None = None, *, n: int = 2000, seed: int = 0, **options: Any
) -> Report:
    """Measures a run, a saved model, a diffusers pipeline or images, as `compare` does: its report.

    Keyword arguments are those of `compare` (`ruler`, `metrics`, `split`, `size`) and the model's options.
    """
    return compare([source], against, n=n, seed=seed, **options).reports[0]


def compare(
    sources: Sequence[Measurable],
    against: Measurable | None = None,
    *,
    ruler: str | Sequence[str] = "builtin",
    **rest: Any,
) -> Grading:
    """Measures several sources against the same images: a report for each, and paired tests of each two.

    against: a data set, or another source; without it the held-out images of the data that the runs were
    trained on. ruler: "builtin", "inception:FILE", "dinov2:DIRECTORY", "clip:DIRECTORY", or several of them.
    Keyword arguments are those of `diptych.measuring.grading.grade` (`n`, `metrics`, `split`, `size`,
    `price`), and options of the models (`steps`).
    """
    settings = taken(rest, set(signature(grade).parameters) - {"sources", "against", "rulers", "adjust"})
    rulers = [ruler] if isinstance(ruler, str) else list(ruler)
    adjust = (lambda model: (model.using(**rest), rest)) if rest else None
    return grade(sources, against, rulers=rulers, adjust=adjust, **settings)


def choose(
    reports: Iterable[Report],
    *,
    best: str = "fid",
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
) -> Choice:
    """The best report under the constraints, the Pareto set, and the reason for each that was dropped."""
    from diptych.choice import choose as decide

    return decide(list(reports), best=best, at_most=at_most or {}, at_least=at_least or {})


def duel(
    data: Source,
    out: str | Path,
    contenders: Sequence[str | Path | tuple[str, Mapping[str, Any]]] = ("r3gan", "edm", "consistency"),
    **rules: Any,
) -> DuelRecord:
    """Trains contenders under one budget, measures them with one ruler, chooses, and writes `out`/index.html.

    A contender is a recipe's name, a name with arguments, or the path of a model that is there already: runs,
    converted weights and diffusers pipelines are measured as they are. Keyword arguments are the
    training's (`budget`), the rules' (`best`, `at_most`, `n`; see `diptych.contenders.Rules`) and those of
    `open_data`.
    """
    from diptych.contenders import Entry, Rules, distinct, ready
    from diptych.contest import duel as fight

    entries = []
    for each in contenders:
        name, arguments = each if isinstance(each, tuple) else (each, {})
        if str(name) not in catalog.recipes() and expanded(name).is_dir():
            entries.append(ready(str(name)))
        else:
            entries.append(Entry(str(name), catalog.recipe(str(name)), dict(arguments)))
    images = opened(data, rules)
    settings = Settings(**taken(rules, {f.name for f in fields(Settings)}))
    known = {f.name for f in fields(Rules)} - {"settings"}
    for name in rules:
        if name not in known:
            raise WrongUse(f"a duel has no rule {name!r}", did_you_mean(name, sorted(known)))
    chosen = fitted(rules, get_type_hints(Rules), vars(Rules()))
    return fight(images, distinct(entries), expanded(out), rules=Rules(settings=settings, **chosen))


def export(model: Model | str | Path, out: str | Path, **options: Any) -> Exported:
    """Writes a model, or a run's, as one ONNX file and checks it.

    Of a run the file knows what its classes are called. Keyword arguments are the model's options.
    """
    from diptych.exporter import export as exported

    loaded = model if isinstance(model, Model) else load_model(model, "cpu")
    names = () if isinstance(model, Model) else class_names(model)
    return exported(loaded.using(**options), expanded(out), class_names=names)


def class_names(run: str | Path) -> tuple[str, ...]:
    """What a run's labels 0, 1, 2 ... are called, as its recipe.json has it; () where that does not say."""
    found = Run(Path(run))
    if not (found.path / "recipe.json").is_file():
        return ()
    counts = found.recipe.get("data", {}).get("class_counts", {})
    return tuple(counts) if isinstance(counts, Mapping) else ()


def opened(data: Source, arguments: dict[str, Any]) -> DataSet:
    """The data set; arguments of `open_data` are taken out of `arguments`."""
    if isinstance(data, DataSet):
        return data
    known = {name: p.default for name, p in signature(open_data).parameters.items() if name != "source"}
    kinds = {**get_type_hints(open_data), "cache": str | None}  # a path is text by then
    return open_data(data, **fitted(taken(arguments, set(known)), kinds, known))


def taken(arguments: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Removes these names from `arguments` and returns them, made `plain`."""
    return {name: plain(arguments.pop(name)) for name in names & arguments.keys()}
