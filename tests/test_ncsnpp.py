"""DDPM++ and NCSN++ against a plain computation on the same weights, written down layer by layer."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import made_up
from diptych import catalog
from diptych.errors import WrongUse
from diptych.networks.blocks import Resample
from diptych.networks.ncsnpp import DDPMPP, NCSNPP, NCSNpp
from diptych.saveable import arguments
from diptych.training.state import Settings, Training
from test_adm import shaken

HALF = math.sqrt(0.5)


def fir(x: Tensor, taps: tuple[int, ...], way: str) -> Tensor:
    """Upsampling puts zeros between pixels and filters, downsampling filters and drops pixels."""
    kernel = torch.tensor(taps, dtype=x.dtype) / sum(taps)
    n = len(taps)
    if way == "up":
        spaced = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        spaced[:, :, ::2, ::2] = 4 * x
        x, before, after = spaced, n // 2, n - 1 - n // 2
    else:
        before, after = (n - 1) // 2, n - 1 - (n - 1) // 2
    x = F.pad(x, (before, after, before, after))
    rows = sum(kernel[i] * x[:, :, i : x.shape[2] - n + 1 + i] for i in range(n))
    both = sum(kernel[i] * rows[..., i : rows.shape[3] - n + 1 + i] for i in range(n))
    return both if way == "up" else both[:, :, ::2, ::2]


def valid(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    """Filters where the filter fits, and drops every second pixel."""
    kernel = torch.tensor(taps, dtype=x.dtype) / sum(taps)
    patches = x.unfold(2, len(taps), 2).unfold(3, len(taps), 2)
    return torch.einsum("bchwij,i,j->bchw", patches, kernel, kernel)


class Plain:
    """The network by its parameters' names; groups of 4 channels."""

    def __init__(self, network: NCSNpp, taps: tuple[int, ...]) -> None:
        self.w, self.taps = dict(network.named_parameters()), taps

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (-1, 4))
        variance, mean = torch.var_mean(grouped, (2, 3, 4), correction=0, keepdim=True)
        normed = ((grouped - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        return normed * self.w[f"{name}.weight"][:, None, None] + self.w[f"{name}.bias"][:, None, None]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].flatten(1).T + self.w[f"{name}.bias"]

    def block(self, name: str, x: Tensor, e: Tensor, way: str = "") -> Tensor:
        def moved(image: Tensor) -> Tensor:
            return fir(image, self.taps, way) if way else image

        h = self.conv(f"{name}.conv1", moved(F.silu(self.norm(f"{name}.norm1", x))))
        h = F.silu(self.norm(f"{name}.norm2", h + self.linear(f"{name}.affine", e)[:, :, None, None]))
        h = self.conv(f"{name}.conv2", h)
        x = moved(x)
        x = HALF * ((self.conv(f"{name}.skip", x) if f"{name}.skip.weight" in self.w else x) + h)
        if f"{name}.attention.qkv.weight" in self.w:
            tokens = self.norm(f"{name}.attention.norm", x).flatten(2).mT
            q, k, v = self.linear(f"{name}.attention.qkv", tokens).chunk(3, 2)
            seen = (q @ k.mT / math.sqrt(q.shape[2])).softmax(2) @ v
            x = HALF * (x + self.linear(f"{name}.attention.out", seen).mT.unflatten(2, x.shape[2:]))
        return x

    def head(self, i: int, x: Tensor) -> Tensor:
        return self.conv(f"heads.{i}.2", F.silu(self.norm(f"heads.{i}.0", x)))


def plain(network: NCSNpp, taps: tuple[int, ...], x: Tensor, told: Tensor, label: Tensor) -> Tensor:
    """Two levels with one block each, attention at the coarse one."""
    p = Plain(network, taps)
    told = torch.cat([told.cos(), told.sin()], 1) + p.w["label.table.weight"][label]
    e = F.silu(p.linear("mapping.2", F.silu(p.linear("mapping.0", told))))
    image, x = x, p.conv("encoder.stem", x)
    one = p.block("encoder.levels.0.0", x, e)
    two = p.block("encoder.shrink.0", one, e, "down")
    if "encoder.pyramid.0.conv.weight" in p.w:
        wide = F.conv2d(
            image,
            p.w["encoder.pyramid.0.conv.weight"],
            p.w["encoder.pyramid.0.conv.bias"],
            padding=1 + (len(taps) - 1) // 2,
        )
        two = HALF * (two + valid(wide, taps))
    three = p.block("encoder.levels.1.0", two, e)
    x = p.block("encoder.middle.1", p.block("encoder.middle.0", three, e), e)
    for i, skip in enumerate((three, two)):
        x = p.block(f"decoder.levels.0.{i}", torch.cat([x, skip], 1), e)
    coarse = x
    x = p.block("decoder.grow.0", x, e, "up")
    for i, skip in enumerate((one, p.conv("encoder.stem", image))):
        x = p.block(f"decoder.levels.1.{i}", torch.cat([x, skip], 1), e)
    if "heads.1.2.weight" in p.w:
        return fir(p.head(0, coarse), taps, "up") + p.head(1, x)
    return p.head(0, x)


CONFIGURATIONS = {
    "ddpm++": DDPMPP,
    "ncsn++": NCSNPP,
    "ncsn++ with an output pyramid": {**NCSNPP, "decoder": "skip"},
    "ddpm++ with smooth filters and an output pyramid": {**DDPMPP, "taps": (1, 3, 3, 1), "decoder": "skip"},
    "ddpm++ with an input pyramid": {**DDPMPP, "encoder": "residual"},
}


@pytest.mark.parametrize("arguments", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_equals_the_plain_computation(arguments: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = NCSNpp((3, 8, 8), classes=2, width=8, multipliers=(1, 2), blocks=1, attention=(4,), **arguments)
    shaken(network).double()
    x, label = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 2])
    if arguments["embedding"] == "fourier":
        level = torch.tensor([-0.5, 0.7])
        told = level[:, None] * network.level.frequencies.float()
        assert network.level.frequencies.std() > 2 * math.pi * 8
    else:
        level = torch.tensor([3.0, 700.0])
        told = level[:, None] * torch.tensor([10_000 ** (-i / 3) for i in range(4)])
    with torch.no_grad():
        # the embedding is computed in single precision whatever follows
        network.level.register_forward_hook(lambda module, given, found: found.double())
        found = network(x, level, label)
        known = plain(network, tuple(arguments["taps"]), x, told.double(), label)  # type: ignore[call-overload]
    assert known.std() > 0.1
    torch.testing.assert_close(found, known, rtol=0, atol=1e-4)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("way", ["up", "down"])
def test_resampling(taps: tuple[int, ...], way: str) -> None:
    x = torch.randn(2, 3, 8, 10)
    torch.testing.assert_close(Resample(3, way, taps)(x), fir(x, taps, way))


def test_begins_close_to_zero() -> None:
    x = torch.randn(2, 3, 16, 16)
    found = NCSNpp((3, 16, 16), width=32, blocks=1, multipliers=(1, 2), **NCSNPP)(x, torch.tensor([0.3]))
    assert 0 < found.abs().max() < 1e-3


@pytest.mark.parametrize("arguments", [DDPMPP, NCSNPP], ids=["ddpm++", "ncsn++"])
def test_any_size(arguments: dict[str, object]) -> None:
    network = NCSNpp((1, 9, 13), out_channels=2, width=8, multipliers=(1, 2, 2), blocks=1, **arguments)
    x = torch.randn(2, 1, 9, 13)
    with torch.no_grad():
        found = shaken(network)(x, torch.tensor([0.3]))
        assert found.shape == (2, 2, 9, 13)
        alone = network(x[:1].contiguous(memory_format=torch.channels_last), torch.tensor([0.3]))
    torch.testing.assert_close(found[:1], alone, rtol=1e-4, atol=1e-5)


def test_adaptive_scale() -> None:
    """The embedding may scale norms instead: twice as many numbers a block."""
    added = NCSNpp((1, 8, 8), width=8, multipliers=(1,), blocks=1)
    scaled = NCSNpp((1, 8, 8), width=8, multipliers=(1,), blocks=1, adaptive=True)
    blocks = 1 + 2 + 2
    more = sum(p.numel() for p in scaled.parameters()) - sum(p.numel() for p in added.parameters())
    assert more == blocks * 8 * (4 * 8 + 1)


def test_hears_of_augmentation_and_of_none() -> None:
    torch.manual_seed(0)
    network = shaken(NCSNpp((1, 8, 8), width=8, multipliers=(1, 2), blocks=1, augments=3))
    x, told = torch.randn(2, 1, 8, 8), torch.tensor([0.3])
    with torch.no_grad():
        none = network(x, told)
        torch.testing.assert_close(network(x, told, None, torch.zeros(2, 3)), none)
        assert (network(x, told, None, torch.ones(2, 3)) - none).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "form"), [("ddpmpp", DDPMPP), ("ncsnpp", NCSNPP)])
