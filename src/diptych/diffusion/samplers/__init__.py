"""Samplers as pure functions, one family a file: a new one is found by being in the folder."""

from __future__ import annotations

from diptych.diffusion.samplers.grids import GRIDS, Grid
from diptych.diffusion.samplers.sampler import Denoise, Sampler, samplers

SAMPLERS = samplers()

__all__ = ["GRIDS", "SAMPLERS", "Denoise", "Grid", "Sampler"]
