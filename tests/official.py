"""Made-up official pickles, and what their networks compute, written out from the papers.

The pickles have the structure that the public training codes of StyleGAN2-ADA, StyleGAN3 and R3GAN leave; the
weights are random. The functions below work on tensors by their official names.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import signal, special
from torch import Tensor

Tensors = dict[str, Tensor]
ROOT2 = math.sqrt(2)


# ---------------------------------------------------------------------------------------------- pickles


def network(name: str, tensors: Tensors, arguments: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    """A module tree that pickles like a persistent class: its source, its arguments, its state."""
    return Persistent(name, tree(tensors, attributes, arguments))


class Persistent:
    """Pickles as a call of torch_utils.persistence._reconstruct_persistent_obj."""

    def __init__(self, name: str, state: dict[str, Any]) -> None:
        self.name, self.state = name, state

    def __reduce__(self) -> Any:
        source = "raise SystemExit('the source in a pickle was executed')"
        meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": self.name,
            "state": self.state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None


def tree(
    tensors: Tensors, attributes: Mapping[str, Any], arguments: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The state of a module: its own tensors, and modules within it."""
    own = {name: value for name, value in tensors.items() if "." not in name}
    parts = dict.fromkeys(name.split(".")[0] for name in tensors if "." in name)
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict((n, torch.nn.Parameter(v)) for n, v in own.items() if v.requires_grad),
        "_buffers": OrderedDict((n, v) for n, v in own.items() if not v.requires_grad),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict(
            (part, Persistent("Layer", tree(under(tensors, part), under(attributes, part), {})))
            for part in parts
        ),
        **{name: value for name, value in attributes.items() if "." not in name},
    }
    return state | ({} if arguments is None else {"_init_args": (), "_init_kwargs": dict(arguments)})


def under(flat: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What belongs to one part, without its name."""
    return {name[len(part) + 1 :]: value for name, value in flat.items() if name.startswith(f"{part}.")}


def plain_network(tensors: Tensors) -> Any:
    """A module tree that pickles by the names of its classes, as R3GAN's do."""
    made = sys.modules["training.networks"].Generator()
    made.__dict__ = plain_tree(tensors)
    return made


def plain_tree(tensors: Tensors) -> dict[str, Any]:
    """The state of such a module."""
    state = tree(tensors, {}, None)
    for part in state["_modules"]:
        made = sys.modules["R3GAN.Networks"].Layer()
        made.__dict__ = plain_tree(under(tensors, part))
        state["_modules"][part] = made
    return state


@contextmanager
def named() -> Iterator[None]:
    """Modules of the names that official pickles refer to, as long as one is written."""
    modules = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "R3GAN")}
    modules |= {name: types.ModuleType(name) for name in ("training", "training.networks", "R3GAN.Networks")}

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("a pickle was executed")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    for module, name in (("training.networks", "Generator"), ("R3GAN.Networks", "Layer")):
        setattr(modules[module], name, type(name, (), {"__module__": module}))
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def written(networks: Mapping[str, Any], protocol: int = 4) -> bytes:
    """A snapshot as training leaves it; to be called within `named`."""
    file = io.BytesIO()
    extra = {"training_set_kwargs": {"path": "images.zip"}, "augment_pipe": None}
    pickle.Pickler(file, protocol).dump({**networks, **extra})
    return file.getvalue()


class Weights:
    """Random tensors under official names."""

    def __init__(self, seed: int) -> None:
        self.stream, self.made = torch.Generator().manual_seed(seed), dict[str, Tensor]()

    def normal(
        self, name: str, *shape: int, std: float = 1.0, mean: float = 0.0, learned: bool = True
    ) -> None:
        """A parameter or a buffer."""
        value = mean + std * torch.randn(shape, generator=self.stream)
        self.made[name] = value.requires_grad_(learned)

    def linear(self, name: str, n_in: int, n_out: int, mean: float = 0.0) -> None:
        """An equalised layer."""
        self.normal(f"{name}.weight", n_out, n_in)
        self.normal(f"{name}.bias", n_out, std=0.1, mean=mean)

    def mapping(self, latent: int, style: int, classes: int, depth: int) -> None:
        """A mapping network with weights of learning rate 0.01."""
        if classes:
            self.linear("mapping.embed", classes, style)
        for i in range(depth):
            enter = style if i else latent + (style if classes else 0)
            self.normal(f"mapping.fc{i}.weight", style, enter, std=100.0)
            self.normal(f"mapping.fc{i}.bias", style, std=10.0)
        self.normal("mapping.w_avg", style, std=0.3, learned=False)