def test_edm_trains_it(name: str, form: dict[str, object]) -> None:
    """With the width and the depth of the U-Net, and told of augmentation."""
    spec, data = catalog.recipe("edm"), made_up((3, 16, 16), classes=0)
    recipe = spec(data.train, **spec.small, network=name, augment=0.5)
    training = Training(recipe, data.train, 24, Settings(device="cpu"))
    network = training.method.model.denoiser.network  # type: ignore[union-attr]
    assert isinstance(network, NCSNpp)
    assert {key: arguments(network)[key] for key in form} == form
    assert (arguments(network)["width"], arguments(network)["multipliers"]) == (8, (1, 2, 2))
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    for _ in range(3):
        training.step()
    training.check_finite()
    assert [key for key, p in network.named_parameters() if torch.equal(p, before[key])] == []


def test_networks_that_edm_does_not_have() -> None:
    spec, data = catalog.recipe("edm"), made_up().train
    with pytest.raises(WrongUse, match="no network called ncsn") as caught:
        spec(data, **spec.small, network="ncsn++")
    assert "did you mean ncsnpp" in caught.value.hint
    for name in ("unet", "ddpmpp", "ncsnpp"):
        with pytest.raises(WrongUse, match="width must be even"):
            spec(data, **{**spec.small, "width": 9}, network=name)


@pytest.mark.parametrize("what", ["embedding", "encoder", "decoder"])
def test_unknown_names(what: str) -> None:
    with pytest.raises(WrongUse, match=f"no {what} called fourrier"):
        NCSNpp((1, 8, 8), **{what: "fourrier"})
