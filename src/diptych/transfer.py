"""A training that begins from another run: weights are taken over where names and shapes agree."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diptych.errors import RunError, WrongUse
from diptych.files import read_tensors
from diptych.fsdp import as_in
from diptych.runs import open_run
from diptych.training import Training

log = logging.getLogger("diptych")
NAMED = 3  # tensors that did not fit are named, so many of them


@dataclass(frozen=True)
class Taken:
    """What a training took over of its weights, and what it left as initialised."""

    run: str
    tensors: int
    values: int  # numbers in them
    values_in_all: int
    left: tuple[str, ...]  # tensors that had no counterpart, or one of another shape

    def __str__(self) -> str:
        share = f"{self.values / 1e6:,.2f} of {self.values_in_all / 1e6:,.2f} million values"
        text = f"{self.tensors} of {self.tensors + len(self.left)} tensors ({share}) are those of {self.run}"
        if not self.left:
            return text
        more = f" and {len(self.left) - NAMED} more" if len(self.left) > NAMED else ""
        return f"{text}; as initialised: {', '.join(self.left[:NAMED])}{more}"


def begin(training: Training) -> float:
    """Takes over what the settings name, and says it in the log. Returns the seconds spent so far: none."""
    if training.settings.init:
        log.info("%s", transfer(training, training.settings.init))
    elif still := held_still(training):
        log.warning(
            "%s hold still as they were initialised: to freeze layers is meant for a training that "
            "begins from another run, with --init RUN",
            still,
        )
    return 0.0


def held_still(training: Training) -> str:
    """How many weights no optimizer trains, though they could be; "" where all are trained."""
    groups = (group for optimizer in training.optimizers() for group in optimizer.param_groups)
    trained = {id(weight) for group in groups for weight in group["params"]}
    weights = [p for p in training.method.parameters() if p.requires_grad]
    still = sum(p.numel() for p in weights if id(p) not in trained)
    return f"{still:,} of {sum(p.numel() for p in weights):,} weights" if still else ""


def transfer(training: Training, run: str) -> Taken:
    """Takes over the networks of another run, and their averages, where names and shapes agree.

    Optimizers, and modules that say `starts_anew`, begin as always. A directory with a model but no training
    state lends its model. Raises WrongUse where there is no run, or nothing of it fits.
    """
    method, average = weights(run)
    modules = training.method.named_modules()
    anew = tuple(f"{name}." for name, module in modules if getattr(module, "starts_anew", False))
    ours = {key: tensor for key, tensor in training.method.state_dict().items() if not key.startswith(anew)}
    taken = copied(ours, method)
    learned = {key for key, _ in training.method.named_parameters()}
    if not learned & taken:
        raise WrongUse(
            f"nothing in {run} fits this recipe", "begin from a run of the same recipe, with the same widths"
        )
    copied(training.average.state_dict(), average)
    return Taken(
        run,
        len(taken),
        sum(ours[key].numel() for key in taken),
        sum(tensor.numel() for tensor in ours.values()),
        tuple(key for key in ours if key not in taken),
    )


def weights(run: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """The networks in training and the averaged model of a run. Raises WrongUse where there are none."""
    try:
        opened = open_run(run)
        if newest := opened.checkpoints.newest:
            with told(opened.path / "model.safetensors"):
                state = opened.checkpoints.read(newest)
                return state["method"], state["average"]
        model, _ = read_tensors(opened.path / "model.safetensors")
    except RunError as error:
        raise WrongUse(f"training cannot begin from {run}: {error.message}", error.hint) from error
    return {f"model.{key}": tensor for key, tensor in model.items()}, model


@contextmanager
def told(instead: Path) -> Iterator[None]:
    """Where a state cannot be read, this is said, and that the model has to do, if there is one."""
    try:
        yield
    except RunError as error:
        if not instead.exists():
            raise
        log.warning("%s: only the model is taken over, %s", error.message, instead)


@torch.no_grad()
def copied(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> set[str]:
    """Writes theirs over ours where names and shapes agree; returns those names."""
    same = {key for key in ours.keys() & theirs.keys() if ours[key].shape == theirs[key].shape}
    for key in same:
        ours[key].copy_(as_in(theirs[key], ours[key]))
    return same


__all__ = ["Taken", "begin", "transfer"]
