"""Samplers as pure functions, one family a file: a new one is found by being in the folder."""

from __future__ import annotations

from typing import Any

from diptych.diffusion.samplers.grids import GRIDS, Grid
from diptych.diffusion.samplers.sampler import Denoise, Sampler, samplers

SAMPLERS = samplers()

__all__ = ["GRIDS", "SAMPLERS", "Denoise", "Grid", "Sampler", "kinds"]


def kinds(name: str) -> dict[str, Any]:
    """The kind of each option of any sampler; of the one of this name where others have another kind."""
    its_own_last = sorted(SAMPLERS.values(), key=lambda each: each.name == name)
    return {option.name: option.kind for each in its_own_last for option in each.options.values()}
