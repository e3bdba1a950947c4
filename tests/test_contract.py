"""What every recipe in the catalog must do. A new method is under this contract by being in the folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import brief, foreseen, made_up, train_unprobed
from diptych import catalog
from diptych.adversarial.latent import GeneratorModel
from diptych.errors import NotMeasurable, RunError, WrongUse
from diptych.model import Condition, Model, Noise
from diptych.recipe import RecipeSpec
from diptych.runs import Run, load_model
from diptych.saveable import from_tree, to_tree
from diptych.system.files import read_tensors
from diptych.training.loop import train
from diptych.training.posthoc import average
from diptych.training.probe import count_flops, turns
from diptych.training.state import Settings, Training

RECIPES = {name: brief(spec) for name, spec in catalog.recipes().items()}
for name in ("ddpmpp", "ncsnpp"):  # edm has three networks
    SMALL = {**RECIPES["edm"].small, "network": name}
    RECIPES = {**RECIPES, f"edm-{name}": replace(RECIPES["edm"], name=f"edm-{name}", small=SMALL)}
SETTINGS = Settings(budget="48-images", ticks=2, device="cpu", seed=3, averages=2)
# one recipe after the other: of several processes that share the tests, few train the same one
every_recipe = pytest.mark.parametrize("spec", RECIPES.values(), ids=RECIPES.keys(), scope="module")
PROBED = ("consistency", "dcgan", "dit", "iddpm", "noisy-classifier")  # of each kind of method one
FRESH = [sys.executable, str(Path(__file__).with_name("fresh.py"))]
Trained = Callable[[str], Run]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished run of a recipe, six steps long: trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def run(name: str) -> Run:
        spec = RECIPES[name]
        return train_unprobed(spec, made_up(), folder / name, arguments=spec.small, settings=SETTINGS)

    return run


@pytest.fixture(scope="module")
def sampled_elsewhere() -> Iterator[Callable[[Run], list[int]]]:
    """What a run samples in a process that knows nothing of its training: see fresh.py."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    with subprocess.Popen(FRESH, env=env, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin
        assert process.stdout
        asks, answers = process.stdin, process.stdout

        def sampled(run: Run) -> list[int]:
            print(run.path, file=asks, flush=True)
            found = json.loads(answers.readline())
            assert isinstance(found, list), found
            return found

        yield sampled


@every_recipe
def test_leaves_a_run_directory(spec: RecipeSpec, trained: Trained) -> None:
    run = trained(spec.name)
    assert run.finished
    assert run.spent["images"] == 48
    assert run.spent["flop"] == 48 * foreseen(SETTINGS).flop_per_image
    assert [line["images"] for line in run.log()] == [24, 48]
    assert all(np.isfinite(list(line["losses"].values())).all() for line in run.log())
    assert len(list((run.path / "samples").glob("*.png"))) == 2
    assert run.recipe["arguments"] == {**spec.defaults, **spec.small}
    for phase in spec(made_up().train, **spec.small).method.phases():
        assert f"{phase.name}_gradient" in run.log()[0]["losses"]


@every_recipe
def test_samples_do_not_depend_on_the_batch(spec: RecipeSpec, trained: Trained) -> None:
    model = trained(spec.name).model()
    together = model.sample(range(5))
    assert together.shape == (5, 1, 8, 8)
    assert together.dtype == torch.uint8
    for batch in (1, 3):
        apart = model.sample(range(5), batch=batch)
        assert (apart.int() - together.int()).abs().max() <= 1  # kernels differ by batch, up to one level
    assert not torch.equal(together[0], together[4])  # same label, other seed


@every_recipe
def test_knows_its_labels(spec: RecipeSpec, trained: Trained) -> None:
    model = trained(spec.name).model()
    assert model.classes == 4
    with torch.no_grad():
        for parameter in model.parameters():  # six steps teach a label next to nothing: make it loud
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    a, b = (model.sample([1], Condition(label=torch.tensor([label]))) for label in (0, 3))
    assert not torch.equal(a, b)
    with pytest.raises(WrongUse, match="out of range"):
        model.sample([1], Condition(label=torch.tensor([4])))
    with pytest.raises(WrongUse, match="text"):
        model.sample([1], Condition(text=["a cat"]))


