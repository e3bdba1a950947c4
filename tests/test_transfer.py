"""A training that begins from another run: what is taken over, what is not, and what is said about it."""

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
from torch import Tensor

from conftest import brief, made_up, newest
from conftest import train_unprobed as train
from diptych import catalog
from diptych.cli.common import Pace
from diptych.errors import RunError, WrongUse
from diptych.recipe import Averaging, half_life, power
from diptych.runs import Run
from diptych.system.files import read_state, read_tensors
from diptych.training.loop import build
from diptych.training.state import Settings, Training
from diptych.training.transfer import begin, shrinks, transfer

GAN, EDM = catalog.recipe("dcgan"), brief(catalog.recipe("edm"))
BUDGET = Settings(budget="32-images", ticks=1, device="cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of a GAN with adaptive augmentation, and one of a diffusion model."""
    folder = tmp_path_factory.mktemp("source")
    given = {"dcgan": {"augment": "ada"}, "edm": {}}
    return {
        spec.name: train(
            spec, made_up(), folder / spec.name, arguments={**spec.small, **given[spec.name]}, settings=BUDGET
        )
        for spec in (GAN, EDM)
    }


def begun(spec: Any, data: Any, seed: int = 5, **arguments: Any) -> Training:
    return build(spec, data, {**spec.small, **arguments}, Settings(device="cpu", seed=seed), 1000)


def from_run(run: Run, **changes: Any) -> Settings:
    return Settings(**{**BUDGET.__dict__, "init": str(run.path), **changes})


@pytest.mark.parametrize("spec", [GAN, EDM], ids=lambda spec: spec.name)
def test_networks_and_averages_are_taken_over(spec: Any, source: dict[str, Run]) -> None:
    training, state = begun(spec, made_up()), read_state(newest(source[spec.name]))
    taken = transfer(training, str(source[spec.name].path))
    assert not taken.left
    assert taken.values == taken.values_in_all
    for ours, theirs in (
        (training.method.state_dict(), state["method"]),
        (training.average.state_dict(), state["average"]),
    ):
        assert ours
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not any(optimizer.state for optimizer in training.optimizers())
    assert (training.images, training.steps) == (0, 0)


def test_the_augmentation_begins_anew(source: dict[str, Run]) -> None:
    state = read_state(newest(source["dcgan"]))["method"]
    assert state["augment.turn"] > 0
    training = begun(GAN, made_up(), augment="ada")
    transfer(training, str(source["dcgan"].path))
    assert training.method.state_dict()["augment.turn"] == 0


def test_other_classes_keep_the_rest(
    source: dict[str, Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables of labels do not fit: they are as initialised, and the log names them with counts."""
    caplog.set_level(logging.INFO, "diptych")
    data = made_up(classes=3)
    fresh, training = begun(EDM, data), begun(EDM, data)
    taken = transfer(training, str(source["edm"].path))
    (left,) = taken.left
    assert left == "model.denoiser.network.label.table.weight"
    ours, initial = training.method.state_dict(), fresh.method.state_dict()
    assert torch.equal(ours[left], initial[left])
    assert not torch.equal(
        ours["model.denoiser.network.head.2.bias"], initial["model.denoiser.network.stem.bias"]
    )
    assert taken.values_in_all - taken.values == ours[left].numel()
    train(EDM, data, tmp_path / "run", arguments=EDM.small, settings=from_run(source["edm"]))
    (line,) = [record.getMessage() for record in caplog.records if "as initialised" in record.getMessage()]
    assert f"{taken.tensors} of {taken.tensors + 1} tensors" in line
    assert left in line


def warnings_of(
    caplog: pytest.LogCaptureFixture, spec: Any, run: Path, theirs: dict[str, Any], ours: dict[str, Any]
) -> list[str]:
    """What is warned of where a training with other arguments begins from a run."""
    data = made_up(classes=2)
    old = train(spec, data, run, arguments={**spec.small, **theirs}, settings=BUDGET)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "diptych"):
        training = build(spec, data, {**spec.small, **ours}, from_run(old), 1000)
        before = torch.random.get_rng_state()
        begin(training)
    assert torch.equal(torch.random.get_rng_state(), before)
    return [line for line in caplog.messages if "mean something else" in line]


def test_settings_that_no_shape_tells_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = catalog.recipe("stylegan2")
    theirs = {"label_gain": 0.1, "group": 2, "mixing": 0.5, "lr": 0.02}
    (said,) = warnings_of(caplog, spec, tmp_path / "a", theirs, {"label_gain": 1.0})
    assert "label_gain of the generator is 1.0, there it is 0.1" in said
    assert "group of the critic is 4, there it is 2" in said
    assert "mixing" not in said
    assert said.count("there it is") == 2


def test_a_denoisers_settings_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (said,) = warnings_of(caplog, brief(catalog.recipe("ddpm")), tmp_path / "a", {}, {"betas": "cosine"})
    assert "betas of the schedule is cosine, there it is linear" in said
    assert said.count("there it is") == 1


def test_sizes_that_shapes_tell_are_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = catalog.recipe("stylegan2")
    assert not warnings_of(caplog, spec, tmp_path / "a", {}, {})
    assert not warnings_of(caplog, spec, tmp_path / "b", {"width": 4, "architecture": "resnet"}, {"batch": 4})


def test_a_run_says_what_it_began_from_and_learns_faster(source: dict[str, Run], tmp_path: Path) -> None:
    settings = from_run(source["edm"], budget="8-images")
    arguments = {**EDM.small, "lr": 1e-12}
    run = train(EDM, made_up(), tmp_path / "run", arguments=arguments, settings=settings)
    assert run.recipe["settings"]["init"] == str(source["edm"].path)
    ours, _ = read_tensors(run.path / "model.safetensors")
    theirs, _ = read_tensors(source["edm"].path / "model.safetensors")
    assert all(
        torch.allclose(ours[key], theirs[key], atol=0.05) for key in ours
    )  # the averages forget quickly
    with pytest.raises(RunError, match=r"settings\.init"):
        train(
            EDM,
            made_up(),
            run.path,
            arguments=arguments,
            settings=Settings(**{**settings.__dict__, "init": ""}),
        )


@pytest.mark.parametrize("average", [half_life(), half_life(20), power(0.1)], ids=["long", "short", "power"])
def test_averages_that_were_taken_over_outlive_the_first_step(
    average: Averaging, source: dict[str, Run]
) -> None:
    """They are forgotten from the start as fast as an ordinary training forgets at its end."""
    data, settings = made_up(), from_run(source["dcgan"])

    def fresh(settings: Settings) -> Training:
        torch.manual_seed(0)
        return Training(replace(GAN(data.train, **GAN.small), average=average), data.train, 1000, settings)

    def kept(training: Training) -> Tensor:
        return torch.cat([p.detach().flatten().clone() for p in training.average.parameters()])

    def moving(training: Training) -> Tensor:
        return torch.cat([p.detach().flatten() for p in training.method.model.parameters()])

    training = fresh(settings)
    begin(training)
    before = kept(training)
    training.step()
    share = 1 - average(1000, 8)
    assert 0 < share < 0.25
    torch.testing.assert_close(kept(training), before.lerp(moving(training), share))
    resumed = fresh(settings)
    resumed.load_state_dict(copy.deepcopy(training.state_dict()))
    for one in (training, resumed):
        one.step()
    assert torch.equal(kept(training), kept(resumed))
    ordinary = fresh(BUDGET)
    ordinary.step()
    torch.testing.assert_close(kept(ordinary), moving(ordinary), rtol=1e-3, atol=1e-4)


def test_networks_that_grow_anew_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not by their level, which no flag sets."""
    spec = catalog.recipe("pggan")
    assert not warnings_of(caplog, spec, tmp_path / "a", {}, {})
    (said,) = caplog.messages
    assert "smallest size" in said
    assert "--grown 0" in said
    assert not warnings_of(caplog, spec, tmp_path / "b", {}, {"grown": 0.0})
    assert not [line for line in caplog.messages if "--grown" in line]
    training = begun(spec, made_up())
    assert shrinks(training)
    assert training.method.generator.level == 1.0  # type: ignore[union-attr]  # looked at, not set
    assert not shrinks(begun(GAN, made_up()))


def test_layers_that_are_frozen_as_they_were_initialised_are_warned_of(
    source: dict[str, Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    critic = begun(GAN, made_up()).method.critic  # type: ignore[union-attr]
    first = sum(weight.numel() for weight in critic.parts()[0].parameters())  # type: ignore[operator, union-attr]
    arguments = {**GAN.small, "freeze": 1}
    for name, settings in (
        ("alone", Settings(budget="8-images", device="cpu")),
        ("begun", from_run(source["dcgan"], budget="8-images")),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "diptych"):
            train(GAN, made_up(), tmp_path / name, arguments=arguments, settings=settings)
        told = [record.getMessage() for record in caplog.records if "hold still" in record.getMessage()]
        assert len(told) == (name == "alone")
        assert not told or (told[0].startswith(f"{first:,} of ") and "--init" in told[0])


def test_an_interrupted_run_does_not_begin_again(
    source: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and continued, it equals the uninterrupted one bit for bit."""
    settings, arguments = from_run(source["dcgan"]), {**GAN.small, "augment": "ada"}
    whole = train(GAN, made_up(), tmp_path / "whole", arguments=arguments, settings=settings)
    step = Training.step

    def interrupt(training: Training) -> None:
        step(training)
        if training.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(GAN, made_up(), tmp_path / "run", arguments=arguments, settings=settings)
    resumed = train(GAN, made_up(), tmp_path / "run", arguments=arguments, settings=settings)
    for file in (str(newest(whole).relative_to(whole.path)), "model.safetensors"):
        (ours, _), (theirs, _) = (read_tensors(run.path / file) for run in (resumed, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_what_does_not_fit_is_refused_before_anything_is_written(
    source: dict[str, Run], tmp_path: Path
) -> None:
    for spec, init, reason in (
        (EDM, str(source["dcgan"].path), "nothing in .* fits"),
        (EDM, str(tmp_path / "nowhere"), "cannot begin from .*nowhere: there is no"),
    ):
        settings = Settings(budget="8-images", device="cpu", init=init)
        with pytest.raises(WrongUse, match=reason):
            train(spec, made_up(), tmp_path / "run", arguments=spec.small, settings=settings)
        assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.json").write_text("{}")
    with pytest.raises(WrongUse, match=r"model\.safetensors"):
        transfer(begun(EDM, made_up()), str(tmp_path / "empty"))


def test_a_model_without_a_training_state_lends_its_model(source: dict[str, Run], tmp_path: Path) -> None:
    """As weights have that were converted."""
    for file in ("model.json", "model.safetensors"):
        shutil.copy(source["dcgan"].path / file, tmp_path / file)
    training = begun(GAN, made_up())
    taken = transfer(training, str(tmp_path))
    theirs, _ = read_tensors(tmp_path / "model.safetensors")
    for ours in (training.method.model.state_dict(), training.average.state_dict()):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert taken.left
    assert all(key.startswith("critic.") for key in taken.left)


def test_runs_from_before_the_setting_go_on(source: dict[str, Run], tmp_path: Path) -> None:
    shutil.copytree(source["edm"].path, tmp_path / "old")
    recipe = json.loads((tmp_path / "old" / "recipe.json").read_text())
    del recipe["arguments"]["augment"]
    del recipe["settings"]["init"]
    (tmp_path / "old" / "recipe.json").write_text(json.dumps(recipe))
    again = train(EDM, made_up(), tmp_path / "old", arguments=EDM.small, settings=BUDGET)
    assert again.finished


def test_the_command_line_knows_every_setting() -> None:
    assert Pace().__dict__ == Settings().__dict__


def test_too_few_images_for_a_batch_are_refused() -> None:
    data = made_up(n=7)
    with pytest.raises(WrongUse, match="7 images to train on are fewer than a batch of 8") as caught:
        begun(EDM, data)
    assert "--batch 3" in str(caught.value)
    begun(EDM, data, batch=7).step()


def test_what_a_penalty_learned_of_other_images_is_left(tmp_path: Path) -> None:
    """The lengths of paths, and a gamma that tuned itself."""
    given = {"path_length": 2.0, "gamma": "auto", "r1_every": 1}
    spec = catalog.recipe("stylegan2")
    run = train(spec, made_up(), tmp_path, arguments={**spec.small, **given}, settings=BUDGET)
    state, training = read_state(newest(run))["method"], begun(spec, made_up(), **given)
    own = [key for key in state if key.startswith("terms.")]
    assert own
    fresh = {key: training.method.state_dict()[key].clone() for key in own}
    assert any(not torch.equal(fresh[key], state[key]) for key in own)
    transfer(training, str(tmp_path))
    assert all(torch.equal(training.method.state_dict()[key], fresh[key]) for key in own)
