"""Post-hoc averages: what is followed and stored; weights made of it against weights that were followed."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import brief, made_up, train_unprobed
from diptych import catalog
from diptych.cli import run as command
from diptych.data import open_data
from diptych.data.images import DataSet
from diptych.errors import RunError, WrongUse
from diptych.measuring.grading import grade
from diptych.measuring.profile_sweep import sweep_averages
from diptych.model import Condition, Noise
from diptych.networks.resgan import ResGenerator
from diptych.recipe import Averaging, RecipeSpec, power, power_exponent
from diptych.runs import Run
from diptych.system.files import read_json, read_tensors, write_json, write_tensors
from diptych.training.averages import FOLDER, Averages, Stored, forget_after, stored
from diptych.training.posthoc import Stock, average, blended
from diptych.training.profiles import HalfLife, Power, Profile, mixture
from diptych.training.state import Settings, Training
from diptych.training.ticks import Ticks

SETTINGS = Settings(budget="64-images", ticks=2, device="cpu", averages=4)
RECIPES = {name: brief(spec) for name, spec in catalog.recipes().items()}


def train(
    spec: RecipeSpec, data: DataSet, out: Path, settings: Settings = SETTINGS, force: bool = False
) -> Run:
    """Eight small steps."""
    return train_unprobed(spec, data, out, arguments=spec.small, settings=settings, force=force)


def vector(tensors: dict[str, Tensor]) -> Tensor:
    """All of them in one row, float64."""
    return torch.cat([tensor.detach().double().flatten() for _, tensor in sorted(tensors.items())])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Eight steps each of a diffusion model and of a GAN with batch norm."""
    folder = tmp_path_factory.mktemp("averages")
    return {
        name: train(
            RECIPES[name],
            made_up(),
            folder / name,
        )
        for name in ("edm", "sngan")
    }


# ------------------------------------------------------------------------------ following and storing


