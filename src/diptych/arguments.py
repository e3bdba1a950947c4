"""Arguments of the functions that people call: opened, made plain, or refused with the nearest name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from diptych.data import open_data
from diptych.data.images import DataSet
from diptych.errors import WrongUse, did_you_mean
from diptych.given import fitted, plain

P = ParamSpec("P")
R = TypeVar("R")


def spelled(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which raises WrongUse with the nearest name for an argument that it does not have.

    One that takes others as well, options of a model or arguments of a recipe, leaves them to these; where
    one is unknown there, and nearer to an argument of the function, the hint says so.
    """
    kinds = signature(function).parameters
    known = [name for name, one in kinds.items() if one.kind is not Parameter.VAR_KEYWORD]
    takes_others = len(known) < len(kinds)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        others = [name for name in kwargs if name not in known]
        if others and not takes_others:
            said = f"{function.__name__} has no argument {others[0]!r}"
            raise WrongUse(said, did_you_mean(others[0], known))
        try:
            return function(*args, **kwargs)
        except WrongUse as error:
            if hint := meant(error, others, known):
                raise WrongUse(error.message, hint) from error
            raise

    return checked


def meant(error: WrongUse, others: Iterable[str], known: Sequence[str]) -> str:
    """The hint that one of `known` was meant by the name that an error is about; empty where none was."""
    for name in others:
        unknown = (f"no option {name!r}", f"no argument {name!r}", "images have no options")
        if any(said in error.message for said in unknown):
            offered = error.hint.removeprefix("did you mean ").removesuffix("?")
            near = get_close_matches(name, [offered, *known], n=1)
            return f"did you mean {near[0]}?" if near and near[0] in known else ""
    return ""


def opened(data: str | Path | DataSet, given: Mapping[str, Any]) -> DataSet:
    """The data set, opened with the arguments of `open_data` among these.

    Raises WrongUse for one that is not its default where the images are in memory already.
    """
    hints, parameters = get_type_hints(open_data), dict(signature(open_data).parameters)
    kinds = {**hints, "cache": str | None}  # a path is text by then
    usual = {name: one.default for name, one in parameters.items() if name != "source"}
    asked = {name: given[name] for name in usual}
    if not isinstance(data, DataSet):
        return open_data(data, **fitted(asked, kinds, usual))
    for name, value in asked.items():
        if value is not usual[name] and value != usual[name]:
            said = f"{name} says how a source is opened, and these images are open already"
            raise WrongUse(said, f"open_data(..., {name}=...)")
    return data


def picked(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of these names, made `plain`."""
    return {name: plain(given[name]) for name in names}


def several(ruler: str | Sequence[str]) -> list[str]:
    """One ruler or several as a list. Raises WrongUse where there is none."""
    rulers = [ruler] if isinstance(ruler, str) else list(ruler)
    if not rulers:
        raise WrongUse("there is no ruler to measure with", 'leave ruler out for "builtin"')
    return rulers


def single(ruler: str | Sequence[str]) -> str:
    """The only ruler. Raises WrongUse where there are several."""
    rulers = several(ruler)
    if len(rulers) > 1:
        raise WrongUse(f"this is measured with one ruler, not {len(rulers)}", "diptych.compare takes several")
    return rulers[0]
