"""Rectified flow: its loss is that of the velocity, and reflow straightens a known coupling."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import brief, made_up
from conftest import train_unprobed as train
from diptych import catalog
from diptych.data.images import DataSet
from diptych.diffusion.denoiser import Denoiser, NetworkDenoiser, ScheduleDenoiser, each
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.objective import uniform, uniform_times
from diptych.diffusion.schedules import VE, Flow
from diptych.diffusion.schedules import schedule as named
from diptych.errors import RunError, WrongUse
from diptych.method import Batch, Clock, Condition
from diptych.methods import flow
from diptych.methods.denoising import Denoising
from diptych.methods.flow import Pairs, Reflow, coupled
from diptych.model import Noise
from diptych.networks.unet import UNet
from diptych.runs import Run
from diptych.system.files import read_tensors, write_tensors
from diptych.training.loop import build
from diptych.training.state import Settings
from gaussian import Gaussian


def test_loss_is_the_velocity_s() -> None:
    """weight |D - x|^2 = |v - (eps - x)|^2 along x_t = (1 - t) x + t eps, by hand with the same draws."""
    torch.manual_seed(0)
    network = UNet((1, 8, 8), width=8, blocks=1, multipliers=(1,)).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    denoiser = ScheduleDenoiser(network, Flow(), "flow", told="level")
    method = Denoising(denoiser, levels=uniform_times(Flow()), weight=uniform)
    x = torch.rand(16, 1, 8, 8, dtype=torch.float64)
    torch.manual_seed(1)
    loss, _ = method.loss(Batch(x, Condition()), Clock(0, 1, 0))
    torch.manual_seed(1)
    t = Flow().time(uniform_times(Flow())(16, x.device))
    eps = torch.randn_like(x)
    x_t = (1 - each(t)) * x + each(t) * eps
    velocity = network(x_t, (t / (1 - t)).log() / 4, None)
    expected = (velocity - (eps - x)).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


class Shift(Denoiser):
    """The exact denoiser of N(1, 0.5^2): its flow takes noise z to 1 + z / 2 (nearly, from the top level)."""

    def __init__(self) -> None:
        super().__init__()
        self.image_shape, self.classes, self.schedule = (1, 2, 2), 0, VE()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def c_out(self, sigma: Tensor) -> Tensor:
        """Of a network that would predict the velocity."""
        return sigma / (1 + sigma)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        s2 = each(sigma).square()
        return (0.25 * x + s2) / (0.25 + s2)


def test_pairs_are_a_noise_and_its_image() -> None:
    teacher = DiffusionModel(Shift(), DiffusionOptions(steps=60))
    image, noise, _ = coupled(teacher, 40, batch=16)
    assert image.shape == noise.shape == (40, 1, 2, 2)
    torch.testing.assert_close(image, 1 + noise / 2, atol=0.02, rtol=0)
    torch.testing.assert_close(noise[35], Noise([35]).normal(1, 2, 2)[0])


@pytest.mark.parametrize(
    "options",
    [
        DiffusionOptions(steps=60, sampler="ddpm", variance="large"),
        DiffusionOptions(steps=60, sampler="edm-stochastic", churn=10.0),
        DiffusionOptions(steps=60, sampler="ddim", eta=1.0),
    ],
    ids=lambda options: options.sampler,
)
def test_pairs_of_a_teacher_that_draws_noise_are_made_without_it(
    options: DiffusionOptions, caplog: pytest.LogCaptureFixture
) -> None:
    """Euler's first-order steps come near to 1 + z / 2; a noise of another draw is nowhere near."""
    with caplog.at_level(logging.WARNING, "diptych"):
        image, noise, _ = coupled(DiffusionModel(Shift(), options), 40, batch=16)
    torch.testing.assert_close(image, 1 + noise / 2, atol=0.2, rtol=0)
    assert f"sampler {options.sampler} draws noise" in caplog.text


def test_a_teacher_that_draws_noise_as_it_jumps_is_refused() -> None:
    """A consistency model of one step makes pairs, one of several steps cannot, and no other sampler can."""
    denoiser = Shift()
    denoiser.jumps = True
    jumping = DiffusionModel(denoiser, DiffusionOptions(steps=1, sampler="consistency"))
    assert len(coupled(jumping, 3).image) == 3
    with pytest.raises(WrongUse, match="sampler consistency draws noise on its way") as error:
        coupled(jumping.using(steps=2), 3)
    assert "--steps 1" in error.value.hint


