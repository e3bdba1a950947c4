"""R3GAN's networks: values against the paper's formulas, second derivatives, labels, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych.adversarial.penalties import slope_square
from diptych.errors import WrongUse
from diptych.method import Clock
from diptych.methods.adversarial import Adversarial
from diptych.networks import convolution
from diptych.networks.convolution import conv2d
from diptych.networks.r3gan import Block, R3Critic, R3Generator, bilinear
from diptych.saveable import from_tree, to_tree
from official import up2

DOUBLE = {"dtype": torch.float64, "requires_grad": True}


def loud(network: Any) -> Any:
    """The network with blocks that are no longer the identity."""
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream))
    return network


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), ((1, 2), (0, 1))])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_and_its_first_two_derivatives(stride: Any, padding: Any, groups: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 3, 4, **DOUBLE), torch.randn(2, 2 // groups, 3, 3, **DOUBLE)  # type: ignore[call-overload]
    bias = torch.randn(2, **DOUBLE)  # type: ignore[call-overload]

    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv2d(x, weight, bias, stride, padding, groups)

    expected = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    assert torch.equal(convolve(x, weight, bias), expected)
    assert torch.autograd.gradcheck(convolve, (x, weight, bias))
    assert torch.autograd.gradgradcheck(convolve, (x, weight, bias))


def test_the_slope_at_an_image_asks_for_no_gradient_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would be half of the work of a penalty's first derivative, thrown away."""
    asked: list[list[bool]] = []
    compute = convolution.gradients

    def spy(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return compute(*arguments)

    monkeypatch.setattr(convolution, "gradients", spy)
    x, weight = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(2, 2, 3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(conv2d(x, weight, None, 1, 1).square().sum(), x, create_graph=True)
    assert asked == [[True, False]]
    assert torch.autograd.grad(slope.square().sum(), weight)[0].abs().sum() > 0
    assert [False, True] in asked


def test_convolution_under_autocast() -> None:
    x, weight = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(4, 2, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv2d(x, weight, torch.zeros(4), 1, 1, 2)
        (slope,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    assert y.dtype == torch.bfloat16
    assert slope.dtype == torch.float32
    slope.square().sum().backward()
    exact = torch.autograd.grad(F.conv2d(x, weight, None, 1, 1, 1, 2).square().sum(), x)[0]
    torch.testing.assert_close(slope, exact, rtol=0.1, atol=0.5)
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_a_block_is_right_to_the_second_derivative() -> None:
    torch.manual_seed(0)
    block = loud(Block(2, 2, 2, 2).double())
    names = [name for name, _ in block.named_parameters()]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x,))  # type: ignore[no-any-return]

    inputs = (torch.randn(1, 2, 2, 3, **DOUBLE), *(p.detach().requires_grad_() for p in block.parameters()))  # type: ignore[call-overload]
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_penalties_pass_through_the_critic() -> None:
    """The slope's gradient with respect to the weights, against differences."""
    torch.manual_seed(0)
    critic = loud(R3Critic((1, 8, 8), classes=2, width=4, largest=8, blocks=1, group=2)).double()
    image = torch.randn(2, 1, 8, 8, **DOUBLE)  # type: ignore[call-overload]
    label = torch.tensor([0, 1])

    def penalty() -> Tensor:
        return slope_square(critic(image, label), image).mean()

    weight = critic.stages[0][0].spatial.weight
    (slope,) = torch.autograd.grad(penalty(), weight)
    step = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * 1e-5 * step)
        ends.append(penalty().item())
        with torch.no_grad():
            weight.sub_(sign * 1e-5 * step)
    assert (slope * step).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_upsampling_is_zero_insertion_and_a_filter() -> None:
    x = torch.randn(2, 3, 5, 6)
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    torch.testing.assert_close(bilinear(x), up2(x, torch.outer(taps, taps)))
    assert torch.autograd.gradgradcheck(bilinear, torch.randn(1, 1, 3, 2, **DOUBLE))  # type: ignore[call-overload]


def test_blocks_begin_as_the_identity_and_keep_the_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 8, 8)
    block = Block(32, 16, 2, 4)
    assert torch.equal(block(x), x)
    nn.init.normal_(block.leave.weight, std=64**-0.5)
    grown = (block(x) - x).var().item()
    assert 0.3 < grown * 4 < 1.5  # four blocks add about what was there (fix-up: 1 / depth each)


