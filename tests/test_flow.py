"""Rectified flow: its loss is that of the velocity, and reflow straightens a known coupling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych import catalog
from diptych.diffusion.denoiser import Denoiser, ScheduleDenoiser, each
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.objective import uniform, uniform_times
from diptych.diffusion.schedules import VE, Flow
from diptych.errors import WrongUse
from diptych.loop import train
from diptych.method import Batch, Clock, Condition
from diptych.methods.denoising import Denoising
from diptych.methods.flow import Reflow, coupled
from diptych.model import Noise
from diptych.networks.unet import UNet
from diptych.training import Settings


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

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        s2 = each(sigma).square()
        return (0.25 * x + s2) / (0.25 + s2)


def test_pairs_are_a_noise_and_its_image() -> None:
    teacher = DiffusionModel(Shift(), DiffusionOptions(steps=60))
    image, noise, _ = coupled(teacher, 40, batch=16)
    assert image.shape == noise.shape == (40, 1, 2, 2)
    torch.testing.assert_close(image, 1 + noise / 2, atol=0.02, rtol=0)
    torch.testing.assert_close(noise[35], Noise([35]).normal(1, 2, 2)[0])


def test_reflow_has_no_error_on_lines_it_knows() -> None:
    """On pairs (z, 1 + z / 2) each noisy image has one clean one: the denoiser that knows it has no loss."""

    class Straight(Shift):
        def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            s = each(sigma)  # x = image + s noise with image = 1 + noise / 2
            return 1 + (x - 1) / (1 + 2 * s) + 0 * self.unused

    teacher = DiffusionModel(Shift(), DiffusionOptions(steps=60))
    method = Reflow(
        Shift(), coupled(teacher, 64), lr=1e-3, options=DiffusionOptions(sampler="euler", steps=1)
    )
    torch.manual_seed(0)
    curved, _ = method.loss(Batch(torch.zeros(32, 1, 2, 2), Condition()), Clock(0, 1, 0))
    method.model.denoiser = Straight()
    straight, _ = method.loss(Batch(torch.zeros(32, 1, 2, 2), Condition()), Clock(0, 1, 0))
    assert straight.item() < 2e-3
    assert curved.item() > 20 * straight.item()
    one_step = method.model(Noise(range(500)))
    assert one_step.mean().item() == pytest.approx(1, abs=0.05)
    assert one_step.std().item() == pytest.approx(0.5, abs=0.03)


def test_reflow_starts_from_a_run_and_trains(tmp_path: Path) -> None:
    spec, settings = catalog.recipe("flow"), Settings(budget="48-images", ticks=2, device="cpu")
    first = train(spec, made_up(), tmp_path / "first", arguments=spec.small, settings=settings)
    again = {**spec.small, "reflow": str(first.path), "pairs": 16, "steps": 2}
    second = train(spec, made_up(), tmp_path / "second", arguments=again, settings=settings)
    assert second.finished
    assert second.model().options.steps == 2
    assert not any(key.startswith(("image", "noise")) for key in second.model().state_dict())
    with pytest.raises(WrongUse, match="makes images"):
        spec(made_up((3, 8, 8)).train, reflow=str(first.path))