def test_weights_that_jump_are_a_power_of_the_time_since() -> None:
    """0 before s, 1 after it: 1 - (s / t)^(gamma + 1), for each profile."""
    model = nn.Linear(3, 2)
    followed = Averages(model, (0.05, 0.10, 0.2))
    for step in range(40):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float(step >= 25))
        followed.move(model, 8 * (step + 1), 8)
    for sigma_rel in (0.05, 0.10, 0.2):
        expected = 1 - (25 / 40) ** (power_exponent(sigma_rel) + 1)
        for tensor in followed.tensors(sigma_rel).values():
            torch.testing.assert_close(tensor, torch.full_like(tensor, expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("total", "batch", "moments", "expected"),
    [
        (800, 8, 4, [200, 400, 600, 800]),
        (100, 8, 4, [32, 56, 80, 104]),
        (100, 1, 3, [34, 68, 100]),
        (10, 8, 4, [8, 16]),  # steps longer than parts
    ],
)
def test_moments_are_a_function_of_the_clock(
    total: int, batch: int, moments: int, expected: list[int]
) -> None:
    moments_of = Ticks(total, batch, -(-total // moments))
    steps = range(batch, total + batch, batch)
    assert [images for images in steps if moments_of.due(images)] == expected


def test_stored_tensors_are_near_and_buffers_as_they_were(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50))
    with torch.no_grad():
        model[0].weight[0, 0] = 1e6  # more than float16 holds
    followed = Averages(model)
    followed.move(model, 8, 8)
    followed.store(tmp_path, model, 8)
    files = stored(tmp_path)
    assert files == [Stored.at(tmp_path, 8, 0.05), Stored.at(tmp_path, 8, 0.10)]
    assert [file.path.name for file in files] == [f"000000000008-{s}.safetensors" for s in ("0.050", "0.100")]
    tensors, about = read_tensors(files[0].path)
    assert tensors.keys() == model.state_dict().keys()
    assert about["sigma_rel"] == "0.05"
    assert torch.equal(tensors["0.weight"], model[0].weight)  # all of it as it is
    assert tensors["0.bias"].dtype == torch.float16
    torch.testing.assert_close(tensors["0.bias"].float(), model[0].bias.detach(), rtol=2**-11, atol=2**-25)
    assert torch.equal(tensors["1.running_var"], model[1].running_var)
    forget_after(tmp_path, 8)
    assert len(stored(tmp_path)) == 2
    forget_after(tmp_path, 7)
    assert not stored(tmp_path)
    assert stored(tmp_path / "nowhere") == []
    for name in ("000000000000-0.050", "٠٠٠٠٠٠٠٠٠٠٦٤-0.050", "000000000064-0.05 (copy)"):
        (tmp_path / f"{name}.safetensors").touch()
    assert stored(tmp_path) == []  # of no images nothing is an average; other files are not ours


def test_an_interrupted_run_follows_and_stores_the_same(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after one step and after five; what was stored past the checkpoint is made anew."""
    whole, spec, step = runs["sngan"], RECIPES["sngan"], Training.step
    stop_at = [1]

    def step_and_interrupt(training: Training) -> None:
        step(training)
        if training.steps == stop_at[0]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "step", step_and_interrupt)
    for then in (5, -1):
        with pytest.raises(KeyboardInterrupt):
            train(
                spec,
                made_up(),
                tmp_path / "run",
            )
        stop_at[0] = then
    late = Stored.at(tmp_path / "run" / FOLDER, 48, 0.05)
    late.path.write_bytes(b"of another course of things")
    resumed = train(
        spec,
        made_up(),
        tmp_path / "run",
    )
    ours, theirs = (stored(run.path / FOLDER) for run in (resumed, whole))
    assert [file.images for file in ours] == [16, 16, 32, 32, 48, 48, 64, 64]
    for one, other in zip(ours, theirs, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    states = [run.checkpoints.read(run.checkpoints.newest)["averages"] for run in (resumed, whole)]  # type: ignore[arg-type]
    for sigma_rel in ("0.05", "0.1"):
        assert all(torch.equal(t, states[1][sigma_rel][name]) for name, t in states[0][sigma_rel].items())


def test_after_going_back_it_is_as_if_the_weights_had_stood_still() -> None:
    """What is followed stays the average of one course of weights, whose profile is a power's."""
    data, spec = made_up().train, RECIPES["edm"]
    training = Training(spec(data, **spec.small), data, 96, SETTINGS)
    model, earlier = training.method.model, {}
    course: list[dict[str, Tensor]] = []
    for step in range(10):
        training.step()
        course.append({name: p.detach().clone() for name, p in model.named_parameters()})
        if step == 3:
            earlier = copy.deepcopy(training.state_dict())
        if step == 6:
            training.take_back(earlier)
            course[4:] = [course[3]] * 3
    assert training.averages is not None
    for sigma_rel in (0.05, 0.10):
        gamma = power_exponent(sigma_rel)
        shares = [((i + 1) / 10) ** (gamma + 1) - (i / 10) ** (gamma + 1) for i in range(10)]
        for name, tensor in training.averages.tensors(sigma_rel).items():
            expected = sum(
                share * weights[name].double() for share, weights in zip(shares, course, strict=True)
            )
            torch.testing.assert_close(tensor, expected.float(), atol=1e-6, rtol=1e-5)  # type: ignore[union-attr]


def test_what_was_not_followed_from_the_start_is_not_followed(tmp_path: Path) -> None:
    spec, none = RECIPES["edm"], replace(SETTINGS, averages=0)
    run = train(spec, made_up(), tmp_path / "run", settings=none)
    assert not (run.path / FOLDER).exists()
    with pytest.raises(RunError, match="not followed from the start"):
        train(spec, made_up(), run.path, force=True)
    with pytest.raises(RunError, match="stored no averages"):
        average(run.path, sigma_rel=0.15)


# -------------------------------------------------------------------------------------- made afterwards


def followed_directly(spec: RecipeSpec, directory: Path, moments: int) -> tuple[Training, list[Tensor]]:
    """A training of 32 steps that stores its averages, and the courses of others that were followed too."""
    data = made_up()
    torch.manual_seed(0)
    settings = replace(SETTINGS, averages=moments)
    training = Training(spec(data.train, **spec.small), data.train, 256, settings)
    model, courses = training.method.model, [Averages(training.method.model, [0.05]) for _ in DIRECT]
    for course, (keep, _) in zip(courses, DIRECT, strict=True):
        course.profiles = {0.05: keep}
    assert training.averages is not None
    while not training.finished:
        training.step()
        for course in courses:
            course.move(model, training.images, training.batch)
        if Ticks.parts(training, moments).due(training.images):
            training.averages.store(directory, model, training.images)
    return training, [vector(course.tensors(0.05)) for course in courses]


DIRECT: list[tuple[Averaging, Profile]] = [
    (power(0.15), Power.of(0.15, 256)),
    (power(0.2), Power.of(0.2, 256)),
    (lambda seen, step: 0.5 ** (step / 16), HalfLife(16, 256, ramp=0)),  # 2^-16 of the weights before it
]


@pytest.mark.parametrize("name", ["edm", "r3gan"])
def test_made_weights_are_those_that_were_followed(name: str, tmp_path: Path) -> None:
    """They miss by a small part of what lies between them and the averages that were stored."""
    training, direct = followed_directly(RECIPES[name], tmp_path, moments=16)
    files = stored(tmp_path)
    assert training.averages is not None
    known = vector(training.averages.tensors(0.05))
    powers = [Power.of(file.sigma_rel, file.images) for file in files]
    for truth, (_, wanted) in zip(direct, DIRECT, strict=True):
        found = mixture(wanted, powers)
        made = vector(blended(files, found.weights))
        assert (truth - known).norm() > 5e-4 * truth.norm()  # there is something to be told apart
        # a small part of the way, and what float16 rounds
        assert (made - truth).norm() < 0.03 * (truth - known).norm() + 3e-4 * truth.norm()
    exact = vector(blended(files, mixture(Power.of(0.05, 256), powers).weights))
    assert torch.equal(exact, vector({n: t.half() for n, t in training.averages.tensors(0.05).items()}))


def test_batch_norms_know_the_weights_that_they_serve(runs: dict[str, Run]) -> None:
    """Their means are those of the averaged weights' own activations, not those of a moment's weights."""
    run = runs["sngan"]
    found = average(run.path, sigma_rel=0.15, device="cpu")
    assert isinstance(found.model.network, ResGenerator)
    norms = [m for m in found.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [
        norm.register_forward_pre_hook(
            lambda m, given: seen.append((given[0].mean((0, 2, 3)), given[0].var((0, 2, 3))))
        )
        for norm in norms
    ]
    found.model.using(truncation=1.0)(Noise(range(512)), Condition(label=torch.arange(512) % 4))
    for hook in hooks:
        hook.remove()
    near, _ = read_tensors(found.files[-1].path)
    rest = [near[key] for key in near if key.endswith("running_var")]
    assert len(rest) == len(norms) == len(seen)
    for norm, stale, (mean, variance) in zip(norms, rest, seen, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert (norm.running_mean - mean).abs().max() < 0.15 * variance.sqrt().max()
        assert (norm.running_var / variance).log().abs().mean() < 0.1
        assert (stale / variance).log().abs().mean() > 2 * (norm.running_var / variance).log().abs().mean()


@pytest.mark.parametrize(
    "changes", [{"recipe": "of-somebody-else"}, {"arguments": {"width": "wide"}}], ids=["recipe", "arguments"]
)
def test_without_its_recipe_buffers_are_those_of_the_nearest_moment(
    changes: dict[str, Any], runs: dict[str, Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(runs["sngan"].path, twin)
    write_json(twin / "recipe.json", {**runs["sngan"].recipe, **changes})
    with caplog.at_level(logging.WARNING, "diptych"):
        model = average(twin, sigma_rel=0.15, images=30, device="cpu").model
    assert "nearest stored moment" in caplog.text
    near, _ = read_tensors(Stored.at(twin / FOLDER, 32, 0.05).path)
    ours = model.state_dict()
    assert all(torch.equal(ours[key], near[key]) for key in near if "running" in key)


def test_the_result_is_a_run(runs: dict[str, Run], tmp_path: Path) -> None:
    out, run = tmp_path / "b", runs["sngan"]
    made = average(run.path, half_life="20-images", ramp=0.2, device="cpu")
    saved = made.save(out)
    assert saved.finished
    assert saved.spent == run.spent
    about = saved.recipe["derived"]["averaged"]
    assert about["profile"] == "half-life 20 images on a ramp of 0.2"
    assert sum(about["weights"].values()) == pytest.approx(1)
    assert about["weights"].keys() == {path.name for path in (run.path / FOLDER).iterdir()}
    assert torch.equal(saved.model().sample([1, 2]), made.model.sample([1, 2]))
    assert not torch.equal(saved.model().sample([1, 2]), run.model().sample([1, 2]))
    (report,) = grade([out], made_up(), n=20, metrics=["fid"]).reports
    assert report.recipe == "sngan"
    with pytest.raises(WrongUse, match="already"):
        made.save(out)
    with pytest.raises(RunError, match="made of a run"):  # it would begin anew, over these
        train(
            RECIPES["sngan"],
            made_up(),
            out,
        )
    begun = replace(SETTINGS, init=str(out), averages=0)
    train(RECIPES["sngan"], made_up(), tmp_path / "c", settings=begun)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "one profile"),
        ({"sigma_rel": 0.1, "half_life": 100}, "one profile"),
        ({"sigma_rel": 0.1, "images": 65}, "up to 64 images"),
        ({"sigma_rel": 0.1, "images": 0}, "no moment"),
        ({"sigma_rel": 0.3}, "sigma_rel"),
        ({"sigma_rel": 0.01}, "missed by 5[0-9]"),
        ({"half_life": 1e4, "ramp": 0.0, "images": 64}, "missed by"),
        ({"half_life": "5m"}, "not in images"),
        ({"half_life": "soon"}, "not an amount"),
    ],
)
def test_profiles_that_are_refused(runs: dict[str, Run], wanted: dict[str, float], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        average(runs["edm"].path, device="cpu", **wanted)  # type: ignore[arg-type]


def test_a_profile_that_is_met_badly_is_warned_of(
    runs: dict[str, Run], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "diptych"):
        average(runs["edm"].path, sigma_rel=0.15, device="cpu")
        assert "missed by 10.2% of its norm" in caplog.text
        caplog.clear()
        average(runs["edm"].path, sigma_rel=0.12, device="cpu")
        assert not caplog.text


def test_files_of_another_kind_are_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    for change in ("bit", "format", "shape"):
        twin = tmp_path / change
        shutil.copytree(runs["edm"].path, twin)
        file = Stored.at(twin / FOLDER, 64, 0.05).path
        if change == "bit":
            content = bytearray(file.read_bytes())
            content[-100] ^= 1
            file.write_bytes(content)
        else:
            tensors, about = read_tensors(file)
            first = min(tensors)
            if change == "shape":
                del tensors[first]
            write_tensors(file, tensors, {**about, "format": "2" if change == "format" else "1"})
        with pytest.raises(RunError, match=r"damaged|format 2|other weights"):
            average(twin, sigma_rel=0.07, device="cpu")


# ------------------------------------------------------------------------------------- sweep and command


def test_sweep_measures_each_as_if_alone(runs: dict[str, Run], tmp_path: Path) -> None:
    found = sweep_averages(runs["sngan"].path, [0.05, 0.12], made_up(), n=30, metrics=["fid"], device="cpu")
    alone = average(runs["sngan"].path, sigma_rel=0.12, device="cpu").model
    report = grade([alone, runs["sngan"].path], made_up(), n=30, metrics=["fid"], device="cpu").reports
    assert found.sweep.reports[1].scores["fid"].value == pytest.approx(report[0].scores["fid"].value)
    assert found.trained.scores["fid"].value == pytest.approx(report[1].scores["fid"].value)
    values = [r.scores["fid"].value for r in found.sweep.reports]
    assert found.best == values.index(min(values))
    assert found.sweep.values[found.best] in found.alike
    found.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {f"sigma_rel.{kind}" for kind in ("json", "md", "svg")}
    assert read_json(tmp_path / "sigma_rel.json")["residuals"][0] == 0
    assert "| as trained |" in (tmp_path / "sigma_rel.md").read_text()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, run = RECIPES["r3gan"], tmp_path / "a"
    train(
        spec,
        open_data("digits"),
        run,
    )
    out = tmp_path / "b"
    assert command(["average", str(run), "--sigma-rel", "0.12", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["profile"] == "sigma_rel 0.12"
    assert 0 < told["residual"] < 0.1
    assert (out / "model.safetensors").exists()
    sweep = ["average", str(run), "--sweep", "0.05:0.13:0.04", "--n", "40", "--metric", "fid"]
    assert command([*sweep, "--out", str(tmp_path / "c")]) == 0
    told = capsys.readouterr().out
    assert "fid is best at sigma_rel" in told
    assert "as trained" in told
    assert (run / "sweeps" / "sigma_rel.svg").exists()
    best = read_json(run / "sweeps" / "sigma_rel.json")["best"]["fid"]
    assert Run(tmp_path / "c").recipe["derived"]["averaged"]["profile"] == f"sigma_rel {best:g}"
    assert command(["average", str(run), "--sigma-rel", "0.12"]) == 2
    assert "--out" in capsys.readouterr().err
    assert command([*sweep, "--half-life", "10-images"]) == 2
    assert command(["average", str(run), "--out", str(tmp_path / "d")]) == 2


def test_a_stock_is_read_once(runs: dict[str, Run]) -> None:
    """What is made of it does not change it."""
    stock = Stock(runs["edm"], "cpu")
    first = stock.averaged(Power.of(0.12, 64), "one")
    second = stock.averaged(Power.of(0.07, 64), "other")
    again = stock.averaged(Power.of(0.12, 64), "one")
    assert torch.equal(
        vector(dict(first.model.named_parameters())), vector(dict(again.model.named_parameters()))
    )
    assert not torch.equal(
        vector(dict(first.model.named_parameters())), vector(dict(second.model.named_parameters()))
    )
