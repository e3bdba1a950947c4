"""The interface of all feature extractors, and how one is found by its name."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import diptych.features
from diptych.errors import WrongUse, did_you_mean

BUILTIN = "diptych-1"  # what "builtin" means in this version
HELPERS = {"extractor", "store"}


class Extractor(nn.Module, ABC):
    """Turns images into the vectors that metrics compare."""

    name: str  # with its version: "diptych-0"
    sha256: str  # of the bytes of its weights
    dim: int
    resize: str  # how images reach its input, for the ruler card
    block: int = 64  # images at a time: as many as stay in the processor's cache
    views: Mapping[str, int]  # "pooled", and perhaps "spatial" and "logits": how many numbers each has

    @abstractmethod
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Each view's float32 (N, views[name]) of uint8 images (N, C, H, W), C = 1, 3 or 4.

        "pooled" is what most metrics compare; "spatial" keeps where things are (sFID); "logits" are those of
        the extractor's own classifier (the Inception Score).
        """


def extractor(name: str = "builtin", device: torch.device | str = "cpu") -> Extractor:
    """The extractor of this name, ready to use; "inception:FILE" hands FILE to it.

    Raises WrongUse with the nearest name where there is none.
    """
    return _built(BUILTIN if name == "builtin" else name, str(device))


def names() -> list[str]:
    """Every extractor by name: a file diptych_0.py in this folder is called "diptych-0"."""
    modules = [found.name for found in pkgutil.iter_modules(diptych.features.__path__)]
    return sorted(n.replace("_", "-") for n in modules if n not in HELPERS and not n.startswith("_"))


@functools.lru_cache(maxsize=4)
def _built(name: str, device: str) -> Extractor:
    kind, _, where = name.partition(":")
    if kind not in names():
        raise WrongUse(f"there is no feature extractor called {kind}", did_you_mean(kind, names()))
    module = importlib.import_module(f"diptych.features.{kind.replace('-', '_')}")
    built: Extractor = module.build(where) if where else module.build()
    return built.to(device).eval().requires_grad_(False)


def to_rgb(image: Tensor) -> Tensor:
    """uint8 (N, C, H, W) as float RGB in [-1, 1]: grey repeated, transparency laid on white."""
    channels = image.shape[1]
    if channels not in (1, 3, 4):
        raise WrongUse(f"images have {channels} channels", "1 (grey), 3 (RGB) and 4 (RGBA) can be measured")
    value = image.float() / 127.5 - 1
    if channels == 4:
        opacity = (value[:, 3:] + 1) / 2
        return value[:, :3] * opacity + (1 - opacity)
    return value.expand(-1, 3, -1, -1)


def resized(image: Tensor, size: int) -> Tensor:
    """(N, C, size, size), bilinear, antialiased where it shrinks."""
    return interpolate(image, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
