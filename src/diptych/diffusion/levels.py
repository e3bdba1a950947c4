"""What options ask for: values of their kinds, a sampler's own options, schedules, noise levels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
from torch import Tensor

from diptych.diffusion.samplers import GRIDS, SAMPLERS, Sampler
from diptych.diffusion.samplers.grids import FOLLOWING, useful
from diptych.diffusion.samplers.options import fitted, parsed, plain, read, written
from diptych.diffusion.schedules import Schedule, schedule
from diptych.errors import RunError, WrongUse, did_you_mean
from diptych.saveable import LONGEST, arguments, class_name, from_tree, to_tree

if TYPE_CHECKING:
    from diptych.diffusion.model import DiffusionOptions

USUAL = 'a name, as "cosine", or an object, as Flow(3.0) or Tabulated.of(alpha, sigma)'
OF_LEVELS = ("grid", "schedule", "sigma_min", "sigma_max")


def fitting(cls: type, name: str, value: Any, default: Any) -> Any:
    """The value of one of the options `cls` as a file has it. Raises WrongUse where it is not of its kind."""
    if isinstance(value, Schedule):
        value = described(value)
    elif name == "sampler_options" and isinstance(value, Mapping):
        value = written({option: plain(one) for option, one in value.items()})
    hint = USUAL if name == "schedule" else f"the default is {name}={default!r}"
    return fitted(plain(value), _kinds(cls)[name], name, hint)


@lru_cache
def _kinds(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def of_sampler(kind: Sampler, given: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's options, in its order, from values and texts. Raises WrongUse for one that it lacks."""
    if unknown := given.keys() - kind.takes:
        name = min(unknown)
        able = [one.name for one in SAMPLERS.values() if name in one.takes]
        has = f"it has {', '.join(kind.options)}" if kind.options else "it has no options"
        meant = did_you_mean(name, list(kind.options)) if kind.options else "leave it out"
        hint = f"these have: {', '.join(able)}" if able else meant
        raise WrongUse(f"sampler {kind.name} has no {name}: {has}", hint)
    own = {name: given[name] for name in kind.options if name in given}
    kinds = {name: kind.options[name].kind for name in own}
    return kind.fitted({n: read(v, kinds[n]) if isinstance(v, str) else v for n, v in own.items()})


def folded(before: DiffusionOptions, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, options of a sampler's own among them put into `sampler_options`.

    Those of before stay where the sampler takes them, None leaves one out. Raises WrongUse for a name that
    no sampler has.
    """
    known, asked = [f.name for f in fields(before)], changes.get("sampler", before.sampler)
    kind = SAMPLERS.get(asked) if isinstance(asked, str) else None  # what else it is will be refused
    own = {name: value for name, value in changes.items() if name not in known}
    for name in own:
        if not any(name in one.takes for one in SAMPLERS.values()):
            near = known + list(kind.options if kind else ())
            raise WrongUse(f"DiffusionModel has no option {name!r}", did_you_mean(name, near))
    rest = {name: value for name, value in changes.items() if name in known}
    if kind is None or (not own and "sampler" not in changes):
        return rest
    stay = {name: word for name, word in parsed(before.sampler_options).items() if name in kind.takes}
    held = rest.get("sampler_options", stay)
    if not isinstance(held, str | Mapping):
        return rest  # which will be refused
    held = {**(parsed(held) if isinstance(held, str) else held)}
    for name, value in own.items():
        if value is None:
            held.pop(name, None)
        else:
            held[name] = kind.options[name].fitted(value) if name in kind.takes else value
    return rest | {"sampler_options": held}


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