def test_reflow_has_no_error_on_lines_it_knows() -> None:
    """On pairs (z, 1 + z / 2) each noisy image has one clean one: the denoiser that knows it has no loss."""

    class Straight(Shift):
        def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            s = each(sigma)  # x = image + s noise with image = 1 + noise / 2
            return 1 + (x - 1) / (1 + 2 * s) + 0 * self.unused

    teacher = DiffusionModel(Shift(), DiffusionOptions(steps=60))
    options = DiffusionOptions(sampler="euler", steps=1)
    method = Reflow(Shift(), lambda device: coupled(teacher, 64), lr=1e-3, options=options)  # type: ignore[arg-type]
    method.phases()
    torch.manual_seed(0)
    curved, _ = method.loss(Batch(torch.zeros(32, 1, 2, 2), Condition()), Clock(0, 1, 0))
    method.model.denoiser = Straight()
    straight, _ = method.loss(Batch(torch.zeros(32, 1, 2, 2), Condition()), Clock(0, 1, 0))
    assert straight.item() < 2e-3
    assert curved.item() > 20 * straight.item()
    one_step = method.model(Noise(range(500)))
    assert one_step.mean().item() == pytest.approx(1, abs=0.05)
    assert one_step.std().item() == pytest.approx(0.5, abs=0.03)


def reflowed(denoiser: NetworkDenoiser, **settings: Any) -> Reflow:
    """On pairs of noises and images that are unlike."""
    stream = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 64, 1, 8, 8, generator=stream)
    pairs = Pairs(image, noise, torch.arange(64) % 3)
    method = Reflow(
        denoiser, lambda device: pairs, lr=1e-3, options=DiffusionOptions(sampler="euler"), **settings
    )
    method.phases()
    return method


@pytest.mark.parametrize(("target", "schedule"), [("eps", "linear"), ("v", "cosine"), ("flow", "flow")])
def test_reflow_counts_all_levels_alike_whatever_the_network_predicts(target: str, schedule: str) -> None:
    """The error of a velocity grows with the level for a network that predicts the noise: beyond the level
    157 at which its sampling begins a thousandth of the pairs was nearly the whole loss."""
    network = UNet((1, 8, 8), width=8, multipliers=(1,), blocks=1)
    method = reflowed(ScheduleDenoiser(network, named(schedule), target, told="level"))
    batch = Batch(torch.zeros(32, 1, 8, 8), Condition())
    torch.manual_seed(0)
    losses = torch.stack([method.loss(batch, Clock(0, 1, 0))[0].detach() for _ in range(20)])
    assert losses.max() < 3 * losses.median()


def test_reflow_learns_what_no_label_means() -> None:
    """Else an edit without a label would ask for what the weights have moved away from."""
    torch.manual_seed(0)
    network = UNet((1, 8, 8), classes=3, width=8, multipliers=(1,), blocks=1)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    batch = Batch(torch.zeros(32, 1, 8, 8), Condition())
    for dropout in (0.0, 0.5):
        method = reflowed(ScheduleDenoiser(network, Flow(), "flow"), label_dropout=dropout)
        network.zero_grad()
        torch.autograd.backward(method.loss(batch, Clock(0, 1, 0))[0])
        table = next(p for name, p in network.named_parameters() if name.endswith("table.weight"))
        assert table.grad is not None
        assert bool(table.grad[3].any()) == (dropout > 0) == method.denoiser.unlabelled


def test_reflow_of_a_consistency_run_has_a_density(tmp_path: Path) -> None:
    spec, settings = catalog.recipe("consistency"), Settings(budget="16-images", ticks=1, device="cpu")
    first = train(spec, made_up(), tmp_path / "first", arguments=spec.small, settings=settings)
    recipe = catalog.recipe("flow")(made_up().train, reflow=str(first.path), pairs=4)
    model = recipe.method.model
    assert isinstance(model, DiffusionModel)
    assert not model.denoiser.jumps
    assert {"steps": 18} in model.dial()


