"""What there is, by listing folders: a new file in methods/ or metrics/ is found without being named."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from diptych.errors import WrongUse, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diptych.metric import Metric
    from diptych.recipe import RecipeSpec

T = TypeVar("T")


def recipes() -> dict[str, RecipeSpec]:
    """Every recipe by name."""
    from diptych.recipe import RecipeSpec

    return {
        spec.name: spec for module in _modules("diptych.methods") for spec in _members(module, RecipeSpec)
    }


def metrics() -> dict[str, Metric]:
    """Every metric by name."""
    from diptych.metric import Metric

    return {
        metric.name: metric for module in _modules("diptych.metrics") for metric in _members(module, Metric)
    }


def recipe(name: str) -> RecipeSpec:
    """The recipe of this name. Raises WrongUse with the nearest name where there is none."""
    known = recipes()
    if name not in known:
        raise WrongUse(f"there is no recipe called {name}", did_you_mean(name, list(known)))
    return known[name]


def _modules(package: str) -> Iterator[ModuleType]:
    folder = importlib.import_module(package)
    for found in pkgutil.iter_modules(folder.__path__):
        yield importlib.import_module(f"{package}.{found.name}")


def _members(module: ModuleType, kind: type[T]) -> list[T]:
    return [value for value in vars(module).values() if isinstance(value, kind)]
