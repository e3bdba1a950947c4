"""Terms of a critic's loss by name, as recipes are asked for them: "r1:0.1:16,lecam"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from diptych.adversarial.augment.diffaugment import DiffAugment
from diptych.adversarial.penalties import (
    ApproximateSlopePenalty,
    Consistency,
    Dragan,
    Drift,
    LeCam,
    LipschitzPenalty,
    Penalty,
    of,
    r1,
    r1_r2,
    r2,
)
from diptych.errors import WrongUse, did_you_mean


class Named(NamedTuple):
    """A penalty that can be asked for by name."""

    weight: float  # where none is given, the paper's
    build: Callable[[float, int, int], Penalty]  # from a weight, each how many steps, channels of an image


PENALTIES: Mapping[str, Named] = MappingProxyType(
    {
        "r1": Named(1.0, lambda weight, every, _: r1(weight, every)),
        "r2": Named(1.0, lambda weight, every, _: r2(weight, every)),
        "r1r2": Named(1.0, lambda weight, every, _: r1_r2(weight, every)),
        "approximate-r1r2": Named(
            1.0, lambda weight, every, _: ApproximateSlopePenalty(of(weight), every=every)
        ),
        "gradient-penalty": Named(10.0, lambda weight, every, _: LipschitzPenalty(weight, every=every)),
        "dragan": Named(10.0, lambda weight, every, _: Dragan(weight, every=every)),
        "consistency": Named(
            10.0,
            lambda weight, every, channels: Consistency(
                DiffAugment("translation", channels), weight, every=every
            ),
        ),
        "lecam": Named(0.3, lambda weight, every, _: LeCam(weight, every=every)),
        "drift": Named(1e-3, lambda weight, every, _: Drift(weight, every)),
    }
)


def penalties_of(text: str, *, channels: int = 0) -> list[Penalty]:
    """The terms that a text names, each as `name`, `name:weight` or `name:weight:every`, with commas between.

    A lazy term is computed at each `every`-th step, so many times as heavy. "none" is an empty list.
    channels: of an image, where the critic sees stacks of them. Raises WrongUse, naming the part that cannot
    be read.
    """
    return [] if text in ("", "none") else [penalty_of(part.strip(), channels) for part in text.split(",")]


def penalty_of(part: str, channels: int) -> Penalty:
    """One of them."""
    name, *numbers = part.split(":")
    if name not in PENALTIES:
        raise WrongUse(f"there is no penalty called {name!r}", did_you_mean(name, list(PENALTIES)))
    weight, build = PENALTIES[name]
    try:
        weight, every = float(numbers[0]) if numbers else weight, int(numbers[1]) if numbers[1:] else 1
    except ValueError:
        every = 0
    if every < 1 or numbers[2:]:
        raise WrongUse(
            f"{part!r} is not name:weight:every, a number and whole steps", f"{name}:{weight}:16, say"
        )
    return build(weight, every, channels)
