"""How training begins from converted weights: the recipe's flags that give the same networks, if any do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from diptych import catalog
from diptych.allowance import TooMuch, allowance
from diptych.convert.official import Converted
from diptych.data.images import Images
from diptych.errors import DiptychError
from diptych.method import Method
from diptych.networks.r3gan import R3Generator
from diptych.networks.stylegan2 import StyleGAN2Generator
from diptych.networks.stylegan3 import StyleGAN3Generator
from diptych.saveable import arguments, to_tree
from diptych.training.likeness import shapes, unlike

CHANNELS = (1, 3, 4)  # that `--channels` knows


def training_line(converted: Converted, out: Path) -> str:
    """The command that trains on from these networks, or why no recipe makes the same ones."""
    name, flags = flags_of(converted.model.network, converted.critic)
    cannot = f"no flags of {name} give these networks"
    try:
        with allowance(
            sum(map(values, parts(converted))), sum(len(shapes(part)) for part in parts(converted))
        ):
            method = catalog.recipe(name)(alike(converted), **flags).method
    except (TooMuch, DiptychError, ValueError) as error:
        return f"{cannot}: {getattr(error, 'message', error)}"
    if shapes(method.model) != shapes(converted.model):
        return f"{cannot}: its tensors have other shapes"
    but = [*unlike(method.model, to_tree(converted.model), "generator"), *critics(method, converted.critic)]
    channels, size, _ = converted.model.image_shape
    if channels not in CHANNELS:
        return f"{cannot}: no data is read as images of {channels} channels"
    words = ["diptych", "train", name, "DATA", "--init", str(out)]
    for flag, value in {"size": size, "channels": channels, **flags}.items():
        words += [f"--{flag.replace('_', '-')}", str(value)]
    return shlex.join(words) + (f"  # though {'; '.join(but)}" if but else "")


def parts(converted: Converted) -> list[nn.Module]:
    """The networks that there are."""
    return [part for part in (converted.model, converted.critic) if part is not None]


def values(module: nn.Module) -> int:
    """Numbers in its tensors."""
    return sum(tensor.numel() for tensor in module.state_dict().values())


def critics(method: Method, theirs: nn.Module | None) -> list[str]:
    """By what a method's critic differs from a converted one."""
    ours = method.critic
    if theirs is None or not isinstance(ours, nn.Module):
        return []
    if shapes(ours) != shapes(theirs):
        return ["the critic has tensors of other shapes, and those begin anew"]
    return list(unlike(ours, to_tree(theirs), "critic"))


def alike(converted: Converted) -> Images:
    """One image of the size, the colours and the classes that the networks know."""
    (channels, height, width), classes = converted.model.image_shape, converted.model.classes
    labels = np.zeros(1, np.int64) if classes else None
    pixels = np.zeros((1, height, width, channels), np.uint8)
    return Images(pixels, labels, tuple(map(str, range(classes))))


def flags_of(generator: nn.Module, critic: nn.Module | None) -> tuple[str, Mapping[str, Any]]:
    """The recipe, and its flags as far as they can be read off the networks' arguments."""
    given = arguments(generator)
    judge = arguments(critic) if critic is not None else {}
    side = min(given["image_shape"][1:])
    if isinstance(generator, R3Generator):
        width = given["width"]
        flags = {"width": width[-1], "largest": max(width), "latent": given["latent"]}
        return "r3gan", flags | {"blocks": max(given["blocks"]), "group": max(given["group"])}
    names = {"latent": "latent", "style": "style", "mapping": "mapping_layers", "label_gain": "label_gain"}
    shared = {flag: given[name] for flag, name in names.items()} | {"group": judge.get("group", 4)}
    if isinstance(generator, StyleGAN3Generator):
        twice = 1 + given["radial"]
        sizes = {"width": given["base"] // (side * twice), "largest": given["largest"] // twice}
        more = {
            "config": "r" if given["radial"] else "t",
            "layers": given["layers"],
            "margin": given["margin"],
        }
        return "stylegan3", more | sizes | shared
    assert isinstance(generator, StyleGAN2Generator)
    sizes = {"width": given["base"] // side, "largest": given["largest"]}
    looks = {"architecture": given["architecture"], "clamp": given["clamp"]}
    return "stylegan2", sizes | shared | looks | {"critic": judge.get("architecture", "resnet")}