# ----------------------------------------------------------------------------------------------- R3GAN


def r3gan(seed: int, widths: list[int], group: int, blocks: int, latent: int, classes: int) -> Tensors:
    """A generator's tensors; embedding as long as the latent."""
    weights, stages = Weights(seed), "Model.MainLayers"
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    for i, c in enumerate(widths):
        if not i:
            weights.normal(f"{stages}.0.Layers.0.Basis", c, 4, 4)
            told = latent * (2 if classes else 1)
            weights.normal(f"{stages}.0.Layers.0.LinearLayer.weight", c, told, std=told**-0.5)
        else:
            weights.made[f"{stages}.{i}.Layers.0.Resampler.Kernel"] = torch.outer(taps, taps)
            if widths[i - 1] != c:
                name = f"{stages}.{i}.Layers.0.LinearLayer.Layer.weight"
                weights.normal(name, c, widths[i - 1], 1, 1, std=widths[i - 1] ** -0.5)
        for j in range(1, blocks + 1):
            block(weights, f"{stages}.{i}.Layers.{j}", c, group)
    weights.normal("Model.AggregationLayer.Layer.weight", 3, widths[-1], 1, 1, std=widths[-1] ** -0.5)
    if classes:
        weights.normal("Model.EmbeddingLayer.weight", latent, classes)
    return weights.made


def r3gan_critic(seed: int, widths: list[int], group: int, classes: int) -> Tensors:
    """A critic's tensors, of one block at each size; widths from the image on."""
    weights, stages = Weights(seed), "Model.MainLayers"
    weights.normal("Model.ExtractionLayer.Layer.weight", widths[0], 3, 1, 1)
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    for i, c in enumerate(widths):
        block(weights, f"{stages}.{i}.Layers.0", c, group)
        if i < len(widths) - 1:
            weights.made[f"{stages}.{i}.Layers.1.Resampler.Kernel"] = torch.outer(taps, taps)
            if widths[i + 1] != c:
                name = f"{stages}.{i}.Layers.1.LinearLayer.Layer.weight"
                weights.normal(name, widths[i + 1], c, 1, 1, std=c**-0.5)
    place = f"{stages}.{len(widths) - 1}.Layers.1"
    weights.normal(f"{place}.Basis.weight", widths[-1], 1, 4, 4, std=0.25)
    weights.normal(f"{place}.LinearLayer.weight", 20 if classes else 1, widths[-1], std=widths[-1] ** -0.5)
    if classes:
        weights.normal("Model.EmbeddingLayer.weight", 20, classes, std=20**-0.5)
    return weights.made


def block(weights: Weights, place: str, c: int, group: int) -> None:
    """A residual bottleneck."""
    weights.normal(f"{place}.LinearLayer1.Layer.weight", 2 * c, c, 1, 1, std=c**-0.5)
    weights.normal(f"{place}.LinearLayer2.Layer.weight", 2 * c, group, 3, 3, std=(9 * group) ** -0.5)
    weights.normal(f"{place}.LinearLayer3.Layer.weight", c, 2 * c, 1, 1, std=(2 * c) ** -0.5)
    weights.normal(f"{place}.NonLinearity1.Bias", 2 * c, std=0.1)
    weights.normal(f"{place}.NonLinearity2.Bias", 2 * c, std=0.1)


def r3gan_logit(t: Tensors, image: Tensor, label: Tensor | None) -> Tensor:
    """What R3GAN's critic says (B,)."""
    x, i = F.conv2d(image, t["Model.ExtractionLayer.Layer.weight"]), 0
    while f"Model.MainLayers.{i}.Layers.0.NonLinearity1.Bias" in t:
        x, after = (
            residual(x, under(t, f"Model.MainLayers.{i}.Layers.0")),
            under(t, f"Model.MainLayers.{i}.Layers.1"),
        )
        if "Resampler.Kernel" in after:
            c = x.shape[1]
            kernel = after["Resampler.Kernel"].expand(c, 1, 4, 4)
            x = F.conv2d(F.pad(x, (1, 1, 1, 1)), kernel, groups=c)[:, :, ::2, ::2]
        if "LinearLayer.Layer.weight" in after:
            x = F.conv2d(x, after["LinearLayer.Layer.weight"])
        if "Basis.weight" in after:
            x = (x * after["Basis.weight"][:, 0]).sum((2, 3)) @ after["LinearLayer.weight"].T
        i += 1
    return x[:, 0] if label is None else (x * t["Model.EmbeddingLayer.weight"].T[label]).sum(1)


