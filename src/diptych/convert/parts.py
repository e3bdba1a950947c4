"""What translations of networks share: tensors and arguments taken by name, and fitted to our networks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from diptych.allowance import TooMuch, allowance
from diptych.convert.contents import Network
from diptych.errors import DiptychError
from diptych.unpickler import ConvertError

N = TypeVar("N", bound=nn.Module)
TOO_MANY = 2**16  # of anything that is counted in an architecture


class Parts:
    """The tensors of a network, each taken once; what is left over was not understood."""

    def __init__(self, network: Network) -> None:
        self.network, self.left = network, dict(network.tensors)

    def take(self, name: str) -> Tensor:
        """The tensor of this name. Raises ConvertError where there is none."""
        if name not in self.left:
            raise ConvertError(f"its network has no {name}, as it should have")
        return self.left.pop(name)

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """A tensor's shape. Raises ConvertError where it is not there or has another number of dimensions."""
        tensor = self.left.get(name)
        if tensor is None or tensor.ndim != rank:
            raise ConvertError(f"its network has no {name} of {rank} dimensions, as it should have")
        return tuple(tensor.shape)

    def numbers(self, pattern: str) -> int:
        """How many there are, counted from 0, of what the pattern's one group numbers."""
        found = {int(match[1]) for name in self.left if (match := re.match(pattern, name))}
        if not found or found != set(range(len(found))):
            raise ConvertError(
                f"its network has no parts {pattern.split('(')[0]}0, 1, 2 ...".replace("\\", "")
            )
        return len(found)

    def check_filters(self, pattern: str, taps: list[float]) -> None:
        """Takes all low-pass filters that the pattern names. Raises ConvertError where one is another."""
        line = torch.tensor(taps) / sum(taps)
        for name in [name for name in self.left if re.fullmatch(pattern, name)]:
            self.check_same(name, torch.outer(line, line))

    def check_same(self, name: str, expected: Tensor | None) -> None:
        """Takes a tensor that is to be what we compute ourselves. Raises ConvertError where it is another."""
        there = self.left.pop(name, None)
        if there is None and expected is None:
            return
        if (
            there is None
            or expected is None
            or there.shape != expected.shape
            or not torch.allclose(there.float(), expected.float(), rtol=1e-3, atol=1e-5)
        ):
            raise ConvertError(
                f"its network resamples or moves in another way ({name}), which is not known here"
            )

    def finish(self) -> None:
        """Raises ConvertError where something was not taken."""
        if self.left:
            names = ", ".join(sorted(self.left)[:3])
            raise ConvertError(f"its network has parts that are not known here: {names[:200]}")


class Options:
    """The arguments of a network's constructor, each asked for once; what is left over was not understood."""

    def __init__(self, *given: Mapping[str, Any]) -> None:
        self.left: dict[str, Any] = {}
        for options in given:
            self.left |= options

    def number(self, name: str, default: float, least: float = 0, most: float = TOO_MANY) -> float:
        """A number within bounds. Raises ConvertError for anything else."""
        value = self.left.pop(name, default)
        fits = isinstance(value, int | float) and math.isfinite(value) and least <= value <= most
        if isinstance(value, bool) or not fits:
            raise ConvertError(f"its network was made with {name}={str(value)[:40]}, which cannot be")
        return float(value)

    def whole(self, name: str, default: int, least: int = 0, most: int = TOO_MANY) -> int:
        """A whole number within bounds. Raises ConvertError for anything else."""
        value = self.number(name, default, least, most)
        if value != int(value):
            raise ConvertError(f"its network was made with {name}={value}, which cannot be")
        return int(value)

    def yes(self, name: str) -> bool:
        """Whether something that is off by default is on."""
        value = self.left.pop(name, False)
        if not isinstance(value, bool):
            raise ConvertError(f"its network was made with {name}={str(value)[:40]}, which cannot be")
        return value

    def nested(self, name: str) -> Options:
        """Arguments of a part, named together."""
        value = self.left.pop(name, {})
        if not isinstance(value, dict):
            raise ConvertError(f"its network was made with {name}={str(value)[:40]}, which cannot be")
        return Options(value)

    def only(self, name: str, *values: Any) -> None:
        """An argument that may have these values only. Raises ConvertError for another."""
        if name in self.left and (value := self.left.pop(name)) not in values:
            raise ConvertError(
                f"its network was made with {name}={str(value)[:40]}, which is not known here",
                f"known is {name}={' or '.join(str(v) for v in values)}",
            )

    def ignore(self, *names: str) -> None:
        """Arguments that change nothing here."""
        for name in names:
            self.left.pop(name, None)

    def finish(self) -> None:
        """Raises ConvertError where something was not asked for."""
        if self.left:
            names = ", ".join(f"{name}={str(value)[:40]}" for name, value in sorted(self.left.items())[:3])
            raise ConvertError(f"its network was made with {names}, which is not known here")


def fitted(make: Callable[[], N], tensors: Mapping[str, Tensor]) -> N:
    """One of our networks with these tensors as its own.

    Raises ConvertError where they do not fit, before more memory is taken than they account for.
    """
    try:
        with allowance(sum(map(Tensor.numel, tensors.values())), len(tensors)):
            network = make()
    except TooMuch as error:
        raise ConvertError(f"its network is of another architecture: {error.message}") from error
    except (DiptychError, RuntimeError, MemoryError, ValueError, OverflowError) as error:
        if isinstance(error, ConvertError):
            raise
        raise ConvertError(f"its network cannot be built here: {str(error).splitlines()[0][:200]}") from error
    check_shapes({name: tensor.shape for name, tensor in network.state_dict().items()}, tensors)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval().requires_grad_(False)


def check_shapes(wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor]) -> None:
    """Raises ConvertError for the first tensor that is missing, too many, of another shape, or not finite."""
    for name in sorted(wanted.keys() | given.keys()):
        ours, theirs = wanted.get(name), given.get(name)
        if theirs is None or ours is None or ours != theirs.shape:
            there, here = ("missing" if shape is None else tuple(shape) for shape in (shape_of(theirs), ours))
            raise ConvertError(f"its network is of another architecture: {name} is {there}, not {here}")
        if not theirs.isfinite().all():
            raise ConvertError(f"its network has weights that are not finite, in {name}")


def shape_of(tensor: Tensor | None) -> torch.Size | None:
    """Its shape, if it is there."""
    return None if tensor is None else tensor.shape
