"""EDM2: magnitudes stay, weights stay on their sphere, the uncertainty is learned and not shipped."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych import catalog
from diptych.diffusion.objective import Uncertainty
from diptych.method import Clock
from diptych.methods.edm2 import adam_on_the_sphere, inverse_sqrt
from diptych.networks.edm2 import Block, EDM2UNet
from diptych.networks.magnitude import (
    MPConv,
    MPFourier,
    MPLabel,
    MPLayer,
    MPLinear,
    force_magnitudes,
    mp_cat,
    mp_silu,
    mp_sum,
    unit,
)
from diptych.training.state import Settings, Training


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def magnitude(x: Tensor) -> float:
    """Root mean square."""
    return x.square().mean().sqrt().item()


def network(**changes: object) -> EDM2UNet:
    """A small one with its gains turned up, so that everything is heard."""
    made = EDM2UNet((2, 12, 8), width=16, multipliers=(1, 2), blocks=1, attention=1, **changes)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim == 0:
                p.fill_(0.8)
    return made


NORMAL = [
    ("silu", lambda x: mp_silu(x)),
    ("sum", lambda x: mp_sum(x, torch.randn_like(x), 0.3)),
    ("concatenation", lambda x: mp_cat(x, torch.randn(64, 24, 16, 16), 0.7)),
    ("convolution", lambda x: MPConv(64, 96, 3)(x)[:, :, 1:-1, 1:-1]),
    ("1x1 convolution", lambda x: MPConv(64, 96, 1)(x)),
    ("linear", lambda x: MPLinear(64, 96)(x.permute(0, 2, 3, 1))),
    ("fourier", lambda x: MPFourier(512)(x[:, 0, 0, 0])),
    ("classes", lambda x: MPLabel(96, classes=7)(torch.arange(7), x.device)),
    ("pixel norm", lambda x: unit(9 * x, (1,))),
]


@pytest.mark.parametrize("part", [part for _, part in NORMAL], ids=[name for name, _ in NORMAL])
def test_each_part_keeps_the_magnitude(part: Callable[[Tensor], Tensor]) -> None:
    assert magnitude(part(torch.randn(64, 64, 16, 16))) == pytest.approx(1, abs=0.03)


def test_a_concatenation_is_heard_in_the_ratio_asked_for() -> None:
    a, b = torch.randn(64, 8, 16, 16), torch.randn(64, 24, 16, 16)
    for t in (0.5, 0.8):
        both = mp_cat(a, b, t)
        energy = [both[:, :8].square().sum(), both[:, 8:].square().sum()]
        assert (energy[1] / energy[0]).sqrt().item() == pytest.approx(t / (1 - t), rel=0.02)


def test_magnitudes_hold_through_the_whole_network() -> None:
    """At initialisation every block hears and says values of about unit size, however deep it stands."""
    unet = EDM2UNet((3, 16, 16), width=32, multipliers=(1, 2, 2), blocks=2, classes=3)
    said: list[float] = []
    for block in unet.modules():
        if isinstance(block, Block):
            block.register_forward_hook(lambda *call: said.append(magnitude(call[2])))
    unet(torch.randn(8, 3, 16, 16), torch.randn(8), torch.arange(8) % 3)
    assert len(said) == 21
    assert min(said) > 0.8
    assert max(said) < 1.2


def test_weights_count_by_their_direction() -> None:
    for layer, x in ((MPConv(5, 6, 3), torch.randn(2, 5, 8, 8)), (MPLinear(5, 6), torch.randn(2, 5))):
        before = layer(x)
        layer(x).square().sum().backward()
        assert layer.weight.grad is not None
        along = (layer.weight.grad * layer.weight).flatten(1).sum(1)
        assert along.abs().max() < 1e-3 * layer.weight.grad.flatten(1).norm(dim=1).max()  # it only turns them
        with torch.no_grad():
            layer.weight.mul_(7.0)
        torch.testing.assert_close(layer(x), before, atol=2e-3, rtol=0)
        layer.force()
        torch.testing.assert_close(layer(x), before, atol=2e-3, rtol=0)
        torch.testing.assert_close(unit(layer.weight, layer.dims), layer.weight, atol=2e-3, rtol=0)


def test_a_step_leaves_every_weight_on_its_sphere() -> None:
    unet = network(classes=3)
    optimizer = adam_on_the_sphere(unet, 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        unet(torch.randn(4, 2, 12, 8), torch.randn(4), torch.arange(4)).square().mean().backward()
        before = {key: p.detach().clone() for key, p in unet.named_parameters()}
        optimizer.step()
    for layer in unet.modules():
        if isinstance(layer, MPLayer):
            size = layer.weight.flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(size, torch.ones_like(size), atol=1e-3, rtol=0)
    assert all(not torch.equal(p, before[key]) for key, p in unet.named_parameters())


def test_a_forward_pass_changes_no_weight() -> None:
    """Microbatches, gradient checkpoints and exported graphs need it to be a pure function."""
    unet = network().train()
    with torch.no_grad():
        for p in unet.parameters():
            p.mul_(1.7)
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    unet(torch.randn(4, 2, 12, 8), torch.randn(4)).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_no_label_is_one_thing(kind: str) -> None:
    unet = network(**{kind: 3})
    x, level = torch.randn(2, 2, 12, 8), torch.randn(2)
    none, some = (
        (torch.tensor([3, 3]), torch.tensor([0, 3]))
        if kind == "classes"
        else (torch.full((2, 3), math.nan), torch.tensor([[0.0, 0.0, 0.0], [math.nan] * 3]))
    )
    without = unet(x, level)
    torch.testing.assert_close(unet(x, level, none), without)
    labelled = unet(x, level, some)
    torch.testing.assert_close(labelled[1], without[1])
    assert (labelled[0] - without[0]).abs().max() > 0.01  # even the label whose values are all zero


def test_computing_again_gives_the_same_gradient() -> None:
    plain, again = network(dropout=0.3), network(dropout=0.3, checkpointing=True)
    again.load_state_dict(plain.state_dict())
    x, level = torch.randn(4, 2, 12, 8), torch.randn(4)
    for unet in (plain, again):
        torch.manual_seed(1)
        unet(x, level).square().mean().backward()
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_bfloat16_is_near_float32() -> None:
    unet = network(classes=3)
    x, level, label = torch.randn(4, 2, 12, 8), torch.randn(4), torch.arange(4)
    exact = unet(x, level, label)
    with torch.autocast("cpu", torch.bfloat16):
        rough = unet(x, level, label)
        rough.float().square().mean().backward()
    assert magnitude(rough.float() - exact) < 0.03 * magnitude(exact)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters() if p.requires_grad)


def test_the_uncertainty_learns_the_size_of_the_error() -> None:
    """error / exp(u) + u is least at u = log E[error], here 1 / sigma up to chance."""
    uncertainty = Uncertainty()
    optimizer = torch.optim.Adam(uncertainty.parameters(), lr=0.02)
    for _ in range(600):
        sigma = (torch.rand(256) * 4 - 2).exp()
        error = torch.randn(256, 1, 4, 4).square() / sigma.view(-1, 1, 1, 1)
        optimizer.zero_grad()
        uncertainty.balance(error, sigma).mean().backward()
        optimizer.step()
    sigma = torch.linspace(-1.8, 1.8, 10).exp()
    torch.testing.assert_close(uncertainty(sigma), -sigma.log(), atol=0.15, rtol=0)
    error = torch.full((10, 1, 2, 2), 3.0)
    torch.testing.assert_close(Uncertainty().balance(error, sigma), error)  # it begins without an opinion


def test_the_uncertainty_is_trained_and_resumed_but_not_shipped() -> None:
    spec, data = catalog.recipe("edm2"), made_up().train
    training = Training(spec(data, **spec.small), data, 1000, Settings(device="cpu"))
    training.step()
    learned = training.state_dict()["method"]
    assert learned["uncertainty.weight"].abs().max() > 0
    assert not any("uncertainty" in key for key in training.average.state_dict())
    assert not any("uncertainty" in key for key in training.method.model.state_dict())


def test_microbatches_and_the_whole_batch_take_the_same_step() -> None:
    """Without randomness in the loss, weights after two steps agree; the sphere is met once a step."""
    found = []
    for microbatch in (0, 3):
        torch.manual_seed(0)
        spec, data = catalog.recipe("edm2"), made_up(classes=0).train
        training = Training(
            spec(data, **spec.small), data, 1000, Settings(device="cpu", microbatch=microbatch)
        )
        method, (phase,) = training.method, training.phases

        def loss(batch, clock, unet=method.denoiser.network):  # type: ignore[no-untyped-def]
            return (unet(batch.image, torch.ones(1)) - batch.image).square().mean(), {}

        object.__setattr__(phase, "loss", loss)
        for step in range(2):
            training.take_turn(0, phase, training.my_shards(0), Clock(500, 1000, step))
        found.append([p.detach() for p in method.model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_the_learning_rate_falls_as_one_over_the_root() -> None:
    rate = [inverse_sqrt(Clock(n, 1000, 0), warmup=0.01, decay=0.1) for n in (0, 10, 100, 400, 900)]
    assert 0 < rate[0] < 0.1
    assert rate[1:] == pytest.approx([1, 1, 1 / 2, 1 / 3])
    assert inverse_sqrt(Clock(900, 1000, 0), warmup=0.01, decay=0) == 1


def test_exports_with_any_batch() -> None:
    unet = network(classes=3).eval()
    batch = torch.export.Dim("batch", min=1)
    example = (torch.randn(2, 2, 12, 8), torch.randn(2), torch.arange(2))
    program = torch.export.export(unet, example, dynamic_shapes=[{0: batch}] * 3)
    five = (torch.randn(5, 2, 12, 8), torch.randn(5), torch.arange(5) % 4)
    torch.testing.assert_close(program.module()(*five), unet(*five), atol=1e-5, rtol=1e-5)


def test_forcing_finds_every_layer() -> None:
    unet = network()
    with torch.no_grad():
        for p in unet.parameters():
            if p.ndim:
                p.mul_(5.0)
    force_magnitudes(unet)
    sizes = [magnitude(p) for p in unet.parameters() if p.ndim]
    assert sizes == pytest.approx([1.0] * len(sizes), abs=1e-3)


def test_compiles_as_one_graph() -> None:
    unet = network(classes=3)
    arguments = (torch.randn(2, 2, 12, 8), torch.randn(2), torch.arange(2))
    whole = torch.compile(unet, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(*arguments), unet(*arguments))
