"""A recipe: a function from data and keyword arguments to a Method with its batch size and averaging.

The function's docstring is the help, its keyword arguments are the flags.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, get_type_hints

from diptych.checking import Within as Within  # where whoever writes a recipe looks for it
from diptych.data.images import Images
from diptych.errors import WrongUse, did_you_mean
from diptych.given import fitted, plain
from diptych.method import Method

# the share of the averaged weights kept by a step, from the images seen after it and those in it
Averaging = Callable[[int, int], float]


def half_life(images: float = 500_000, ramp: float = 0.05) -> Averaging:
    """Half of the past is forgotten in so many images (EDM, Karras et al., 2022, table 6), or in the share
    `ramp` of the images seen so far where that is less."""
    return lambda seen, step: 0.5 ** (step / min(images, ramp * seen))


def power(sigma_rel: float) -> Averaging:
    """What was learned at time tau weighs as tau^gamma (EDM2, Karras et al., 2024, arXiv:2312.02696).

    sigma_rel: the deviation of that profile as a share of t, below 12^-1/2; 0.05 to 0.15 are usual.
    """
    gamma = power_exponent(sigma_rel)
    return lambda seen, step: (1 - step / seen) ** (gamma + 1)  # equation 127


def power_exponent(sigma_rel: float) -> float:
    """gamma > 0 with sigma_rel = sqrt((gamma + 1) / ((gamma + 3) (gamma + 2)^2)) (EDM2, equation 123)."""
    if not 0 < sigma_rel < 12**-0.5:
        raise WrongUse(
            f"sigma_rel lies between 0 and {12**-0.5:.4f}, not at {sigma_rel}", "0.05 to 0.15 are usual"
        )
    low, high = 0.0, 1 / sigma_rel  # sigma_rel falls with gamma, and is below 1 / gamma
    for _ in range(100):
        gamma = (low + high) / 2
        wide = math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2) > sigma_rel
        low, high = (gamma, high) if wide else (low, gamma)
    return gamma


by_half_life = half_life()


# kinds of arguments that recipes have; a recipe's own are made likewise
Size = Annotated[int, Within(lambda value: value >= 1, "at least 1")]  # whole, of something
AutoSize = Annotated[int, Within(lambda value: value >= 0, "at least 0, which is by the size of images")]
Count = Annotated[int, Within(lambda value: value >= 0, "at least 0")]
NotNegative = Annotated[float, Within(lambda value: value >= 0, "at least 0")]
Positive = Annotated[float, Within(lambda value: value > 0, "above 0")]
AboveOne = Annotated[float, Within(lambda value: value > 1, "above 1")]
Share = Annotated[float, Within(lambda value: 0 <= value < 1, "a share below 1")]
NamesRun = Annotated[str, "names a run"]  # an argument that is the directory of a run, whose weights it reads


@dataclass(frozen=True)
class Recipe:
    """What to train and how: everything but the data, the budget and the seed."""

    method: Method
    batch: int = 64  # images a step
    average: Averaging = by_half_life


@dataclass(frozen=True)
class RecipeSpec:
    """A recipe function with its name, its flags and the small arguments that tests use."""

    name: str
    build: Callable[..., Recipe]
    small: Mapping[str, Any]
    needs_labels: bool = False  # without them it refuses

    @property
    def doc(self) -> str:
        """The recipe's docstring."""
        return inspect.getdoc(self.build) or ""

    @property
    def defaults(self) -> dict[str, Any]:
        """Each flag with its default."""
        parameters = list(inspect.signature(self.build).parameters.values())[1:]
        return {p.name: p.default for p in parameters}

    @property
    def types(self) -> dict[str, Any]:
        """Each flag with its type."""
        hints = get_type_hints(self.build)
        return {name: hints.get(name, Any) for name in self.defaults}

    @cached_property
    def ranges(self) -> dict[str, list[Within]]:
        """Of each flag, what its number may be."""
        hints = get_type_hints(self.build, include_extras=True)
        marks = {name: getattr(hints.get(name), "__metadata__", ()) for name in self.defaults}
        return {name: [mark for mark in of if isinstance(mark, Within)] for name, of in marks.items()}

    @property
    def runs(self) -> list[str]:
        """The flags that name runs, whose weights the training reads."""
        hints = get_type_hints(self.build, include_extras=True)
        return [name for name in self.defaults if hints.get(name) == NamesRun]

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults with these changes. Raises WrongUse for a flag that the recipe does not have, and for
        a number that it cannot be; text, which a command line has in a number's place, is not looked at."""
        for name in given:
            if name not in self.defaults:
                raise WrongUse(
                    f"{self.name} has no argument {name!r}", did_you_mean(name, list(self.defaults))
                )
        given = {name: plain(value) for name, value in given.items()}
        for name, value in given.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise WrongUse(f"{name} must be finite, not {value}", f"the default is {self.defaults[name]}")
            for within in self.ranges.get(name, ()):
                if type(value) in (int, float) and not within.holds(value):
                    raise WrongUse(
                        f"{name} must be {within.says}, not {value}", f"the default is {self.defaults[name]}"
                    )
        return {**self.defaults, **given}

    def fitted(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The same, each of its flag's type. Raises WrongUse, naming the flag, for one that is not."""
        chosen = self.arguments(given)
        return chosen | fitted({name: chosen[name] for name in given}, self.types, self.defaults)

    def __call__(self, data: Images, **given: Any) -> Recipe:
        return self.build(data, **self.fitted(given))


def recipe(needs_labels: bool = False, **small: Any) -> Callable[[Callable[..., Recipe]], RecipeSpec]:
    """Marks a function as a recipe; `small` are arguments that make it small enough for a test."""

    def mark(build: Callable[..., Recipe]) -> RecipeSpec:
        return RecipeSpec(build.__name__.replace("_", "-"), build, small, needs_labels)

    return mark
