"""Each loss term: a closed form, and which parameters it reaches and must not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych.adversarial.losses import relativistic
from diptych.adversarial.penalties import gradient_penalty
from diptych.data.images import Images
from diptych.diffusion.denoiser import Denoiser, EDMDenoiser, without_labels
from diptych.diffusion.guidance import Guided
from diptych.diffusion.model import DiffusionOptions
from diptych.diffusion.objective import edm, lognormal, uniform
from diptych.diffusion.schedules import VE
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Condition
from diptych.methods.consistency import Consistency
from diptych.methods.denoising import Denoising
from diptych.methods.r3gan import falling
from diptych.model import Noise
from diptych.networks.unet import UNet
from diptych.recipe import half_life
from diptych.training.state import Settings, Training


def test_relativistic_is_softplus_of_the_gap() -> None:
    better, worse = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])
    expected = (math.log(2) + math.log1p(math.exp(-2))) / 2
    assert relativistic(better, worse).item() == pytest.approx(expected)


def test_relativistic_gradient() -> None:
    logits = [torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(relativistic, logits)


def test_gradient_penalty_of_a_linear_critic_is_its_squared_weight() -> None:
    weight = torch.randn(3 * 4 * 4, requires_grad=True)
    image = torch.randn(6, 3, 4, 4, requires_grad=True)
    penalty = gradient_penalty(image.flatten(1) @ weight, image)
    assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-5)
    (slope,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(slope, 2 * weight)  # the double backward


def test_gradient_penalty_is_a_mean_over_images() -> None:
    image = torch.randn(6, 1, 2, 2, requires_grad=True)
    penalty = gradient_penalty(image.square().sum((1, 2, 3)) / 2, image)  # the slope is the image itself
    assert penalty.item() == pytest.approx(image.square().sum((1, 2, 3)).mean().item(), rel=1e-5)


class Zero(nn.Module):
    """A network that always answers 0."""

    def __init__(self, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 0) -> None:
        super().__init__()
        self.image_shape, self.classes = shape, classes
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None) -> Tensor:
        return torch.zeros_like(x) * self.unused


def test_edm_loss_begins_at_one_on_data_of_the_assumed_deviation() -> None:
    """With F = 0, D = c_skip x; for x ~ N(0, s^2) the weighted error is 1 at every noise level."""
    torch.manual_seed(0)
    method = Denoising(EDMDenoiser(Zero(), sigma_data=0.5), levels=lognormal(-1.2, 1.2), weight=uniform)
    x = 0.5 * torch.randn(4096, 1, 8, 8)
    loss, _ = method.loss(Batch(x, Condition()), Clock(0, 1, 0))
    assert loss.item() == pytest.approx(1, abs=0.01)


def test_edm_weight_undoes_c_out() -> None:
    sigma, s = torch.tensor([0.002, 0.5, 80.0]), 0.5
    c_out = EDMDenoiser(Zero(), s).c_out(sigma)
    torch.testing.assert_close(edm(s)(sigma, c_out) * c_out**2, torch.ones(3))
    torch.testing.assert_close(uniform(sigma, c_out), edm(s)(sigma, c_out))


def test_edm_preconditioning_keeps_unit_variance() -> None:
    """c_in normalises the network's input, c_out its target (EDM, appendix B.6)."""
    torch.manual_seed(0)
    seen: list[Tensor] = []

    class Spy(Zero):
        def forward(self, x: Tensor, level: Tensor, label: Tensor | None) -> Tensor:
            seen.append(x)
            return super().forward(x, level, label)

    clean = 0.5 * torch.randn(4096, 1, 8, 8)
    for sigma in (0.01, 1.0, 50.0):
        EDMDenoiser(Spy(), 0.5)(clean + sigma * torch.randn_like(clean), torch.tensor([sigma]), Condition())
        assert seen[-1].std().item() == pytest.approx(1, abs=0.02)