def test_sizes_may_differ_from_stage_to_stage() -> None:
    sizes: dict[str, Any] = {"width": (24, 16, 8), "blocks": (1, 2, 1), "group": (8, 4, 4), "expansion": 3}
    generator = R3Generator((3, 16, 16), latent=5, classes=3, embedding=7, **sizes)
    critic = R3Critic((3, 16, 16), classes=3, embedding=9, **sizes)
    assert generator.project.in_features == 12
    assert critic.project.out_features == 9
    assert [len(stage) for stage in generator.stages] == [1, 3, 2]
    assert [len(stage) for stage in critic.stages] == [2, 3, 1]
    assert generator.stages[1][1].spatial.weight.shape == (48, 4, 3, 3)
    assert to_tree(from_tree(to_tree(generator))) == to_tree(generator)
    label = torch.tensor([0, 2])
    assert critic(generator(torch.randn(2, 5), label), label).shape == (2,)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": (8, 8)}, r"(?s)width=\(8, 8\).* 3 sizes"),
        ({"blocks": (1, 1, 0)}, "blocks="),
        ({"group": (8, 8, 8, 8)}, "group="),
        ({"group": 0}, r"group must be at least 1, not 0\n\nhint: one number"),
        ({"width": 28, "largest": 28, "group": 16, "expansion": 3}, "cannot be parted"),
    ],
)
def test_sizes_that_do_not_fit_are_named(wrong: dict[str, Any], said: str) -> None:
    for network in (R3Generator, R3Critic):
        with pytest.raises(WrongUse, match=said):
            network((3, 16, 16), **wrong)


def test_a_group_of_nothing_is_named_as_it_was_given() -> None:
    spec = catalog.recipe("r3gan")
    with pytest.raises(WrongUse, match="group must be at least 1, not 0"):
        spec(made_up().train, **spec.small, group=0)


def test_parts_are_all_of_the_critic() -> None:
    critic = R3Critic((3, 32, 32), classes=3, width=8, largest=16, blocks=1)
    parts = {id(p) for part in critic.parts() for p in part.parameters()}
    assert parts == {id(p) for p in critic.parameters()}
    assert len(critic.parts()) == 5


def test_labels_matter_and_their_mean_stands_for_none() -> None:
    generator = loud(R3Generator((1, 8, 8), classes=3, latent=4, width=8, blocks=1)).eval()
    z = torch.randn(2, 4)
    a, b = generator(z, torch.tensor([0, 1])), generator(z, torch.tensor([1, 1]))
    assert not torch.allclose(a[0], b[0])
    torch.testing.assert_close(a[1], b[1])
    assert generator(z).isfinite().all()


def test_classes_begin_quieter_than_latents() -> None:
    table = R3Generator((1, 8, 8), classes=16, latent=512, width=8, blocks=1).label.table
    assert table.weight.std().item() == pytest.approx(16**-0.5, rel=0.05)  # of one-hot labels' linear layer


@pytest.mark.parametrize(("side", "gamma"), [(8, 1.0), (64, 1.0), (128, 12.1), (256, 147.0)])
def test_gamma_grows_with_the_size_as_slopes_shrink(side: int, gamma: float) -> None:
    """The authors' presets are 1 at 64 pixels and 150 at 256; it falls to a tenth."""
    spec = catalog.recipe("r3gan")
    method = spec(made_up((1, side, side), n=8, held_out=4).train, **spec.small).method
    assert isinstance(method, Adversarial)
    weight = method.penalties[0].weight
    assert isinstance(weight, Callable)
    assert weight(Clock(0, 100, 0)) == pytest.approx(gamma, rel=0.01)
    assert weight(Clock(100, 100, 10)) == pytest.approx(gamma / 10, rel=0.01)
