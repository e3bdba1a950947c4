"""The functions that people call: the same names as on the command line, and a sentence for a wrong one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from conftest import made_up
from diptych import autoguidance, catalog
from diptych.alarms import LEVEL
from diptych.api.trainings import repetitions
from diptych.choice import choose
from diptych.cli import VERBS, app
from diptych.contenders import Rules
from diptych.convert import official
from diptych.data import open_data
from diptych.diffusion.tuning import tune
from diptych.errors import RunError, WrongUse
from diptych.latent import mixing
from diptych.latent.inversion import InversionOptions
from diptych.measuring.grading import grade
from diptych.measuring.judging import judge
from diptych.measuring.profile_sweep import sweep_averages
from diptych.model import Model
from diptych.recipe import recipe
from diptych.runs import Run, save_model
from diptych.system.files import write_json
from diptych.training.posthoc import average
from diptych.training.state import Settings

DATA = made_up(n=64, classes=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved models with a denoiser, with one latent, and with a style for each layer."""
    folder = tmp_path_factory.mktemp("api")
    torch.manual_seed(0)
    for name in ("edm", "r3gan", "stylegan2"):
        spec = catalog.recipe(name)
        save_model(spec(made_up(classes=2).train, **spec.small).method.model, folder / name)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def edm(place: Path) -> Model:
    return diptych.load(place / "edm", "cpu")


# ------------------------------------------------------------------ names in Python and on the command line

Python = Callable[..., Any]
IN_PYTHON: dict[str, tuple[Python, ...]] = {
    "duel": (diptych.duel,),
    "train edm": (diptych.train,),
    "rerun": (diptych.rerun,),
    "edit mix": (diptych.mix,),
    "invert": (diptych.invert,),
    "evaluate": (diptych.compare,),
    "alarms": (diptych.judge,),
    "guide": (diptych.guide,),
    "average": (diptych.average, diptych.sweep_averages),
    "sweep": (diptych.sweep_option,),
    "tune-steps": (diptych.tune_steps,),
    "choose": (diptych.choose,),
    "export": (diptych.export,),
    "convert": (diptych.convert_pickle,),
    "data inspect": (diptych.inspect,),
    "recipes": (diptych.recipes,),
    **{f"edit {name}": (getattr(diptych.edit, name),) for name in diptych.edit.__all__},
}
NOT_IN_PYTHON = {
    "sample",
    "draw schedule",
    "edit direction",
}  # a model's own method, and what leaves pictures
SWEPT = {"size", "fit", "channels", "price", "floor"}  # a run that is swept has its own images
WITH_LABELS = {"attributes"}  # in Python `label` is either
ONLY_IN_ONE = {
    "duel": {"dry_run", "cache"},
    "train edm": {"dry_run", "cache"},
    "rerun": {"loosely"},  # .close beside .exact
    "alarms": {"copies", "fail"},
    "average": {"sweep", *SWEPT},
    "sweep": {"options", *SWEPT},  # on the command line each is a flag
    "evaluate": set[str](),
    "invert": WITH_LABELS,
    **{f"edit {name}": WITH_LABELS for name in diptych.edit.__all__},
    "edit mix": WITH_LABELS,
    "edit regions": set[str](),
    "edit interpolate": set[str](),
}
WRITTEN = {"json", "out"}  # what Python returns instead


def flags(words: str) -> list[set[str]]:
    """Each flag of a verb, by all its names as Python spells them; positional ones are not called by name."""
    verb = app
    for word in words.split():
        verb = verb[word]
    told = [one for one in verb.assemble_argument_collection() if one.parse and one.index is None]
    named = [{name.removeprefix("--").replace("-", "_") for name in one.names} for one in told]
    return [names for names in named if not names & {"*", "[KEYWORD]"}]


def keywords(function: Python) -> dict[str, inspect.Parameter]:
    """The arguments of a function that are told by name: all but those that must be there."""
    found = inspect.signature(function).parameters.values()
    return {p.name: p for p in found if p.kind is p.KEYWORD_ONLY or p.default is not p.empty}