def test_reflow_starts_from_a_run_and_trains(tmp_path: Path) -> None:
    spec, settings = brief(catalog.recipe("flow")), Settings(budget="48-images", ticks=2, device="cpu")
    first = train(spec, made_up(), tmp_path / "first", arguments=spec.small, settings=settings)
    again = {**spec.small, "reflow": str(first.path), "pairs": 16, "steps": 2}
    second = train(spec, made_up(), tmp_path / "second", arguments=again, settings=settings)
    assert second.finished
    assert second.model().options.steps == 2
    assert not any(key.startswith(("image", "noise")) for key in second.model().state_dict())
    with pytest.raises(WrongUse, match="makes images"):
        spec(made_up((3, 8, 8)).train, reflow=str(first.path))


SPEC = brief(catalog.recipe("flow"))
SHORT = Settings(budget="48-images", ticks=2, device="cpu", microbatch=4)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("teachers") / "first"
    return train(SPEC, made_up(), out, arguments=SPEC.small, settings=SHORT)


def told(teacher: Path) -> dict[str, Any]:
    """The arguments of a small reflow."""
    return {**SPEC.small, "reflow": str(teacher), "pairs": 16, "steps": 2}


def test_pairs_are_no_buffers_and_made_for_a_training_alone(
    teacher: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers are copied for each shard of each step; and a recipe may be built for something else."""
    made: list[int] = []

    def counted(run: str, written: float, pairs: int, device: torch.device) -> Pairs:
        made.append(pairs)
        return Pairs(torch.zeros(pairs, 1, 8, 8), torch.zeros(pairs, 1, 8, 8), torch.zeros(pairs).long())

    monkeypatch.setattr(flow, "coupled_of", counted)
    SPEC(made_up().train, **told(teacher.path))
    assert not made
    training = build(SPEC, made_up(), told(teacher.path), SHORT, 48)
    training.step()
    assert made == [16]
    assert isinstance(training.method, Reflow)
    largest = max(buffer.numel() for buffer in training.method.buffers())
    assert largest < training.method.pairs.image.numel() == 16 * 64


def test_a_teacher_at_home_is_found(teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As recipe.json tells of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(teacher.path, tmp_path / "first")
    assert SPEC(made_up().train, **told(Path("~/first"))).method is not None


def half_trained(teacher: Path, out: Path, data: DataSet) -> None:
    """Interrupts a reflow after its first tick."""

    def stop(clock: Clock, logs: Any) -> None:
        if clock.images > 24:  # a state was written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SPEC, data, out, arguments=told(teacher), settings=SHORT, watch=stop)


def test_a_teacher_that_was_trained_on_is_noticed(teacher: Run, tmp_path: Path) -> None:
    """The pairs would be others than those of the start; a run that is done does not read them any more."""
    data, first, out = made_up(), tmp_path / "first", tmp_path / "second"
    shutil.copytree(teacher.path, first)
    half_trained(first, out, data)
    assert Run(out).checkpoints.newest is not None
    before = (out / "recipe.json").read_bytes()
    tensors, about = read_tensors(first / "model.safetensors")
    write_tensors(first / "model.safetensors", {n: t + 1e-3 for n, t in tensors.items()}, about)
    with pytest.raises(RunError, match=r"weights of --reflow .*first are others than when") as error:
        train(SPEC, data, out, arguments=told(first), settings=SHORT)
    assert "--force" in error.value.hint
    assert (out / "recipe.json").read_bytes() == before
    done = train(SPEC, data, out, arguments=told(first), settings=SHORT, force=True)
    assert done.finished
    assert "--reflow" in done.recipe["forced"][0]["changes"][0]
    write_tensors(first / "model.safetensors", tensors, about)
    assert train(SPEC, data, out, arguments=told(first), settings=SHORT).finished


def test_pairs_are_made_of_fewer_images_where_memory_is_short() -> None:
    """And are the same, in order."""

    class Short(Gaussian):
        most = 256

        def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x, sigma, condition)

    denoiser = Short((1, 2, 2), torch.zeros(4), 0.25 * torch.eye(4))
    teacher = DiffusionModel(denoiser, DiffusionOptions(steps=2, sampler="euler"))
    whole = coupled(teacher, 20, batch=8)
    denoiser.most = 3
    parts = coupled(teacher, 20, batch=8)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
