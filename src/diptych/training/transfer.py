"""A training that begins from another run: weights are taken over where names and shapes agree."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.errors import DiptychError, RunError, WrongUse
from diptych.runs import Run, open_run
from diptych.saveable import to_tree
from diptych.system.files import read_json, read_tensors
from diptych.training.fsdp import as_in
from diptych.training.likeness import CRITIC, unlike
from diptych.training.state import Training

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
        if apart := list(other_settings(training, training.settings.init)):
            log.warning(
                "the weights of %s mean something else here: %s; its settings would keep its images",
                training.settings.init,
                "; ".join(apart),
            )
        if shrinks(training):
            log.warning(
                "the networks begin at their smallest size again, whatever was taken over of larger ones: "
                "--grown 0 trains them at full size from the start"
            )
    elif still := held_still(training):
        log.warning(
            "%s hold still as they were initialised: to freeze layers is meant for a training that "
            "begins from another run, with --init RUN",
            still,
        )
    return 0.0


def shrinks(training: Training) -> bool:
    """Whether the first step makes a generator that grows smaller than it is."""
    network, grow = (getattr(training.method, name, None) for name in ("generator", "grow"))
    if grow is None or not hasattr(network, "level"):
        return False
    twin: Any = copy.copy(network)  # its level is to be read, not set
    before = twin.level
    grow(twin, training.clock)
    return bool(twin.level < before)


def held_still(training: Training) -> str:
    """How many weights no optimizer trains, though they could be; "" where all are trained."""
    groups = (group for optimizer in training.optimizers() for group in optimizer.param_groups)
    trained = {id(weight) for group in groups for weight in group["params"]}
    weights = [p for p in training.method.parameters() if p.requires_grad]
    still = sum(p.numel() for p in weights if id(p) not in trained)
    return f"{still:,} of {sum(p.numel() for p in weights):,} weights" if still else ""


def transfer(training: Training, run: str) -> Taken:
    """Takes over the networks of another run, and their averages, where names and shapes agree.

    The averages keep what they were and forget it as at the end of a training: see `Training.move_average`.
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


def other_settings(training: Training, run: str) -> Iterator[str]:
    """Arguments of networks that differ from that run's though no shape tells it, each as a phrase."""
    opened, critic = open_run(run), described(getattr(training.method, "critic", None))
    part = "model" if critic is None else "generator"
    with suppress(RunError):  # a model that is not @saveable says nothing of itself
        yield from unlike(training.method.model, read_json(opened.path / "model.json"), part)
    if critic is None:
        return
    with suppress(DiptychError, ValueError, TypeError):  # nor does a recipe of another version or package
        if (theirs := critic_of(opened, training)) is not None:
            yield from unlike(critic, theirs, "critic")


def described(critic: nn.Module | None) -> nn.Module | None:
    """A critic that is @saveable, taken out of what it is wrapped in; None where there is none."""
    while critic is not None and not hasattr(critic, "_arguments"):
        critic = getattr(critic, "critic", None)
    return critic


def critic_of(opened: Run, training: Training) -> Mapping[str, Any] | None:
    """The constructors of a run's critic: as converted, or as its recipe makes it of our data."""
    from diptych import catalog  # imports every method

    if (opened.path / CRITIC).exists():
        tree = read_json(opened.path / CRITIC)
        return tree if isinstance(tree, Mapping) else None
    if not (opened.path / "recipe.json").exists():
        return None
    recorded = opened.recipe
    spec = catalog.recipe(recorded["recipe"])
    given = {name: value for name, value in recorded.get("arguments", {}).items() if name in spec.defaults}
    with torch.random.fork_rng(devices=[]):  # weights remain a function of the seed
        critic = described(getattr(spec(training.data, **given).method, "critic", None))
    return None if critic is None else to_tree(critic)


@torch.no_grad()
def copied(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> set[str]:
    """Writes theirs over ours where names and shapes agree; returns those names."""
    same = {key for key in ours.keys() & theirs.keys() if ours[key].shape == theirs[key].shape}
    for key in same:
        ours[key].copy_(as_in(theirs[key], ours[key]))
    return same


__all__ = ["Taken", "begin", "other_settings", "transfer"]