@pytest.mark.parametrize("verb", IN_PYTHON)
def test_flags_are_called_as_arguments_are(verb: str) -> None:
    needed = [set(inspect.signature(function).parameters) for function in IN_PYTHON[verb]]
    ours = set().union(*(keywords(function) for function in IN_PYTHON[verb]))
    if verb == "train edm":
        needed.append({name.lower() for name in catalog.recipe("edm").defaults})  # the recipe's own
    theirs = flags(verb)
    known = ours.union(*needed)
    apart = {min(names) for names in theirs if not names & known}
    apart |= {name for name in ours if not any(name in names for names in theirs)}
    apart -= {"contenders"} if verb == "duel" else set()  # by place in Python
    assert apart - WRITTEN == ONLY_IN_ONE.get(verb, set())


def test_every_verb_has_a_place_in_the_table() -> None:
    groups = {"train", "edit", "data", "draw"}
    listed = {*IN_PYTHON, *NOT_IN_PYTHON}
    assert {words.split()[0] for words in listed} == set(VERBS)
    for group in groups - {"train"}:
        inside = {f"{group} {name}" for name in app[group] if not name.startswith("-")}
        assert inside == {words for words in listed if words.startswith(f"{group} ")}


OPEN_TO = {name: ["options"] for name in ("evaluate", "compare", "export", "mix", "invert")}
OPEN_TO["train"] = ["arguments"]


@pytest.mark.parametrize("name", diptych.api.__all__)
def test_a_signature_hides_nothing_but_what_is_others(name: str) -> None:
    function = getattr(diptych, name)
    parameters = inspect.signature(function).parameters.values()
    others = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    assert others == OPEN_TO.get(name, [])
    assert all(p.annotation is not p.empty for p in parameters)


@pytest.mark.parametrize("name", sorted({*diptych.api.__all__} - {"train", "duel", "evaluate"}))
def test_a_docstring_explains_each_argument(name: str) -> None:
    """Here or, of what all measurings are told, in `compare`; `train` and `duel` say where."""
    said = inspect.getdoc(getattr(diptych, name)) or ""
    said += (inspect.getdoc(diptych.compare) or "") if "as in `compare`" in said else ""
    plain = {"device", "label", "batch", "best", "at_most", "at_least"}
    assert not [word for word in set(keywords(getattr(diptych, name))) - plain if word not in said]


