"""Averages of a model's weights that are followed while it trains and stored along the way, so that others
can be made of them afterwards: post-hoc EMA (EDM2, Karras et al., 2024, arXiv:2312.02696, section 3.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.recipe import power
from diptych.system.files import write_tensors
from diptych.training.fsdp import as_in, local, whole

FOLDER = "averages"  # in a run directory
SIGMA_RELS = (0.05, 0.10)  # the paper's two
FORMAT = "1"
LARGEST = torch.finfo(torch.float16).max


class Averages:
    """Power-function averages of a model's parameters, one for each sigma_rel, moved by each step."""

    def __init__(self, model: nn.Module, sigma_rels: Iterable[float] = SIGMA_RELS) -> None:
        self.profiles = {sigma_rel: power(sigma_rel) for sigma_rel in sigma_rels}
        named = list(model.named_parameters())
        self.names = [name for name, _ in named]
        self.kept = {s: [p.detach().clone() for _, p in named] for s in self.profiles}

    @torch.no_grad()
    def move(self, model: nn.Module, images: int, step: int) -> None:
        """Takes in the parameters after `images` images, the last `step` of them in this step."""
        new = local(parameter.detach() for parameter in model.parameters())
        for sigma_rel, keep in self.profiles.items():
            torch._foreach_lerp_(local(self.kept[sigma_rel]), new, 1 - keep(images, step))

    def tensors(self, sigma_rel: float) -> dict[str, Tensor]:
        """An average by the parameters' names."""
        return dict(zip(self.names, self.kept[sigma_rel], strict=True))

    def store(self, directory: Path, model: nn.Module, images: int, write: bool = True) -> None:
        """Writes each average as DIRECTORY/<images>-<sigma_rel>.safetensors, with the model's buffers.

        Of several processes all call it, because tensors may lie in shares on them, and one writes.
        """
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {name: t for name, t in model.state_dict().items() if name not in parameters}
        for sigma_rel in self.profiles:
            halves = {name: half(whole(t)) for name, t in self.tensors(sigma_rel).items()}
            about = {"images": str(images), "sigma_rel": repr(sigma_rel), "format": FORMAT}
            if write:
                write_tensors(Stored.at(directory, images, sigma_rel).path, {**buffers, **halves}, about)

    def state_dict(self) -> dict[str, Any]:
        """Every average, by sigma_rel."""
        return {repr(sigma_rel): self.tensors(sigma_rel) for sigma_rel in self.profiles}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The inverse of `state_dict`, bit for bit. Raises ValueError where it has none of them."""
        for sigma_rel, tensors in self.kept.items():
            if (saved := state.get(repr(sigma_rel))) is None:
                raise ValueError("its averages were not followed from the start: --averages 0, or a new run")
            for name, tensor in zip(self.names, tensors, strict=True):
                tensor.copy_(as_in(saved[name], tensor))


@dataclass(frozen=True, order=True)
class Stored:
    """An average that was stored: of which moment, with which profile, and where."""

    images: int
    sigma_rel: float
    path: Path

    @classmethod
    def at(cls, directory: Path, images: int, sigma_rel: float) -> Stored:
        """The file that it has, or would have."""
        return cls(images, sigma_rel, directory / f"{images:012d}-{sigma_rel:.3f}.safetensors")


def stored(directory: Path) -> list[Stored]:
    """All averages in a directory, the earliest first; none where it does not exist."""
    named = [
        (re.fullmatch(r"([0-9]{12,18})-(0\.[0-9]+)", p.stem), p) for p in directory.glob("*.safetensors")
    ]
    return sorted(Stored(int(name[1]), float(name[2]), p) for name, p in named if name and int(name[1]))


def forget_after(directory: Path, images: int) -> None:
    """Deletes what was stored after so many images: a training that goes on from there makes it anew."""
    for late in stored(directory):
        if late.images > images:
            late.path.unlink()


def half(tensor: Tensor) -> Tensor:
    """float16 as in the paper's snapshots, unless it is another kind of number or too large for that."""
    if tensor.dtype != torch.float32 or not bool((tensor.abs() <= LARGEST).all()):
        return tensor
    return tensor.half()
