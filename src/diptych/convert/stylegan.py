"""StyleGAN2-ADA's and StyleGAN3's official networks (Karras et al., 2020, arXiv:2006.06676; 2021,
arXiv:2106.12423) as ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diptych.adversarial.style import StyleModel
from diptych.convert.contents import Network
from diptych.convert.parts import TOO_MANY, Options, Parts, fitted
from diptych.networks.modulated import FILTER
from diptych.networks.stylegan2 import ARCHITECTURES, StyleGAN2Generator
from diptych.networks.stylegan2_critic import StyleGAN2Critic
from diptych.networks.stylegan3 import StyleGAN3Generator
from diptych.unpickler import ConvertError

FILTERS = r".*resample_filter"
LAYER = ("weight", "bias", "affine.weight", "affine.bias")
SPEED = (
    "num_fp16_res",
    "fp16_channels_last",
    "fused_modconv_default",
    "freeze_layers",
)  # not what is computed
LARGEST = 4096  # pixels
RATE = 0.01  # of a mapping's layers, as ours has it


def is_stylegan2(network: Network) -> bool:
    """Whether a network is built like StyleGAN2's generator."""
    return "synthesis.b4.const" in network.tensors


def is_stylegan3(network: Network) -> bool:
    """Whether a network is built like StyleGAN3's generator."""
    return "synthesis.input.freqs" in network.tensors


def stylegan2(network: Network) -> StyleModel:
    """The generator of StyleGAN2. Raises ConvertError where its options are not known here."""
    options = Options(network.arguments)
    synthesis = options.nested("synthesis_kwargs")  # they lie there or beside, by the version
    synthesis.left |= options.left
    shape, common = common_options(synthesis)
    rate = rate_of(synthesis, network)
    architecture = chosen(synthesis, "skip")
    given: dict[str, Any] = {
        **common,
        "architecture": architecture,
        "clamp": clamp_of(network, "synthesis.b4.conv1"),
    }
    common_layers(synthesis)
    synthesis.only("use_noise", True)
    synthesis.finish()
    parts = Parts(network)
    tensors, mapping = mapping_of(parts, rate, "w_avg")
    tensors["synthesis.blocks.0.start"] = parts.take("synthesis.b4.const")
    for level, side in enumerate(sides(shape)):
        theirs, ours = f"synthesis.b{side}", f"synthesis.blocks.{level}"
        for conv in ("conv0", "conv1") if level else ("conv1",):
            move(parts, tensors, f"{theirs}.{conv}", f"{ours}.{conv}", *LAYER)
            tensors[f"{ours}.{conv}.strength"] = parts.take(f"{theirs}.{conv}.noise_strength")
            tensors[f"{ours}.{conv}.noise"] = parts.take(f"{theirs}.{conv}.noise_const")[None]
        if f"{theirs}.torgb.weight" in parts:
            move(parts, tensors, f"{theirs}.torgb", f"{ours}.to_image", *LAYER)
        if f"{theirs}.skip.weight" in parts:
            move(parts, tensors, f"{theirs}.skip", f"{ours}.skip", "weight")
    parts.check_filters(FILTERS, list(FILTER))
    parts.finish()
    return StyleModel(fitted(lambda: StyleGAN2Generator(shape, **given, **mapping), tensors)).eval()