def residual(x: Tensor, t: Tensors) -> Tensor:
    """What a bottleneck makes of x."""
    h = F.conv2d(x, t["LinearLayer1.Layer.weight"])
    h = F.leaky_relu(h + t["NonLinearity1.Bias"][:, None, None], 0.2)
    weight = t["LinearLayer2.Layer.weight"]
    h = F.conv2d(h, weight, padding=1, groups=h.shape[1] // weight.shape[1])
    h = F.leaky_relu(h + t["NonLinearity2.Bias"][:, None, None], 0.2)
    return x + F.conv2d(h, t["LinearLayer3.Layer.weight"])


def r3gan_image(t: Tensors, z: Tensor, label: Tensor | None) -> Tensor:
    """What R3GAN's generator makes of z (B, latent)."""
    if label is not None:
        z = torch.cat([z, t["Model.EmbeddingLayer.weight"].T[label]], 1)
    x = (z @ t["Model.MainLayers.0.Layers.0.LinearLayer.weight"].T)[:, :, None, None]
    x = x * t["Model.MainLayers.0.Layers.0.Basis"]
    i = 0
    while any(name.startswith(f"Model.MainLayers.{i}.") for name in t):
        place = f"Model.MainLayers.{i}.Layers"
        change = t.get(f"{place}.0.LinearLayer.Layer.weight")
        if i:
            x = up2(x if change is None else F.conv2d(x, change), t[f"{place}.0.Resampler.Kernel"])
        j = 1
        while f"{place}.{j}.NonLinearity1.Bias" in t:
            x = residual(x, under(t, f"{place}.{j}"))
            j += 1
        i += 1
    return F.conv2d(x, t["Model.AggregationLayer.Layer.weight"])


def up2(x: Tensor, kernel: Tensor) -> Tensor:
    """Zeros between pixels, then a filter of 4x4 taps that sum to 1."""
    b, c, h, w = x.shape
    spread = x.new_zeros(b, c, 2 * h, 2 * w)
    spread[:, :, ::2, ::2] = x
    weight = (4 * kernel.flip(0, 1)).expand(c, 1, 4, 4)
    return F.conv2d(F.pad(spread, (2, 1, 2, 1)), weight, groups=c)


# ------------------------------------------------------------------------------------------- StyleGAN2


def stylegan2(seed: int, side: int, base: int, classes: int, style: int = 24, latent: int = 16) -> Tensors:
    """A skip generator's tensors."""
    weights, taps = Weights(seed), torch.tensor([1.0, 3, 3, 1]) / 8
    sides = [2**k for k in range(2, side.bit_length())]
    for n in sides:
        c, before = base // n, base // (n // 2)
        place = f"synthesis.b{n}"
        weights.made[f"{place}.resample_filter"] = torch.outer(taps, taps)
        if n == 4:
            weights.normal(f"{place}.const", c, 4, 4)
        for conv, n_in in (("conv0", before), ("conv1", c)) if n > 4 else (("conv1", c),):
            weights.linear(f"{place}.{conv}.affine", style, n_in, mean=1.0)
            weights.normal(f"{place}.{conv}.weight", c, n_in, 3, 3)
            weights.normal(f"{place}.{conv}.bias", c, std=0.1)
            weights.normal(f"{place}.{conv}.noise_strength", std=0.3)
            weights.normal(f"{place}.{conv}.noise_const", n, n, learned=False)
        weights.linear(f"{place}.torgb.affine", style, c, mean=1.0)
        weights.normal(f"{place}.torgb.weight", 3, c, 1, 1)
        weights.normal(f"{place}.torgb.bias", 3, std=0.1)
    weights.mapping(latent, style, classes, 3)
    return weights.made


def styles(t: Tensors, z: Tensor, label: Tensor | None, psi: float) -> Tensor:
    """The truncated style (B, D)."""

    def unit(v: Tensor) -> Tensor:
        return v / (v.square().mean(1, keepdim=True) + 1e-8).sqrt()

    x = unit(z)
    if label is not None:
        x = torch.cat([x, unit(equalised(t, "mapping.embed", F.one_hot(label, _classes(t)).float()))], 1)
    i = 0
    while f"mapping.fc{i}.weight" in t:
        x = ROOT2 * F.leaky_relu(equalised(t, f"mapping.fc{i}", x, 0.01), 0.2)
        i += 1
    mean = t["mapping.w_avg"]
    return mean + psi * (x - mean)


def _classes(t: Tensors) -> int:
    return t["mapping.embed.weight"].shape[1]


def equalised(t: Tensors, name: str, x: Tensor, rate: float = 1.0) -> Tensor:
    """A linear layer whose weights are scaled as they are used."""
    weight = t[f"{name}.weight"]
    return x @ weight.T * (rate / math.sqrt(weight.shape[1])) + t[f"{name}.bias"] * rate


def modulated(x: Tensor, weight: Tensor, scale: Tensor, demodulate: bool, pad: int) -> Tensor:
    """A convolution with weights of its own for each image."""
    w = weight * scale[:, None, :, None, None]
    if demodulate:
        w = w / (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    images = [F.conv2d(one[None], own, padding=pad) for one, own in zip(x, w, strict=True)]
    return torch.cat(images)


def stylegan2_image(t: Tensors, z: Tensor, label: Tensor | None, psi: float, noise: bool = True) -> Tensor:
    """What a skip generator makes of z, with one style for all layers."""
    w = styles(t, z, label, psi)
    x, image = t["synthesis.b4.const"].expand(z.shape[0], -1, -1, -1), torch.zeros(())
    side = 4
    while f"synthesis.b{side}.conv1.weight" in t:
        place = f"synthesis.b{side}"
        kernel = t[f"{place}.resample_filter"]
        for conv in ("conv0", "conv1") if side > 4 else ("conv1",):
            layer = f"{place}.{conv}"
            scale = equalised(t, f"{layer}.affine", w)
            if conv == "conv0":  # the weights act on the map with zeros between pixels, then the filter
                b, c, h, _ = x.shape
                spread = x.new_zeros(b, c, 2 * h + 1, 2 * h + 1)
                spread[:, :, 1::2, 1::2] = x
                y = modulated(F.pad(spread, (1, 1, 1, 1)), t[f"{layer}.weight"].flip(2, 3), scale, True, 0)
                taps = (4 * kernel).expand(y.shape[1], 1, 4, 4)
                x = F.conv2d(F.pad(y, (1, 1, 1, 1)), taps, groups=y.shape[1])
            else:
                x = modulated(x, t[f"{layer}.weight"], scale, True, 1)
            if noise:
                x = x + t[f"{layer}.noise_const"] * t[f"{layer}.noise_strength"]
            x = ROOT2 * F.leaky_relu(x + t[f"{layer}.bias"][:, None, None], 0.2)
        scale = equalised(t, f"{place}.torgb.affine", w) / math.sqrt(x.shape[1])
        seen = (
            modulated(x, t[f"{place}.torgb.weight"], scale, False, 0)
            + t[f"{place}.torgb.bias"][:, None, None]
        )
        image = seen if side == 4 else up2(image, kernel) + seen
        side *= 2
    return image


# ------------------------------------------------------------------------------------------- StyleGAN3


def stylegan3_plan(side: int, layers: int, critical: int, base: int) -> list[dict[str, Any]]:
    """Cutoff, half-width, rate, size and channels of each signal (section 3.2)."""
    plan = []
    for i in range(layers + 1):
        share = min(i / (layers - critical), 1)
        cutoff = 2 * (side / 4) ** share
        stop = 2**2.1 * (side / 2 * 2**0.3 / 2**2.1) ** share
        rate = 2 ** math.ceil(math.log2(min(2 * stop, side)))
        plan.append(
            {
                "cutoff": cutoff,
                "half": max(stop, rate / 2) - cutoff,
                "rate": rate,
                "size": side if i >= layers - 1 else rate + 20,
                "channels": round(min(base / 2 / cutoff, 512)) if i < layers else 3,
            }
        )
    return plan


def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool) -> Tensor:
    """Kaiser's filter, by scipy."""
    if not radial:
        return torch.tensor(signal.firwin(taps, cutoff, width=width, fs=rate), dtype=torch.float32)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(x[None], x[:, None])
    jinc = special.j1(2 * cutoff * np.pi * r) / (np.pi * r)
    window = np.kaiser(taps, signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2))))
    found = jinc * np.outer(window, window)
    return torch.tensor(found / found.sum(), dtype=torch.float32)


