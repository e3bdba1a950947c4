"""Budgets, schedules, the guard against NaN, --force, logs: what the loop promises whatever it trains."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import brief, made_up, newest
from conftest import train_unprobed as train
from diptych import catalog
from diptych.budget import Budget
from diptych.data.images import DataSet
from diptych.errors import Diverged, RunError, WrongUse
from diptych.method import Batch, Clock, Loss, adam, constant, warmup_cosine
from diptych.runs import Run
from diptych.system.files import read_state, read_tensors, write_json
from diptych.system.flops import FlopCounter
from diptych.training import loop
from diptych.training.claims import describe
from diptych.training.loop import plan
from diptych.training.probe import probe
from diptych.training.state import Settings, Training
from faults import Scores

EDM = brief(catalog.recipe("edm"))
GAN = catalog.recipe("r3gan")
SETTINGS = Settings(budget="48-images", ticks=2, device="cpu")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20M-images", Budget(2e7, "images")),
        ("640-images", Budget(640, "images")),
        ("1.5k images", Budget(1500, "images")),
        ("30m", Budget(1800, "seconds")),
        ("90s", Budget(90, "seconds")),
        ("1.5h", Budget(5400, "seconds")),
        ("1h30m", Budget(5400, "seconds")),
        ("1d 2h 10min 5s", Budget(94_205, "seconds")),
        ("20K-images", Budget(20_000, "images")),
        ("1,000-images", Budget(1000, "images")),
        ("1,250,000 images", Budget(1_250_000, "images")),
        ("5e17flop", Budget(5e17, "flop")),
        ("3PFLOP".lower().replace("pflop", "Pflop"), Budget(3e15, "flop")),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


WRONG = "|soon|30|-5m|0s|5 apples|1e400m|m|nan-images|1,5h|1,00-images|1h30|1.2.3h"


@pytest.mark.parametrize("text", WRONG.split("|"))
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(WrongUse, match="30m") as error:
        Budget.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1M", "of what? write 1M-images, or a time such as 30m"),
        ("5 epochs", "say it in images: 5 epochs of 10,000 are 50,000-images"),
        ("0.5-epoch", "say it in images: 0.5 epoch of 10,000 are 5,000-images"),
    ],
)
def test_budgets_that_are_nearly_one_say_how_to_write_it(text: str, hint: str) -> None:
    with pytest.raises(WrongUse) as raised:
        Budget.parse(text)
    assert raised.value.hint == hint
    Budget.parse(hint.split()[-1] if "epoch" in hint else "1M-images")


def test_a_budget_buys_images() -> None:
    assert Budget.parse("10s").images(rate=100, flops=1) == 1000
    assert Budget.parse("1e9flop").images(rate=1, flops=1e6) == 1000
    assert Budget.parse("7-images").images(rate=1, flops=1) == 7


def test_schedules() -> None:
    assert constant(Clock(5, 10, 1)) == 1
    assert warmup_cosine(Clock(0, 1000, 0)) < 0.1
    assert warmup_cosine(Clock(20, 1000, 0)) == pytest.approx(1)
    assert warmup_cosine(Clock(510, 1000, 0)) == pytest.approx(0.5)
    assert warmup_cosine(Clock(1000, 1000, 0)) == pytest.approx(0)
    assert warmup_cosine(Clock(1000, 1000, 0), final=0.25) == pytest.approx(0.25)


def test_flops_are_those_of_the_formula() -> None:
    """A linear layer of a by b costs 2ab forward, and twice that backward; the input needs no gradient."""
    training = Training(EDM(made_up().train, **EDM.small), made_up().train, 1000, Settings(device="cpu"))
    weight = torch.nn.Parameter(torch.randn(30, 20))

    def loss(batch: Batch, clock: Clock) -> Loss:
        return (batch.image.flatten(1)[:, :20] @ weight.T).square().mean(), {}

    training.phases = [replace(training.phases[0], loss=loss, optimizer=torch.optim.AdamW([weight]))]
    counted = probe(lambda total: training, Budget(100, "images"), steps=1, seconds=0).flop_per_image
    assert counted == 2 * (2 * 30 * 20)


def test_plan_predicts_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = plan(EDM, made_up(), arguments=EDM.small, settings=replace(SETTINGS, budget="2s"))
    assert expected.images == pytest.approx(2 * expected.images_per_s, rel=0.01)
    assert expected.disk_mib > 0
    assert expected.memory_mib > 0
    assert not list(tmp_path.iterdir())


class Breaks(Exception):
    """Planted."""


def poisoned(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """From this step on the second phase of r3gan is not finite."""
    from diptych.methods.adversarial import Adversarial

    healthy = Adversarial.generator_loss

    def loss(self: Adversarial, batch: Batch, clock: Clock) -> Loss:
        value, logs = healthy(self, batch, clock)
        return value * (math.nan if clock.step >= at else 1), logs

    monkeypatch.setattr(Adversarial, "generator_loss", loss)


def test_nan_stops_names_the_phase_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = catalog.recipe("r3gan")
    with monkeypatch.context() as patch:
        poisoned(patch, at=4)
        with pytest.raises(Diverged, match="'generator' was no longer finite in step 4"):
            train(spec, made_up(), tmp_path / "run", arguments=spec.small, settings=SETTINGS)
    run = Run(tmp_path / "run")
    assert [line["images"] for line in run.log()] == [24]
    tensors, _ = read_tensors(newest(run))
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    finished = train(spec, made_up(), run.path, arguments=spec.small, settings=SETTINGS)  # the cause is gone
    assert finished.finished


def test_force_goes_on_with_new_arguments(tmp_path: Path) -> None:
    run = train(EDM, made_up(), tmp_path / "run", arguments=EDM.small, settings=SETTINGS)
    longer = replace(SETTINGS, budget="96-images")
    with pytest.raises(RunError, match="48-images, now 96-images"):
        train(EDM, made_up(), run.path, arguments=EDM.small, settings=longer)
    again = train(EDM, made_up(), run.path, arguments=EDM.small, settings=longer, force=True)
    assert again.spent["images"] == 96
    assert [line["images"] for line in again.log()][:2] == [24, 48]
    assert again.recipe["settings"]["budget"] == "96-images"
    (forced,) = again.recipe["forced"]
    assert forced["after_images"] == 48
    assert "48-images, now 96-images" in forced["changes"][0]


def test_a_learning_rate_that_is_forced_is_the_one_that_trains(tmp_path: Path) -> None:
    loud, quiet = ({**GAN.small, "lr": lr} for lr in (1e-2, 1e-6))
    run = train(GAN, made_up(), tmp_path / "run", arguments=loud, settings=SETTINGS)
    before = read_state(newest(run))
    longer = replace(SETTINGS, budget="96-images")
    train(GAN, made_up(), run.path, arguments=quiet, settings=longer, force=True)
    after = read_state(newest(run))
    assert run.recipe["arguments"]["lr"] == 1e-6
    assert {g["peak_lr"] for o in before["optimizers"] for g in o["param_groups"]} == {1e-2}
    assert {g["peak_lr"] for o in after["optimizers"] for g in o["param_groups"]} == {1e-6}
    for key, weight in before["method"].items():
        if weight.is_floating_point():
            torch.testing.assert_close(after["method"][key], weight, rtol=0, atol=1e-4)


def test_optimizers_are_the_recipes_own_after_a_resume_and_else_as_they_were() -> None:
    """r1_every changes rates and decays of StyleGAN2's critic; EDM's rate follows a schedule."""

    def begun(name: str, **arguments: Any) -> Training:
        spec, data = catalog.recipe(name), made_up().train
        return Training(spec(data, **{**spec.small, **arguments}), data, 1000, Settings(device="cpu"))

    lazy, eager = (begun("stylegan2", r1_every=every) for every in (16, 4))
    lazy.step()
    wanted = [{**g, "params": 0} for o in eager.optimizers() for g in o.param_groups]
    eager.load_state_dict(lazy.state_dict())
    found = [{**g, "params": 0} for o in eager.optimizers() for g in o.param_groups]
    assert [group.pop("peak_lr") for group in found] == [group["lr"] for group in wanted]
    assert [group["betas"] for group in found] == [group["betas"] for group in wanted]
    assert found[0]["betas"] != lazy.phases[0].optimizer.param_groups[0]["betas"]

    whole, resumed = begun("edm"), begun("edm")
    for _ in range(2):
        whole.step()
    resumed.load_state_dict(whole.state_dict())
    ours, theirs = (repr([o["param_groups"] for o in t.state_dict()["optimizers"]]) for t in (resumed, whole))
    assert ours == theirs


@pytest.mark.parametrize("budget", ["48-images", "96-images"])
def test_what_is_forced_and_does_not_fit_leaves_the_run_as_it_was(budget: str, tmp_path: Path) -> None:
    run = train(GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=SETTINGS)
    before = (run.path / "recipe.json").read_bytes()
    wider, other = {**GAN.small, "width": 16}, replace(SETTINGS, budget=budget)
    with pytest.raises(RunError, match="does not fit this recipe"):
        train(GAN, made_up(), run.path, arguments=wider, settings=other, force=True)
    assert (run.path / "recipe.json").read_bytes() == before
    assert train(GAN, made_up(), run.path, arguments=GAN.small, settings=SETTINGS).finished


def test_force_turns_no_run_into_another_and_takes_nothing_back(tmp_path: Path) -> None:
    run = train(GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=SETTINGS)
    before = contents(run)
    with pytest.raises(RunError, match="is a run of r3gan"):
        train(EDM, made_up(), run.path, arguments=EDM.small, settings=SETTINGS, force=True)
    shorter = replace(SETTINGS, budget="16-images")
    with pytest.raises(RunError, match="has seen 48 images, more than the 16"):
        train(GAN, made_up(), run.path, arguments=GAN.small, settings=shorter, force=True)
    assert contents(run) == before


def contents(run: Run) -> dict[Path, bytes]:
    """Every file of a run but its lock, which tells of the last process."""
    files = (path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


def test_a_run_of_one_tick_is_finished_without_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be removed to save space; the last of its batches went beyond the budget."""
    settings = replace(SETTINGS, budget="44-images", ticks=1, averages=2)
    run = train(GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=settings)
    shutil.rmtree(run.path / "checkpoints")
    before = contents(run)
    assert run.log()[-1]["images"] > 44
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", lambda training: pytest.fail("it is over"))
        assert train(GAN, made_up(), run.path, arguments=GAN.small, settings=settings).finished
    assert contents(run) == before
    longer = replace(settings, budget="96-images")  # there is nothing to go on from
    with pytest.raises(RunError, match="checkpoints are gone"):
        train(GAN, made_up(), run.path, arguments=GAN.small, settings=longer, force=True)
    assert contents(run) == before