@every_recipe
def test_an_interrupted_run_equals_an_uninterrupted_one(
    spec: RecipeSpec, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by SIGINT between two ticks, then continued: every tensor is the same bit for bit."""
    whole, step = trained(spec.name), Training.step
    stops = iter((1, 4))  # after this many steps in all
    stop_at = [next(stops)]

    def step_and_interrupt(training: Training) -> None:
        step(training)
        if training.steps == stop_at[0]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "step", step_and_interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_unprobed(spec, made_up(), tmp_path / "run", arguments=spec.small, settings=SETTINGS)
        assert not Run(tmp_path / "run").finished
        assert list(Run(tmp_path / "run").checkpoints.kept)[-1] == 8 * stop_at[0]
        stop_at[0] = next(stops, -1)
    resumed = train_unprobed(spec, made_up(), tmp_path / "run", arguments=spec.small, settings=SETTINGS)
    for file in (str(Path("checkpoints") / "000000000048.safetensors"), "model.safetensors"):
        (ours, _), (theirs, _) = (read_tensors(run.path / file) for run in (resumed, whole))
        assert ours.keys() == theirs.keys()
        different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        assert not different
    times = ("seconds", "tick_seconds", "sheet_seconds", "exam_seconds")
    logs = [
        [{k: v for k, v in line.items() if k not in times} for line in run.log()] for run in (resumed, whole)
    ]
    assert logs[0] == logs[1]
    for ours_png, theirs_png in zip(
        *(sorted((r.path / "samples").iterdir()) for r in (resumed, whole)), strict=True
    ):
        assert ours_png.read_bytes() == theirs_png.read_bytes()


@every_recipe
def test_a_changed_argument_is_refused(spec: RecipeSpec, trained: Trained) -> None:
    run = trained(spec.name)
    with pytest.raises(RunError, match=r"settings\.seed: 3, now 4"):
        train(
            spec,
            made_up(),
            run.path,
            arguments=spec.small,
            settings=Settings(**{**SETTINGS.__dict__, "seed": 4}),
        )
    with pytest.raises(RunError, match=r"arguments\.lr"):
        train(spec, made_up(), run.path, arguments={**spec.small, "lr": 0.123}, settings=SETTINGS)
    with pytest.raises(RunError, match="train_sha256"):
        train(spec, made_up(n=65), run.path, arguments=spec.small, settings=SETTINGS)
    again = train(spec, made_up(), run.path, arguments=spec.small, settings=SETTINGS)
    assert again.log() == run.log()  # finished: nothing happens


@every_recipe
def test_opens_in_a_fresh_process(
    spec: RecipeSpec, trained: Trained, sampled_elsewhere: Callable[[Run], list[int]]
) -> None:
    run = trained(spec.name)
    assert sampled_elsewhere(run) == run.model().sample(range(5)).flatten().tolist()


@every_recipe
def test_its_weights_are_averaged_afterwards(spec: RecipeSpec, trained: Trained) -> None:
    """What was stored in the middle comes back as it was stored, ready to sample."""
    found = average(trained(spec.name).path, sigma_rel=0.1, images=24, device="cpu")
    stored, _ = read_tensors(trained(spec.name).path / "averages" / "000000000024-0.100.safetensors")
    assert found.mixture.residual == 0
    for name, parameter in found.model.named_parameters():
        assert torch.equal(parameter, stored[name].float())
    assert found.model.sample(range(2)).shape == (2, 1, 8, 8)


@every_recipe
def test_tree_round_trip(spec: RecipeSpec, trained: Trained) -> None:
    model = trained(spec.name).model()
    tree = json.loads(json.dumps(to_tree(model)))
    twin = from_tree(tree)
    assert isinstance(twin, Model)
    assert to_tree(twin) == tree
    assert {k: v.shape for k, v in twin.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@every_recipe
def test_using_shares_weights(spec: RecipeSpec, trained: Trained) -> None:
    model = trained(spec.name).model()
    for setting in model.dial():
        twin = model.using(**setting)
        assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
        assert twin.sample([0, 1]).shape == (2, 1, 8, 8)
    with pytest.raises(WrongUse, match="no option"):
        model.using(nonsense=1)


@every_recipe
def test_has_a_density_or_says_why_not(spec: RecipeSpec, trained: Trained) -> None:
    """A finite one, or a reason."""
    model = trained(spec.name).model()
    image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    condition = Condition(label=torch.tensor([0, 3]))
    if isinstance(model, GeneratorModel) or spec.name == "consistency":
        with pytest.raises(NotMeasurable, match="density"):
            model.log_prob(image, condition)
        return
    found = model.log_prob(image, condition)
    assert found.shape == (2,)
    assert found.isfinite().all()
    assert not found.requires_grad


SHAPES = [
    ((1, 8, 8), 0),
    ((3, 9, 13), 2),
    ((4, 28, 28), 3),
    ((1, 32, 32), 0),
    ((3, 64, 64), 0),
    ((3, 256, 256), 2),
]


@every_recipe
@pytest.mark.parametrize(("shape", "classes"), SHAPES, ids=str)
def test_any_size_and_number_of_channels(spec: RecipeSpec, shape: tuple[int, int, int], classes: int) -> None:
    """One training step and one sample at each size, by arguments alone."""
    data = made_up(shape, n=4, classes=classes)
    arguments: dict[str, Any] = {**spec.small, "batch": 2}
    if spec.needs_labels and not classes:
        with pytest.raises(WrongUse, match="needs labels"):
            spec(data.train, **arguments)
        return
    training = Training(spec(data.train, **arguments), data.train, 8, Settings(device="cpu"))
    training.step()
    training.check_finite()
    label = torch.tensor([0, classes - 1]) if classes else None
    with torch.inference_mode():
        image = training.average.using(**training.average.dial()[0])(Noise([1, 2]), Condition(label=label))
    assert image.shape == (2, *shape)
    assert torch.isfinite(image).all()


@every_recipe
def test_what_an_image_takes_is_counted_at_any_moment(spec: RecipeSpec) -> None:
    """As the probe does: each phase takes its turn, due or not."""
    data = made_up().train
    training = Training(spec(data, **spec.small), data, 1000, SETTINGS)
    costs = turns(training, times=2)
    assert count_flops(training, costs) > 0
    training.check_finite()


@pytest.mark.parametrize("name", PROBED)
def test_a_probe_leaves_no_trace_in_what_is_trained(name: str, trained: Trained, tmp_path: Path) -> None:
    """It costs what its plan says, and else is the same run bit for bit."""
    spec, whole = RECIPES[name], trained(name)
    run = train(spec, made_up(), tmp_path / "run", arguments=spec.small, settings=SETTINGS)
    assert run.recipe["probe"]["images"] == 48
    assert run.recipe["probe"]["probe_steps"] > 0
    assert run.spent["flop"] == 48 * run.recipe["probe"]["flop_per_image"] > 0
    hashes = [[line["weights_sha256"] for line in one.log()] for one in (run, whole)]
    assert hashes[0] == hashes[1]


def test_of_each_kind_of_method_one_is_probed() -> None:
    made = {name: type(spec(made_up().train, **spec.small).method) for name, spec in RECIPES.items()}
    assert {made[name] for name in PROBED} == set(made.values())


def test_from_run_loads_what_train_left(trained: Trained, tmp_path: Path) -> None:
    """consistency --teacher RUN starts from the teacher's averaged weights, whatever sizes are asked for."""
    spec = RECIPES["consistency"]
    teacher = trained("edm")
    recipe = spec(made_up().train, **spec.small, teacher=str(teacher.path))
    ours, theirs = recipe.method.model.state_dict(), load_model(teacher.path).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(p.requires_grad for p in recipe.method.model.parameters())
    train_unprobed(
        spec,
        made_up(),
        tmp_path / "tuned",
        arguments={**spec.small, "teacher": str(teacher.path)},
        settings=SETTINGS,
    )
    with pytest.raises(WrongUse, match="no denoiser"):
        spec(made_up().train, teacher=str(trained("r3gan").path))
    with pytest.raises(WrongUse, match="teacher"):
        spec(made_up((3, 8, 8)).train, teacher=str(teacher.path))