def critic(network: Network) -> StyleGAN2Critic:
    """The critic of StyleGAN2 and StyleGAN3. Raises ConvertError where its options are not known here."""
    options = Options(network.arguments)
    shape, common = common_options(options)
    rate = rate_of(options, network)
    architecture = chosen(options, "resnet")
    layers, end = options.nested("block_kwargs"), options.nested("epilogue_kwargs")
    given = {**common, "architecture": architecture, "clamp": clamp_of(network, "b4.conv")}
    if end.left.get("mbstd_group_size", 4) is None:  # the whole batch, as is a group larger than it
        end.left["mbstd_group_size"] = TOO_MANY
    given["group"] = end.whole("mbstd_group_size", 4, 1)
    end.only("mbstd_num_channels", 1)
    options.only("cmap_dim", None)
    for part in (options, layers, end):
        common_layers(part)
        part.finish()
    parts = Parts(network)
    tensors: dict[str, Tensor] = {}
    told: dict[str, Any] = {}
    if "mapping.fc0.weight" in parts:
        tensors, found = mapping_of(parts, rate, None)
        told = {name: found[name] for name in ("classes", "mapping_layers")}
    for level, side in enumerate(reversed(sides(shape)[1:])):
        for theirs, ours in (
            ("fromrgb", "from_image"),
            ("conv0", "conv0"),
            ("conv1", "conv1"),
            ("skip", "skip"),
        ):
            names = ("weight",) if theirs == "skip" else ("weight", "bias")
            if f"b{side}.{theirs}.weight" in parts:
                move(parts, tensors, f"b{side}.{theirs}", f"blocks.{level}.{ours}", *names)
    for theirs, ours in (("fromrgb", "from_image"), ("conv", "conv"), ("fc", "dense"), ("out", "out")):
        if f"b4.{theirs}.weight" in parts:
            move(parts, tensors, f"b4.{theirs}", f"end.{ours}", "weight", "bias")
    parts.check_filters(FILTERS, list(FILTER))
    parts.finish()
    return fitted(lambda: StyleGAN2Critic(shape, **given, **told), tensors)


def stylegan3(network: Network) -> StyleModel:
    """The generator of StyleGAN3, t or r. Raises ConvertError where its options are not known here."""
    options = Options(network.arguments)
    shape, given = common_options(options)
    rate = rate_of(options, network)
    given |= {
        "layers": options.whole("num_layers", 14, 2, 64),
        "critical": options.whole("num_critical", 2, 1, 63),
        "first_cutoff": options.number("first_cutoff", 2, 0.1),
        "first_stopband": options.number("first_stopband", 2**2.1, 0.1),
        "last_stopband": options.number("last_stopband_rel", 2**0.3, 0.1, 16),
        "margin": options.whole("margin_size", 10, 0, 256),
        "scale": options.number("output_scale", 0.25),
        "kernel": options.whole("conv_kernel", 3, 1, 7),
        "taps": options.whole("filter_size", 6, 1, 32),
        "oversampling": options.whole("lrelu_upsampling", 2, 2, 8),
        "radial": options.yes("use_radial_filters"),
        "clamp": clamp_of(network, "synthesis.L0_", exactly=False),
    }
    options.ignore("conv_clamp", "magnitude_ema_beta", *SPEED)
    options.finish()
    parts = Parts(network)
    tensors, mapping = mapping_of(parts, rate, "w_avg")
    move(parts, tensors, "synthesis.input", "synthesis.input", *LAYER[:1], *LAYER[2:], "freqs", "phases")
    parts.check_same("synthesis.input.transform", torch.eye(3))
    names = sorted(
        {name.split(".")[1] for name in parts.left if name.startswith("synthesis.L")}, key=layer_number
    )
    for i, name in enumerate(names):
        move(parts, tensors, f"synthesis.{name}", f"synthesis.stack.{i}", *LAYER)
        tensors[f"synthesis.stack.{i}.magnitude"] = parts.take(f"synthesis.{name}.magnitude_ema")
    found = fitted_but_for_filters(shape, given | mapping, tensors, parts, names)
    parts.finish()
    return StyleModel(found).eval()


def fitted_but_for_filters(
    shape: tuple[int, int, int],
    given: dict[str, Any],
    tensors: dict[str, Tensor],
    parts: Parts,
    names: list[str],
) -> StyleGAN3Generator:
    """The network, once its low-pass filters are known to be those that the file brings."""
    network = fitted(lambda: StyleGAN3Generator(shape, **given), tensors)
    layers: Any = network.synthesis.stack
    for name, layer in zip(names, layers, strict=True):
        parts.check_same(f"synthesis.{name}.up_filter", layer.up_taps)
        parts.check_same(f"synthesis.{name}.down_filter", layer.down_taps)
    return network