def test_a_run_that_was_begun_from_does_not_stop_a_resume(tmp_path: Path) -> None:
    """It was read at the start alone: since then it may have been trained on, or be gone."""
    first = train(GAN, made_up(), tmp_path / "first", arguments=GAN.small, settings=SETTINGS)
    settings = replace(SETTINGS, init=str(first.path))

    def stop(clock: Clock, logs: Any, after: int) -> None:
        if clock.images > after:
            raise KeyboardInterrupt

    for name, after in (("run", 24), ("early", 0)):  # of two ticks of 24 images: the second has no state yet
        watch = partial(stop, after=after)
        with pytest.raises(KeyboardInterrupt):
            train(GAN, made_up(), tmp_path / name, arguments=GAN.small, settings=settings, watch=watch)
    longer = replace(SETTINGS, budget="96-images")
    train(GAN, made_up(), first.path, arguments=GAN.small, settings=longer, force=True)
    with pytest.raises(RunError, match=r"weights of --init .* are others than when .*early was started"):
        train(GAN, made_up(), tmp_path / "early", arguments=GAN.small, settings=settings)
    assert train(GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=settings).finished
    shutil.rmtree(first.path)
    assert train(GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=settings).finished


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("keep")
    with pytest.raises(RunError, match="not empty and not a run"):
        train(EDM, made_up(), tmp_path, arguments=EDM.small, settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_the_exam_and_the_watch_are_told(tmp_path: Path) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    examine = Scores()

    def watch(clock: Clock, logs: Mapping[str, float]) -> None:
        seen.append((clock.images, dict(logs)))
        examine.images = clock.images

    how: dict[str, Any] = {"settings": SETTINGS, "examine": examine, "watch": watch}
    run = train(EDM, made_up(), tmp_path / "run", arguments=EDM.small, **how)
    last = run.log()[-1]
    assert [line["exam"]["fid"] for line in run.log()] == [5.5, 6.0]
    assert all(line["exam_n"] == 1 for line in run.log())
    assert 0 <= last["exam_seconds"] <= last["tick_seconds"]
    assert 0 <= last["sheet_seconds"] <= last["tick_seconds"]
    assert seen[-1][0] == 48
    assert seen[-1][1]["exam/fid"] == last["exam"]["fid"]  # the last exam is seen too
    assert seen[-1][1]["denoiser"] == last["losses"]["denoiser"]
    assert "exam/fid" not in seen[0][1]
    ((seconds, ticks, recorded),) = examine.asked
    assert seconds == run.recipe["probe"]["seconds"]
    assert (ticks, recorded) == (2, {})
    assert run.recipe["exam"] == {"n": 1, "every": 1}


def test_exams_at_every_third_tick_and_the_last(tmp_path: Path) -> None:
    settings = replace(SETTINGS, budget="80-images", ticks=10)
    run = train(
        GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=settings, examine=Scores(every=3)
    )
    assert [line["images"] for line in run.log()] == [8 * i for i in range(1, 11)]
    assert [line["images"] for line in run.log() if line["exam"]] == [24, 48, 72, 80]
    assert all(("exam_n" in line) == bool(line["exam"]) == ("sheet_seconds" in line) for line in run.log())
    assert sorted(int(file.stem) for file in (run.path / "samples").iterdir()) == [24, 48, 72, 80]


def test_ticks_shorter_than_a_batch_are_not_expected(tmp_path: Path) -> None:
    settings = replace(SETTINGS, budget="40-images", ticks=10)  # batches of 8
    examine = Scores(every=4)
    run = train(GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=settings, examine=examine)
    assert len(run.log()) == 5
    assert examine.asked[0][1] == 5
    # the fourth and the eighth of ten ticks lie at the ends of the second and of the fourth batch
    assert [line["images"] for line in run.log() if line["exam"]] == [16, 32, 40]


def test_another_exam_does_not_refuse_a_resume(tmp_path: Path) -> None:
    def stop(clock: Clock, logs: Mapping[str, float]) -> None:
        if clock.images > 24:  # a state was written
            raise KeyboardInterrupt

    where = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(GAN, made_up(), where, arguments=GAN.small, settings=SETTINGS, examine=Scores(), watch=stop)
    examine = Scores(n=3)
    run = train(GAN, made_up(), where, arguments=GAN.small, settings=SETTINGS, examine=examine)
    assert examine.asked[0][2] == {"n": 1, "every": 1}  # what was done before is told
    assert run.recipe["exam"] == {"n": 3, "every": 1}
    assert run.log()[-1]["exam_n"] == 3
    done = Scores(n=5)
    again = train(GAN, made_up(), where, arguments=GAN.small, settings=SETTINGS, examine=done)
    assert not done.asked  # there is nothing left to examine
    assert again.recipe["exam"] == {"n": 3, "every": 1}
    longer = replace(SETTINGS, budget="96-images")
    train(GAN, made_up(), where, arguments=GAN.small, settings=longer, examine=done, force=True)
    assert done.asked[0][1:] == (2, {})  # another budget: decided anew


def test_a_plan_that_was_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plan(GAN, made_up(), arguments=GAN.small, settings=SETTINGS)
    monkeypatch.setattr(loop, "probe", None)
    run = loop.train(
        GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=SETTINGS, expected=expected
    )
    assert run.recipe["probe"] == asdict(expected)


def test_tensorboard_gets_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(EDM, made_up(), tmp_path / "run", arguments=EDM.small, settings=SETTINGS)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("losses/denoiser")
    assert [event.step for event in scalars] == [24, 48]
    assert scalars[0].value == pytest.approx(run.log()[0]["losses"]["denoiser"], rel=1e-5)


def test_learning_rate_follows_the_clock_not_the_past() -> None:
    training = Training(EDM(made_up().train, **EDM.small), made_up().train, 1000, Settings(device="cpu"))
    phase = training.phases[0]
    shards = training.my_shards(0)
    for images in (500, 0, 500):
        training.take_turn(0, phase, shards, Clock(images, 1000, 0))
        peak = phase.optimizer.param_groups[0]["peak_lr"]
        expected = peak * warmup_cosine(Clock(images, 1000, 0))
        assert phase.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_gradient_is_clipped() -> None:
    training = Training(EDM(made_up().train, **EDM.small), made_up().train, 1000, Settings(device="cpu"))
    loud = replace(
        training.phases[0], loss=lambda batch, clock: (1e6 * training_loss(training, batch), {}), clip=0.5
    )
    training.take_turn(0, loud, training.my_shards(0), Clock(0, 1000, 0))
    norm = torch.stack([p.grad.norm() for p in loud.parameters if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(0.5, rel=1e-3)
    assert training.logs.means()["denoiser_gradient"] > 100  # what is logged is the norm before clipping


def training_loss(training: Training, batch: Batch) -> Tensor:
    return training.phases[0].loss(batch, Clock(0, 1000, 0))[0]


@pytest.mark.parametrize("lr", [-1.0, math.inf, math.nan])
def test_a_learning_rate_that_is_none_is_refused(lr: float) -> None:
    with pytest.raises(WrongUse, match="learning rate"):
        adam(torch.nn.Linear(1, 1), lr)


def test_a_batch_of_no_images_is_refused(data: DataSet) -> None:
    model = EDM(data.train, **EDM.small).method.model
    with pytest.raises(WrongUse, match="batch must be at least 1"):
        model.sample([0], batch=0)


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_each_gradient_of_a_convolution_counts_as_the_convolution(kind: Any, groups: int) -> None:
    """Grouped ones too, of which torch's formula counts the weight's gradient as of a full one."""
    layer, x = kind(16, 16, 3, padding=1, groups=groups), torch.randn(2, 16, 8, 8, requires_grad=True)
    with FlopCounter() as forward:
        y = layer(x).sum()
    assert forward.flops == 2 * 2 * 64 * 16 * (16 // groups) * 9
    for asked, times in (([x], 1), ([layer.weight], 1), ([x, layer.weight], 2)):
        with FlopCounter() as backward:
            torch.autograd.grad(y, asked, retain_graph=True)
        assert backward.flops == times * forward.flops


def test_the_best_weights_of_a_run_are_not_trained_on(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.best.mkdir(parents=True)
    described = describe(EDM, made_up(), EDM.small, SETTINGS)
    for folder in (run.path, run.best):
        write_json(folder / "recipe.json", described)
    with pytest.raises(RunError, match="made of a run, which cannot be trained on"):
        train(EDM, made_up(), run.best, arguments=EDM.small, settings=SETTINGS)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("edm", {"width": -8}, "width must be at least 0"),
        ("edm", {"width": 7}, "width must be even"),
        ("stylegan2", {"latent": 0}, "latent must be at least 1"),
        ("edm", {"batch": 0}, "batch must be at least 1"),
        ("sngan", {"batch": -1}, "batch must be at least 0"),
        ("edm", {"label_dropout": 10.0}, "from 0 to 1, not 10"),
        ("iddpm", {"label_dropout": 10.0}, "from 0 to 1, not 10"),
        ("adm", {"label_dropout": -1.0}, "from 0 to 1, not -1"),
        ("iddpm", {"width": 9}, "width must be even"),
        ("noisy-classifier", {"width": 9}, "width must be even"),
        ("edm", {"dropout": 2.0}, "dropout must be a share below 1, not 2.0"),
        ("stylegan2", {"label_gain": math.nan}, "label_gain must be finite, not nan"),
        ("stylegan2", {"path_length": math.inf}, "path_length must be finite, not inf"),
        ("edm2", {"sigma_data": 0.0}, "sigma_data must be above 0"),
        ("flow", {"t_std": math.nan}, "t_std must be finite"),
        ("noisy-classifier", {"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ("consistency", {"huber": -1.0}, "huber must be at least 0"),
        ("consistency", {"q": 1.0}, "q must be above 1"),
        ("consistency", {"stages": -1}, "stages must be at least 0"),
    ],
)
def test_sizes_and_shares_that_cannot_be_are_refused(name: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        catalog.recipe(name)(made_up().train, **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**64}, "seed must be at most 18446744073709551615"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"averages": -1}, "averages must be at least 0"),
        ({"snapshots": 10**9}, "snapshots must be at most 63"),
        *(
            ({name: 10**30}, f"{name} must be at most")
            for name in ("microbatch", "ticks", "keep", "averages")
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_with_a_hint(given: dict[str, int], says: str) -> None:
    with pytest.raises(WrongUse, match=says) as raised:
        Settings(**given)  # type: ignore[arg-type]
    assert raised.value.hint


def test_the_largest_settings_train(tmp_path: Path) -> None:
    """The probe reads them too."""
    whole = dict.fromkeys(("microbatch", "ticks", "keep", "averages"), 2**63 - 1)
    settings = Settings(budget="16-images", device="cpu", seed=2**64 - 1, snapshots=63, **whole)  # type: ignore[arg-type]
    assert loop.train(GAN, made_up(), tmp_path / "run", arguments=GAN.small, settings=settings).finished
