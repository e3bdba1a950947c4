"""The noise levels that options ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diptych.diffusion.samplers import GRIDS
from diptych.diffusion.samplers.grids import FOLLOWING, useful
from diptych.diffusion.schedules import Schedule, schedule
from diptych.errors import WrongUse

if TYPE_CHECKING:
    from diptych.diffusion.model import DiffusionOptions

OF_LEVELS = ("grid", "schedule", "sigma_min", "sigma_max")


def noise_levels(options: DiffusionOptions, own: Schedule) -> tuple[float, ...]:
    """The noise levels that a sampler visits, falling to 0; `own` is the denoiser's schedule."""
    if options.sigmas:
        return options.sigmas
    followed = schedule(options.schedule) if options.schedule else own
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
    asked = [name for name in OF_LEVELS if changes.get(name) not in (None, getattr(before, name))]
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