def common_options(options: Options) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """Image shape (C, H, W), and channels; what tensors tell as well is left to them."""
    side = options.whole("img_resolution", 0, 8, LARGEST)
    if side & (side - 1):
        raise ConvertError(f"its images are of {side} pixels, which is not a power of two")
    shape = (options.whole("img_channels", 3, 1, 4), side, side)
    options.ignore("z_dim", "c_dim", "w_dim")
    base, largest = options.whole("channel_base", 32768, 1, 2**24), options.whole("channel_max", 512, 1)
    return shape, {"base": base, "largest": largest}


def rate_of(options: Options, network: Network) -> float:
    """By how much a mapping's weights are scaled as they are used: its learning rate's share.

    Tensors tell its other options, or it has to be as ours is.
    """
    given = options.nested("mapping_kwargs")
    given.only("activation", "lrelu")
    given.ignore("num_layers", "embed_features", "layer_features", "w_avg_beta")
    held = Options(network.attributes).left.get("mapping.fc0.bias_gain")
    rate = given.number("lr_multiplier", RATE if held is None else held, 1e-6, 100)
    given.finish()
    if held is not None and held != rate:
        raise ConvertError(f"its network was made with lr_multiplier={rate}, and its mapping has {held}")
    return rate


def common_layers(options: Options) -> None:
    """What layers of StyleGAN2 are the same in."""
    options.only("activation", "lrelu")
    options.only("resample_filter", [int(tap) for tap in FILTER], list(FILTER))
    options.ignore("conv_clamp", *SPEED)


def chosen(options: Options, default: str) -> str:
    """The architecture."""
    architecture = options.left.get("architecture", default)
    options.only("architecture", *ARCHITECTURES)
    return str(architecture)


def clamp_of(network: Network, layer: str, exactly: bool = True) -> float:
    """What a layer's activations are cut off at; 0 for not at all. Versions differ in the default."""
    found = [
        value
        for name, value in network.attributes.items()
        if name.endswith(".conv_clamp")
        and (name == f"{layer}.conv_clamp" if exactly else name.startswith(layer))
    ]
    if not found:
        return 0.0
    return Options({"conv_clamp": found[0]}).number("conv_clamp", 0)


def sides(shape: tuple[int, int, int]) -> list[int]:
    """The sizes of blocks from 4 pixels up."""
    return [2**power for power in range(2, shape[1].bit_length())]


def mapping_of(parts: Parts, rate: float, mean: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mapping's tensors under our names, and the arguments that they tell."""
    tensors: dict[str, Tensor] = {}
    depth = parts.numbers(r"mapping\.fc(\d+)\.")
    style, enter = parts.shape(f"mapping.fc{depth - 1}.weight", 2)[0], parts.shape("mapping.fc0.weight", 2)[1]
    classes = embedding = 0
    if "mapping.embed.weight" in parts:
        embedding, classes = parts.shape("mapping.embed.weight", 2)
        move(parts, tensors, "mapping.embed", "mapping.embed.linear", "weight", "bias")
    for i in range(depth):
        for name in ("weight", "bias"):
            tensors[f"mapping.stack.{i}.{name}"] = parts.take(f"mapping.fc{i}.{name}") * (rate / RATE)
    if mean is not None:
        tensors["mean"] = parts.take(f"mapping.{mean}")
    known = {"classes": classes, "latent": enter - embedding, "style": style, "mapping_layers": depth}
    return tensors, known


def move(parts: Parts, tensors: dict[str, Tensor], theirs: str, ours: str, *names: str) -> None:
    """Tensors of a part under their new names."""
    for name in names:
        tensors[f"{ours}.{name}"] = parts.take(f"{theirs}.{name}")


def layer_number(name: str) -> int:
    """3 from L3_36_512."""
    number = name[1:].split("_")[0]
    if not number.isdecimal():
        raise ConvertError(f"its network has a layer {name[:40]}, which is not known here")
    return int(number)
