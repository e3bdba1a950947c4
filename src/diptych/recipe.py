"""A recipe: a function from data and keyword arguments to a Method with its batch size and averaging.

The function's docstring is the help, its keyword arguments are the flags.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from diptych.data.images import Images
from diptych.errors import WrongUse, did_you_mean
from diptych.method import Method


@dataclass(frozen=True)
class Recipe:
    """What to train and how: everything but the data, the budget and the seed."""

    method: Method
    batch: int = 64  # images a step
    half_life: float = 500_000  # of the averaged weights, in images (EDM, Karras et al., 2022, table 6)
    ramp: float = 0.05  # the half-life is at most this share of the images seen so far


@dataclass(frozen=True)
class RecipeSpec:
    """A recipe function with its name, its flags and the small arguments that tests use."""

    name: str
    build: Callable[..., Recipe]
    small: Mapping[str, Any]

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
        return {name: hints[name] for name in self.defaults}

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults with these changes. Raises WrongUse for a flag that the recipe does not have."""
        for name in given:
            if name not in self.defaults:
                raise WrongUse(
                    f"{self.name} has no argument {name!r}", did_you_mean(name, list(self.defaults))
                )
        return {**self.defaults, **given}

    def __call__(self, data: Images, **given: Any) -> Recipe:
        return self.build(data, **self.arguments(given))


def recipe(**small: Any) -> Callable[[Callable[..., Recipe]], RecipeSpec]:
    """Marks a function as a recipe; `small` are arguments that make it small enough for a test."""

    def mark(build: Callable[..., Recipe]) -> RecipeSpec:
        return RecipeSpec(build.__name__.replace("_", "-"), build, small)

    return mark