def defaults(function: Python) -> Mapping[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def of(kind: type) -> dict[str, Any]:
    return {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "theirs", "but"),
    [
        (diptych.train, of(Settings), ""),
        (diptych.duel, of(Settings), ""),
        (diptych.duel, of(Rules), "settings at_most at_least"),
        (diptych.train, defaults(open_data), "source"),
        (diptych.duel, defaults(open_data), "source"),
        (diptych.compare, defaults(grade), "rulers adjust"),
        (diptych.evaluate, defaults(grade), "sources rulers adjust"),
        (diptych.sweep_option, defaults(grade), "sources rulers adjust"),
        (
            diptych.sweep_averages,
            {**defaults(grade), **defaults(sweep_averages)},
            "sources rulers adjust settings",
        ),
        (diptych.average, defaults(average), ""),
        (diptych.judge, defaults(judge) | {"level": LEVEL}, ""),
        (diptych.guide, defaults(autoguidance.autoguided), ""),
        (diptych.choose, defaults(choose), "reports at_most at_least"),
        (diptych.tune_steps, defaults(tune), "steps"),
        (diptych.invert, of(InversionOptions), "jitter"),
        (diptych.mix, defaults(mixing.mix), ""),
        (diptych.convert_pickle, defaults(official.save), "converted out"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_defaults_are_those_of_what_is_called(ours: Python, theirs: Mapping[str, Any], but: str) -> None:
    mine = defaults(ours)
    for name in set(theirs) - set(but.split()):
        assert mine[name] == theirs[name], name


# ------------------------------------------------------------------------------- what cannot be meant


RULERS: dict[str, Any] = {"rulers": ["builtin"]}
WRONG: list[tuple[Callable[[Model], Any], str, str]] = [
    (lambda m: diptych.sweep_option(m, "steps", [1, 2], **RULERS), "sweep_option has no argument", "ruler"),
    (lambda m: diptych.tune_steps(m, seed=3), "tune_steps has no argument 'seed'", "seeds"),
    (lambda m: diptych.compare([m], DATA, **RULERS), "no option 'rulers'", "ruler"),
    (lambda m: diptych.evaluate(m, DATA, metric=["fid"]), "no option 'metric'", "metrics"),
    (lambda m: diptych.compare([m], DATA, stpes=4), "no option 'stpes'", "steps"),
    (lambda m: diptych.evaluate(DATA, DATA, metric=["fid"]), "images have no options", "metrics"),
    (lambda m: diptych.judge(m, DATA, lvl=0.1), "judge has no argument 'lvl'", "level"),
    (lambda m: diptych.average("run", sigma=0.1), "average has no argument 'sigma'", "sigma_rel"),
    (lambda m: diptych.guide("run", image=3), "guide has no argument 'image'", "images"),
    (lambda m: diptych.duel(DATA, "out", bugdet="1m"), "duel has no argument 'bugdet'", "budget"),
    (lambda m: diptych.train("edm", DATA, "out", bugdet="1m"), "edm has no argument 'bugdet'", "budget"),
    (lambda m: diptych.train("edm", DATA, "out", widht=8), "edm has no argument 'widht'", "width"),
    (lambda m: diptych.edit.panorama(m, 8, 12, seed=3), "no option 'seed'", "seeds"),
    (lambda m: diptych.edit.panorama(m, 8, 12, stps=3), "no option 'stps'", "steps"),
    (lambda m: diptych.export(m, "x.onnx", outt=3), "no option 'outt'", "out"),
]


@pytest.mark.parametrize(
    ("call", "says", "meant"), WRONG, ids=[f"{says} {meant}" for _, says, meant in WRONG]
)
def test_a_wrong_name_is_a_sentence_and_the_nearest(
    call: Callable[[Model], Any], says: str, meant: str, edm: Model
) -> None:
    with pytest.raises(WrongUse) as raised:
        call(edm)
    assert says in raised.value.message
    assert raised.value.hint == f"did you mean {meant}?"


def test_an_option_with_a_wrong_value_keeps_its_own_hint(edm: Model) -> None:
    with pytest.raises(WrongUse, match="steps must be at least 1") as raised:
        diptych.evaluate(edm, DATA, steps=0, n=16)
    assert "did you mean" not in raised.value.hint
    with pytest.raises(WrongUse, match="images have no options") as raised:
        diptych.evaluate(DATA, DATA, guidance=2)
    assert raised.value.hint == "leave the options out"


def test_what_opens_a_source_is_not_for_images_in_memory(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="size says how a source is opened"):
        diptych.train("edm", DATA, tmp_path / "run", size=8)
    assert not list(tmp_path.iterdir())


def test_a_recipe_of_ones_own_may_be_told_anything_else(tmp_path: Path) -> None:
    @recipe()
    def mine(data, *, depths=1):  # type: ignore[no-untyped-def]
        raise WrongUse(f"depths {depths}, classes {data.classes}")

    with pytest.raises(WrongUse, match="depths 3, classes 2"):
        diptych.train(mine, DATA, tmp_path / "run", depths=3, device="cpu", budget="16-images")


# ------------------------------------------------------------------------------------------------ rulers


def test_a_ruler_is_a_name_or_several(edm: Model) -> None:
    how: dict[str, Any] = {"n": 16, "metrics": ["fid"], "floor": False}
    both = diptych.compare([edm], DATA, ruler=["builtin", "diptych-0"], steps=1, **how)
    assert list(both.rulers) == ["diptych-1", "diptych-0"]
    for ruler in ("diptych-0", ["diptych-0"]):
        assert diptych.evaluate(edm, DATA, ruler=ruler, steps=1, **how).ruler.extractor == "diptych-0"
        swept = diptych.sweep_option(edm, "steps", [1, 2], against=DATA, ruler=ruler, **how)
        assert [report.ruler.extractor for report in swept.reports] == ["diptych-0"] * 2
    for several in (
        lambda: diptych.evaluate(edm, DATA, ruler=["builtin", "diptych-0"]),
        lambda: diptych.sweep_option(edm, "steps", [1, 2], against=DATA, ruler=("builtin", "diptych-0")),
        lambda: diptych.sweep_averages("run", [0.1, 0.2], DATA, ruler=["builtin", "diptych-0"]),
    ):
        with pytest.raises(WrongUse, match="with one ruler, not 2"):
            several()
    with pytest.raises(WrongUse, match="no ruler"):
        diptych.compare([edm], DATA, ruler=[])


# ------------------------------------------------------------------------------------- verbs in Python


def test_mixing_takes_a_run_and_its_options(place: Path) -> None:
    grid = diptych.mix(place / "stylegan2", range(2), [5, 6, 7], [0], label=1, device="cpu", truncation=0.7)
    assert grid.shape == (3, 4, 1, 8, 8)
    model = diptych.load(place / "stylegan2", "cpu")
    same = mixing.mix(model.using(truncation=0.7), [0, 1], [5, 6, 7], [0], label=torch.tensor(1))
    assert torch.equal(grid, same)
    with pytest.raises(WrongUse, match="needs a style for each layer"):
        diptych.mix(place / "r3gan", [0], [1])
    with pytest.raises(WrongUse, match="has no latent space"):
        diptych.mix(place / "edm", [0], [1])


def test_inverting_takes_pictures_folders_and_tensors(place: Path, tmp_path: Path) -> None:
    model = diptych.load(place / "r3gan", "cpu")
    image = model.sample([3])[0]
    file = tmp_path / "pictures" / "three.png"
    file.parent.mkdir()
    Image.fromarray(image[0].numpy()).save(file)
    (file.parent / "notes.txt").write_text("no picture")
    quick: dict[str, Any] = {"steps": 2, "candidates": 8, "label": 1}
    found = diptych.invert(model, [file.parent, image], **quick)
    assert found.points.names == (str(file), "1")
    assert torch.equal(found.points.latents[0], found.points.latents[1])
    alone = diptych.invert(place / "r3gan", file, device="cpu", **quick)
    assert torch.equal(alone.image, found.image[:1])
    assert torch.equal(diptych.invert(model, image, **quick).image, alone.image)
    assert found.points.label is not None
    assert found.points.label.tolist() == [1, 1]
    with pytest.raises(WrongUse, match="no pictures"):
        diptych.invert(model, [], **quick)
    with pytest.raises(WrongUse, match="truncation means nothing"):
        diptych.invert(model, image, truncation=0.5)
    with pytest.raises(WrongUse) as raised:
        diptych.invert(model, image, step=3)
    assert raised.value.hint == "did you mean steps?"


def test_a_repetition_goes_beside_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("duel/a", "duel/b"):
        write_json(tmp_path / name / "recipe.json", {})
    told: list[Any] = []
    monkeypatch.setattr("diptych.training.rerun.rerun", lambda run, out, **how: told.append((run, out, how)))
    diptych.rerun(tmp_path / "duel", data=tmp_path / "there", device="cpu")
    runs = [Run(tmp_path / "duel" / name) for name in "ab"]
    how = {"source": str(tmp_path / "there"), "device": "cpu"}
    assert told == [(run, tmp_path / "duel-again" / run.path.name, how) for run in runs]
    assert repetitions(tmp_path / "duel" / "a", tmp_path / "c") == [(runs[0], tmp_path / "c")]
    with pytest.raises(WrongUse, match="is the run itself"):
        diptych.rerun(tmp_path / "duel" / "a", tmp_path / "duel" / "a")
    with pytest.raises(RunError):
        diptych.rerun(tmp_path / "nowhere")


def test_a_stroke_is_a_variation_that_takes_more_noise(place: Path, edm: Model) -> None:
    how: dict[str, Any] = {"seeds": [1], "steps": 4}
    made = diptych.edit.stroke(edm, place / "photo.png", **how)
    assert torch.equal(made, diptych.edit.vary(edm, place / "photo.png", strength=0.7, **how))
    assert not torch.equal(made, diptych.edit.vary(edm, place / "photo.png", **how))


def test_annotations_that_people_may_ask_for() -> None:
    for name in ("train", "compare", "load", "class_names"):
        function = inspect.unwrap(getattr(diptych, name))
        assert get_type_hints(function)["return"] is not None
