"""What options ask for: values of their kinds, schedules, noise levels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
from torch import Tensor

from diptych.checking import misfit
from diptych.diffusion.samplers import GRIDS
from diptych.diffusion.samplers.grids import FOLLOWING, useful
from diptych.diffusion.schedules import Schedule, schedule
from diptych.errors import RunError, WrongUse
from diptych.saveable import LONGEST, arguments, class_name, from_tree, to_tree

if TYPE_CHECKING:
    from diptych.diffusion.model import DiffusionOptions

USUAL = 'a name, as "cosine", or an object, as Flow(3.0) or Tabulated.of(alpha, sigma)'
OF_LEVELS = ("grid", "schedule", "sigma_min", "sigma_max")


def fitting(cls: type, name: str, value: Any, default: Any) -> Any:
    """The value of one of the options `cls` as a file has it. Raises WrongUse where it is not of its kind."""
    value = described(value) if isinstance(value, Schedule) else _tuples(value)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            usual = f"its default is {default}" if default else "leave it out for the usual one"
            raise WrongUse(f"{name} must be finite, not {number}", usual)
    if said := misfit(value, _kinds(cls)[name], name):  # "steps is 2.5, not a whole number"
        what, _, rest = said.partition(" is ")
        found, _, kind = rest.rpartition(", not ")
        hint = USUAL if name == "schedule" else f"the default is {name}={default!r}"
        raise WrongUse(f"{what} must be {kind}, not {found}", hint)
    return value


@lru_cache
def _kinds(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _tuples(value: Any) -> Any:
    """Numbers of numpy and tensors made plain, lists made tuples."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        value = value.tolist()
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def described(own: Schedule) -> str:
    """A schedule as an option holds it: the JSON of its class and arguments, as text.

    So options stay plain in model.json, in reports and on the command line. Raises WrongUse where it cannot
    be built again from that.
    """
    kind = type(own).__name__
    try:
        tree = {"class": class_name(type(own)), **arguments(own)}
        text = json.dumps(tree, default=_plain, separators=(",", ":"))
        from_tree(json.loads(text))
    except RunError as error:
        raise WrongUse(f"this {kind} cannot be an option: {error.message}", error.hint or USUAL) from error
    if len(text) > LONGEST:
        raise WrongUse(
            f"this {kind} takes {len(text):,} characters, more than the {LONGEST:,} of an option",
            "keep it at fewer times: Tabulated.of(alpha, sigma, n=1001)",
        )
    return text


def _plain(value: Any) -> Any:
    """What json does not know: numbers of numpy, tensors, other saveable objects."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else to_tree(value)


def schedule_of(text: str) -> Schedule:
    """The schedule of this name, or of what `described` made. Raises WrongUse where there is none."""
    if not text.startswith("{"):
        return schedule(text)
    try:
        found = from_tree(json.loads(text))
    except RunError as error:
        raise WrongUse(
            f"the text describes no schedule: {error.message}", error.hint or f"it is {USUAL}"
        ) from error
    except ValueError as error:
        raise WrongUse(f"the text describes no schedule: {error}", f"it is {USUAL}") from error
    if not isinstance(found, Schedule):
        raise WrongUse(f"a {type(found).__name__} is no schedule", f"it is {USUAL}")
    return found


def noise_levels(options: DiffusionOptions, own: Schedule) -> tuple[float, ...]:
    """The noise levels that a sampler visits, falling to 0; `own` is the denoiser's schedule."""
    if options.sigmas:
        return options.sigmas
    followed = schedule_of(options.schedule) if options.schedule else own
    its = followed.ends() if options.grid in FOLLOWING else useful(followed)
    return tuple(GRIDS[options.grid](options.steps, *ends(options, its), followed))


def ends(options: DiffusionOptions, own: tuple[float, float]) -> tuple[float, float]:
    """The smallest and the largest noise level: those asked for, else these of the schedule's."""
    low, high = options.sigma_min or own[0], options.sigma_max or own[1]
    if not low < high:
        raise WrongUse(
            f"the smallest noise level, {low:g}, must be below the largest, {high:g}",
            f"the schedule's own are {own[0]:g} and {own[1]:g}",
        )
    return low, high


def refuse_idle(before: DiffusionOptions, options: DiffusionOptions, changes: Mapping[str, Any]) -> None:
    """Raises WrongUse where what the changes ask for of the noise levels moves none of them."""
    given = [name for name in OF_LEVELS if changes.get(name) is not None]
    asked = [name for name in given if getattr(options, name) != getattr(before, name)]
    if asked and options.sigmas and "sigmas" not in changes:
        means = "means" if len(asked) == 1 else "mean"
        raise WrongUse(
            f"{', '.join(asked)} {means} nothing beside noise levels that are given",
            "--sigmas none leaves them out",
        )
    if "schedule" in asked and options.schedule and options.grid not in FOLLOWING:
        raise WrongUse(
            f"the grid {options.grid} follows no schedule", f"these do: {', '.join(sorted(FOLLOWING))}"
        )