def stylegan3(seed: int, side: int, layers: int, base: int, radial: bool, classes: int = 0) -> Tensors:
    """A generator's tensors, of 24 style values and 16 latents."""
    weights, plan, style = Weights(seed), stylegan3_plan(side, layers, 2, base), 24
    c = plan[0]["channels"]
    weights.normal("synthesis.input.weight", c, c)
    weights.linear("synthesis.input.affine", style, 4)
    weights.normal("synthesis.input.freqs", c, 2, std=plan[0]["cutoff"] / 2, learned=False)
    weights.normal("synthesis.input.phases", c, std=0.2, learned=False)
    weights.made["synthesis.input.transform"] = torch.eye(3)
    for i, to in enumerate(plan):
        at = plan[max(0, i - 1)]
        place = f"synthesis.L{i}_{to['size']}_{to['channels']}"
        kernel = 1 if radial or i == layers else 3
        weights.linear(f"{place}.affine", style, at["channels"], mean=1.0)
        weights.normal(f"{place}.weight", to["channels"], at["channels"], kernel, kernel)
        weights.normal(f"{place}.bias", to["channels"], std=0.1)
        weights.made[f"{place}.magnitude_ema"] = torch.tensor(0.5 + 0.1 * i)
        if i < layers:
            rate = 2 * max(at["rate"], to["rate"])
            up, down = rate // at["rate"], rate // to["rate"]
            weights.made[f"{place}.up_filter"] = lowpass(6 * up, at["cutoff"], 2 * at["half"], rate, False)
            disc = radial and i < layers - 2
            weights.made[f"{place}.down_filter"] = lowpass(6 * down, to["cutoff"], 2 * to["half"], rate, disc)
    weights.mapping(16, style, classes, 2)
    return weights.made


