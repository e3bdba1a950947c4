"""The U-Net against formulas, in every layout, with checkpoints, in bfloat16, under forward derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.networks.edm2 import EDM2UNet
from diptych.networks.norm_silu import norm_silu, walks_badly
from diptych.networks.unet import Attention, Block, UNet


def loud(network: nn.Module, seed: int = 1) -> nn.Module:
    """Normal weights everywhere: a fresh network begins as the identity."""
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3)
    return network


def little(shape: tuple[int, int, int] = (3, 10, 12), **arguments: Any) -> UNet:
    network = loud(UNet(shape, classes=3, width=8, multipliers=(1, 2), blocks=1, **arguments))
    assert isinstance(network, UNet)
    return network


def inputs(n: int = 4, shape: tuple[int, int, int] = (3, 10, 12)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, level = torch.randn(n, *shape, generator=generator), torch.randn(n, generator=generator)
    return x, level, torch.arange(n) % 4


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
def test_norm_silu_is_its_formula(graded: bool, modulated: bool) -> None:
    norm = nn.GroupNorm(2, 8)
    loud(norm)
    n = 256  # few would take torch's own
    x = torch.randn(n, 8, 4, 5).contiguous(memory_format=torch.channels_last)
    scale, shift = torch.randn(2, n, 8, 1, 1) if modulated else (None, None)
    grouped = x.reshape(n, 2, 4 * 20)
    mean, variance = grouped.mean(2, keepdim=True), grouped.var(2, keepdim=True, unbiased=False)
    h = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    h = h * norm.weight[:, None, None] + norm.bias[:, None, None]
    if scale is not None and shift is not None:
        h = h * (1 + scale) + shift
    before = x.clone()
    assert walks_badly(x)
    assert not walks_badly(x[:3])
    with torch.set_grad_enabled(graded):
        torch.testing.assert_close(norm_silu(x, norm, scale, shift), h / (1 + (-h).exp()))
    assert torch.equal(x, before)


def test_a_large_mean_costs_few_digits() -> None:
    norm, x = (
        nn.GroupNorm(2, 8),
        1000 + torch.randn(256, 8, 4, 4).contiguous(memory_format=torch.channels_last),
    )
    with torch.no_grad():
        found = norm_silu(x, norm)
        expected = F.silu(F.group_norm(x.double(), 2))
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_attention_is_its_formula() -> None:
    layer = Attention(128, 4)  # two heads
    loud(layer)
    x = torch.randn(2, 128, 3, 5).contiguous(memory_format=torch.channels_last)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).view(2, 3, 2, 64, 15).unbind(1)  # (B, heads, 64, positions)
    weights = (q.transpose(2, 3) @ k / 8).softmax(3)
    seen = (v @ weights.transpose(2, 3)).reshape(2, 128, 3, 5)
    torch.testing.assert_close(layer(x), (x + layer.out(seen)) * 0.5**0.5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("resample", ["", "down", "up"])
def test_a_block_is_its_formula(resample: str) -> None:
    block = Block(8, 8 if resample else 12, 16, 0.0, 4, resample=resample)
    loud(block)
    x, embedding = torch.randn(2, 8, 4, 6), torch.randn(2, 16)
    change = {
        "": lambda image: image,
        "down": lambda image: image.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)),
        "up": lambda image: image.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[resample]
    h = block.conv1(change(F.silu(block.norm1(x))))
    scale, shift = block.affine(embedding)[:, :, None, None].split(h.shape[1], 1)
    h = block.conv2(F.silu(block.norm2(h) * (1 + scale) + shift))
    expected = (block.skip(change(x)) + h) * 0.5**0.5
    torch.testing.assert_close(block(x, embedding), expected, atol=1e-5, rtol=1e-5)
    halves = x[:, :3], x[:, 3:]
    assert torch.equal(block(halves[0], embedding, halves[1]), block(x, embedding))


def test_layouts_agree_and_channels_last_stays() -> None:
    network, (x, level, label) = little(), inputs()
    expected = network(x, level, label)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = network(x.contiguous(memory_format=torch.channels_last), level, label)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    layouts = []

    def note(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        layouts.append(result.is_contiguous(memory_format=torch.channels_last))

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.GroupNorm, Block)):
            module.register_forward_hook(note)
    network(x.contiguous(memory_format=torch.channels_last), level, label)
    assert len(layouts) > 40
    assert all(layouts)


def saved_bytes(network: UNet) -> tuple[int, list[Tensor]]:
    """What autograd keeps between the passes, and the gradients."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x, level, label = inputs()
    x.requires_grad_()
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = network(x, level, label)
    loss = y.square().sum() + torch.rand(())
    network.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return sum(kept.values()), [x.grad, *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_saves_memory_and_changes_no_bit(dropout: float) -> None:
    plain, checkpointed = (little(dropout=dropout, checkpointing=on).train() for on in (False, True))
    (much, expected), (few, found) = saved_bytes(plain), saved_bytes(checkpointed)
    assert len(expected) == len(found) > 50
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert few < 0.5 * much
    if dropout:
        other = saved_bytes(little(checkpointing=True).train())[1]
        assert not torch.equal(other[0], found[0])  # the masks were there


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own forward derivatives
@pytest.mark.parametrize("checkpointing", [False, True])
def test_forward_derivatives_agree_with_backward_ones(checkpointing: bool) -> None:
    network, (x, level, label) = little(checkpointing=checkpointing), inputs()
    u, v = torch.randn_like(x), torch.randn_like(x)
    value, pushed = torch.func.jvp(lambda x: network(x, level, label), (x,), (u,))
    x.requires_grad_()
    y = network(x, level, label)
    (pulled,) = torch.autograd.grad(y, x, v)
    torch.testing.assert_close(value, y)
    torch.testing.assert_close((v * pushed).sum(), (pulled * u).sum(), rtol=1e-3, atol=1e-3)


def test_bfloat16_is_close() -> None:
    network, (x, level, label) = little(), inputs()
    with torch.no_grad():
        expected = network(x, level, label)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(x, level, label).float()
    off = (found - expected).std() / expected.std()
    assert 0 < off < 0.03


def test_one_level_for_all_and_no_label() -> None:
    network, (x, _, _) = little(), inputs()
    level = torch.tensor([0.4])
    torch.testing.assert_close(network(x, level), network(x, level.repeat(4), torch.full((4,), 3)))


@pytest.mark.parametrize("width", [36, 100])
def test_any_even_width_has_heads(width: int) -> None:
    x, level, _ = inputs(1, (3, 8, 8))
    for kind in (UNet, EDM2UNet):
        network = kind((3, 8, 8), width=width, multipliers=(1, 1), blocks=1, attention=1)
        assert network(x, level).shape == x.shape
    with pytest.raises(WrongUse, match="even"):
        UNet((3, 8, 8), width=width + 1)