class Constant(Denoiser):
    """Sees the same clean image in everything; records whether it was asked under gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.image_shape, self.classes, self.schedule = (1, 4, 4), 0, VE()
        self.value = nn.Parameter(torch.tensor(0.25))
        self.asked: list[tuple[bool, float]] = []

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.asked.append((torch.is_grad_enabled(), float(torch.rand(()))))
        return self.value.expand_as(x)


def test_consistency_begins_as_denoising_and_ends_as_self_consistency() -> None:
    torch.manual_seed(0)
    denoiser = Constant()
    method = Consistency(denoiser, stages=8)
    batch = Batch(torch.randn(64, 1, 4, 4), Condition())
    begin, logs = method.loss(batch, Clock(0, 100, 0))
    expected = (0.25 - batch.image).square().sum((1, 2, 3)).sqrt().mean()
    assert logs["distance"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert begin.item() > 0
    assert len(denoiser.asked) == 1
    _, logs = method.loss(batch, Clock(99, 100, 0))
    assert logs["distance"].item() < 1e-5  # a constant is consistent wherever r > 0
    under_gradient, masks = zip(*denoiser.asked[1:], strict=True)
    assert under_gradient == (True, False)  # the target is not differentiated
    assert masks[0] == masks[1]  # both calls see the same random numbers, so the same dropout mask


def test_consistency_answers_to_labels_alone_or_learns_to_do_without() -> None:
    torch.manual_seed(0)
    batch = Batch(torch.randn(32, 1, 8, 8), Condition(label=torch.arange(32) % 3))
    for dropout in (0.0, 0.5):
        network = UNet((1, 8, 8), classes=3, width=8, multipliers=(1,), blocks=1)
        for parameter in network.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        options = DiffusionOptions(steps=1, sampler="consistency")
        method = Consistency(EDMDenoiser(network, jumps=True), label_dropout=dropout, options=options)
        torch.autograd.backward(method.loss(batch, Clock(0, 100, 0))[0])
        table = next(p for name, p in network.named_parameters() if name.endswith("table.weight"))
        assert table.grad is not None
        assert bool(table.grad[3].any()) == (dropout > 0)
        if dropout:
            assert method.model(Noise(range(2))).shape == (2, 1, 8, 8)
        else:
            with pytest.raises(WrongUse, match="never trained without labels"):
                method.model(Noise(range(2)))


def test_consistency_gap_halves_each_stage() -> None:
    method = Consistency(Constant(), stages=8, q=2.0)
    t = torch.tensor([1.0])
    n = 1 + 8 / (1 + math.e)
    for stage in range(9):
        clock = Clock(int((stage + 0.5) / 9 * 1000), 1000, 0)
        assert method.stage(clock) == stage
        assert method.earlier(t, clock).item() == pytest.approx(max(0.0, 1 - n / 2**stage), abs=1e-6)
    assert Consistency(Constant(), first_stage=1).stage(Clock(0, 1000, 0)) == 1
    assert method.stage(Clock(1000, 1000, 0)) == 8


def test_guidance_extrapolates() -> None:
    class Labelled(Denoiser):
        image_shape, classes, schedule = (1, 2, 2), 3, VE()

        def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            assert condition.label is not None
            return condition.label.float().view(-1, 1, 1, 1).expand_as(x)

    x = torch.zeros(2, 1, 2, 2)
    guided = Guided(Labelled(), 2.0)(x, torch.ones(1), Condition(label=torch.tensor([0, 1])))
    assert guided[:, 0, 0, 0].tolist() == [3 + 2 * (0 - 3), 3 + 2 * (1 - 3)]  # label 3 stands for none


def test_label_dropout_share() -> None:
    torch.manual_seed(0)
    label = torch.zeros(10_000, dtype=torch.int64)
    dropped = without_labels(Condition(label=label), classes=7, probability=0.1).label
    assert dropped is not None
    assert (dropped == 7).float().mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("name", list(catalog.recipes()))
def test_each_phase_moves_its_own_parameters_and_no_others(name: str) -> None:
    """Runs every phase alone and compares all parameters before and after.

    Phases that share an optimizer share the duty to move all that is its own: penalties leave biases alone.
    """
    spec = catalog.recipe(name)
    training = Training(spec(made_up().train, **spec.small), made_up().train, 1000, Settings(device="cpu"))
    shards = training.my_shards(0)
    moved_by: dict[int, set[str]] = {}
    owned_by: dict[int, set[str]] = {}
    for index, phase in enumerate(training.phases):
        mine = {id(parameter) for parameter in phase.parameters}
        before = {key: p.detach().clone() for key, p in training.method.named_parameters()}
        for turn in range(6):  # layers that begin at zero let gradients through only after some turns
            training.take_turn(index, phase, shards, Clock(150 * turn, 1000, turn))
        after = dict(training.method.named_parameters())
        own = {key for key, parameter in after.items() if id(parameter) in mine}
        moved = {key for key, parameter in after.items() if not torch.equal(parameter, before[key])}
        assert moved <= own, f"{phase.name} moved what is not its own"
        assert moved, f"{phase.name} moved nothing"
        moved_by.setdefault(id(phase.optimizer), set()).update(moved)
        owned_by[id(phase.optimizer)] = own
    assert moved_by == owned_by


def test_critic_penalties_reach_the_critic_only() -> None:
    spec = catalog.recipe("r3gan")
    training = Training(spec(made_up().train, **spec.small), made_up().train, 1000, Settings(device="cpu"))
    method: Any = training.method
    batch = training.data.batch(0, 0, 8)
    with_penalty, logs = method.critic_loss(batch, Clock(0, 1000, 0))
    assert logs["r1"] > 0
    assert logs["r2"] > 0
    method.zero_grad()
    with_penalty.backward()
    assert all(p.grad is None for p in method.generator.parameters())
    assert all(p.grad is not None for p in method.critic.parameters())
    assert falling(3.0, Clock(0, 1000, 0)) == 3.0
    assert falling(3.0, Clock(1000, 1000, 0)) == pytest.approx(0.3)


def test_microbatches_add_up_to_the_batch() -> None:
    """The gradient of two halves is that of the whole, for a loss without randomness."""
    spec = catalog.recipe("r3gan")
    gradients = []
    for microbatch in (0, 4):
        torch.manual_seed(0)
        settings = Settings(device="cpu", microbatch=microbatch)
        training = Training(spec(made_up().train, **spec.small), made_up().train, 1000, settings)
        method: Any = training.method
        phase = training.phases[0]
        object.__setattr__(
            phase,
            "loss",
            lambda batch, clock, m=method: (m.critic(batch.image, batch.condition.label).square().mean(), {}),
        )
        training.take_turn(0, phase, training.my_shards(0), Clock(0, 1000, 0))
        gradients.append(torch.cat([p.grad.flatten() for p in phase.parameters if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_average_forgets_half_in_a_half_life() -> None:
    data = Images(np.zeros((8, 8, 8, 1), np.uint8))
    spec = catalog.recipe("edm")
    recipe = spec(data, **spec.small)
    recipe = replace(recipe, average=half_life(64.0, ramp=1e9))
    training = Training(recipe, data, 1000, Settings(device="cpu"))
    with torch.no_grad():
        for p in training.method.model.parameters():
            p.fill_(1.0)
        for p in training.average.parameters():
            p.fill_(0.0)
    for _ in range(64 // training.batch):
        training.images += training.batch
        training.move_average()
    assert next(training.average.parameters()).flatten()[0].item() == pytest.approx(0.5)