def stylegan3_image(
    t: Tensors, z: Tensor, label: Tensor | None, psi: float, plan: list[dict[str, Any]]
) -> Tensor:
    """What StyleGAN3's generator makes of z."""
    w = styles(t, z, label, psi)
    x = fourier(t, w, plan[0])
    for i, to in enumerate(plan):
        at = plan[max(0, i - 1)]
        place = f"synthesis.L{i}_{to['size']}_{to['channels']}"
        weight, scale = t[f"{place}.weight"], equalised(t, f"{place}.affine", w)
        x = x / t[f"{place}.magnitude_ema"].sqrt()
        pad, last = weight.shape[2] - 1, i == len(plan) - 1
        if last:
            scale = scale / math.sqrt(weight.shape[1])
        x = modulated(x, weight, scale, not last, pad) + t[f"{place}.bias"][:, None, None]
        if not last:
            x = alias_free(x, t, place, at, to, pad)
    return 0.25 * x


def fourier(t: Tensors, w: Tensor, band: dict[str, Any]) -> Tensor:
    """The input: waves over the plane, turned and moved by the style."""
    v = equalised(t, "synthesis.input.affine", w)
    v = v / v[:, :2].norm(dim=1, keepdim=True)
    grid = (torch.arange(band["size"]) + (1 - band["size"]) / 2) / band["rate"]
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    images = []
    for cosine, sine, dx, dy in v:
        px, py = x - dx, y - dy  # first turned, then moved
        qx, qy = cosine * px - sine * py, sine * px + cosine * py
        fx, fy = (f[:, None, None] for f in t["synthesis.input.freqs"].T)
        waves = torch.sin(2 * math.pi * (fx * qx + fy * qy + t["synthesis.input.phases"][:, None, None]))
        reach = torch.hypot(fx, fy)
        waves = waves * (1 - (reach - band["cutoff"]) / (band["rate"] / 2 - band["cutoff"])).clamp(0, 1)
        images.append(
            torch.einsum("oc,chw->ohw", t["synthesis.input.weight"] / math.sqrt(fx.shape[0]), waves)
        )
    return torch.stack(images)


def alias_free(x: Tensor, t: Tensors, place: str, at: dict[str, Any], to: dict[str, Any], pad: int) -> Tensor:
    """Leaky ReLU between two filters, by zero insertion and dense convolutions (appendix C.3)."""
    up_taps, down_taps = t[f"{place}.up_filter"], t[f"{place}.down_filter"]
    rate = 2 * max(at["rate"], to["rate"])
    up, down = rate // at["rate"], rate // to["rate"]
    total = (to["size"] - 1) * down + 1 - (at["size"] + pad) * up + up_taps.shape[0] + down_taps.shape[0] - 2
    before = (total + up) // 2
    b, c, h, _ = x.shape
    spread = x.new_zeros(b, c, h * up, h * up)
    spread[:, :, ::up, ::up] = x
    spread = F.pad(spread, (before, total - before) * 2)
    square = torch.outer(up_taps, up_taps) * up**2
    x = F.conv2d(spread, square.flip(0, 1).expand(c, 1, -1, -1), groups=c)
    x = (ROOT2 * F.leaky_relu(x, 0.2)).clamp(-256, 256)
    square = down_taps if down_taps.ndim == 2 else torch.outer(down_taps, down_taps)
    return F.conv2d(x, square.flip(0, 1).expand(c, 1, -1, -1), groups=c)[:, :, ::down, ::down]
