"""Averaged weights made after training: any profile from those that the training stored, for every family
(EDM2, Karras et al., 2024, arXiv:2312.02696, section 3.2)."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych import catalog
from diptych.budget import Budget
from diptych.data.images import Images
from diptych.errors import DiptychError, RunError, WrongUse
from diptych.method import Clock
from diptych.model import Model
from diptych.recipe import Recipe
from diptych.runs import Run, load_model, open_run, save_derived
from diptych.system.files import read_tensors
from diptych.training.averages import FOLDER, FORMAT, Stored, stored
from diptych.training.profiles import HalfLife, Mixture, Power, Profile, mixture

log = logging.getLogger("diptych")

BAD, HOPELESS = 0.1, 0.5  # residuals that are warned of, and that are refused
FORGETFUL = 1000  # how often the images of a moment a half-life is at most
HALF_LIFE = "write 500k-images"


@dataclass(frozen=True)
class Averaged:
    """A model with weights that were averaged after training, and how they were made."""

    model: Model
    run: Run
    name: str  # of the profile, in words
    profile: Profile
    files: tuple[Stored, ...]
    mixture: Mixture

    def describe(self) -> dict[str, Any]:
        """Plain types: the profile, the files and what each weighs, how near they come."""
        shares = zip(self.files, self.mixture.weights, strict=True)
        return {
            "run": str(self.run.path),
            "profile": self.name,
            "images": self.profile.images,
            "residual": self.mixture.residual,
            "weights": {file.path.name: weight for file, weight in shares if weight},
        }

    def save(self, out: str | Path) -> Run:
        """A run directory that is measured, sampled and exported as any; recipe.json says what it is made of.

        Raises WrongUse where something is there already.
        """
        averaged = {"averaged": self.describe()}
        return save_derived(self.model, self.run, out, averaged, self.profile.images)


def average(
    run: str | Path,
    *,
    sigma_rel: float | None = None,
    half_life: float | str | None = None,
    ramp: float = 0.05,
    images: float | None = None,
    device: str = "auto",
) -> Averaged:
    """The model of a run with other averaged weights than those that it was trained with.

    sigma_rel: the deviation of a power profile as a share of the training, 0.03 to 0.25. half_life: in
    images, or as "500k-images"; on a `ramp` at most that share of the images seen so far. images: the moment;
    None: the last that is stored. Raises RunError where nothing was stored, WrongUse for a profile that
    cannot be made.
    """
    stock = Stock(open_run(run), device)
    moment = float(stock.last if images is None else images)
    return stock.averaged(*wanted(sigma_rel, half_life, ramp, moment))


def wanted(
    sigma_rel: float | None, half_life: float | str | None, ramp: float, images: float
) -> tuple[Profile, str]:
    """The profile that is asked for, and its name. Raises WrongUse unless exactly one is."""
    if (sigma_rel is None) == (half_life is None):
        raise WrongUse("one profile is made at a time", "name a --sigma-rel of 0.15, say, or a --half-life")
    if not 0 < images < math.inf:
        raise WrongUse(
            f"there is no moment after {images:,} images", "leave --images out for the last stored"
        )
    if sigma_rel is not None:
        return Power.of(sigma_rel, images), f"sigma_rel {sigma_rel:g}"
    length = images_of(half_life) if isinstance(half_life, str) else float(half_life or 0)
    if length > FORGETFUL * images:
        raise WrongUse(
            f"a half-life of {length:g} images forgets nothing of {images:,.0f}",
            f"it is at most {FORGETFUL:,} times the images of the moment",
        )
    said = f"half-life {length:,.0f} images"
    return HalfLife(length, images, ramp), said + (f" on a ramp of {ramp:g}" if ramp else "")


def images_of(text: str) -> float:
    """From "500k-images" to a number. Raises WrongUse for anything else."""
    try:
        budget = Budget.parse(text)
    except WrongUse as error:
        raise WrongUse(f"a half-life of {text!r} is not an amount of images", HALF_LIFE) from error
    if budget.unit != "images":
        raise WrongUse(f"a half-life of {text} is not in images", HALF_LIFE)
    return budget.amount


class Stock:
    """What a run has stored of its averages, and all that is made of it.

    Raises RunError where nothing was stored.
    """

    def __init__(self, run: Run, device: torch.device | str = "auto") -> None:
        self.run = run
        self.files = stored(run.path / FOLDER)
        if not self.files:
            raise RunError(f"{run.path} has stored no averages on its way", "train with --averages 16")
        self.model = load_model(run.path, device)

    @property
    def last(self) -> int:
        """The latest moment, in images."""
        return max(file.images for file in self.files)

    def averaged(self, profile: Profile, name: str) -> Averaged:
        """The model with this profile's average, settled as at a tick. Warns where the profile is met badly.

        Raises WrongUse where it cannot be met: too narrow, too wide, or of a moment beyond the last.
        """
        if profile.images > self.last:
            raise WrongUse(
                f"{self.run.path} has stored averages up to {self.last:,} images, "
                f"and one after {profile.images:,.0f} was asked for",
                f"--images {self.last}, or a longer training",
            )
        found = mixture(profile, [Power.of(file.sigma_rel, file.images) for file in self.files])
        told = f"{name} after {profile.images:,.0f} images is missed by {found.residual:.1%} of its norm"
        if found.residual > HOPELESS:
            raise WrongUse(told, self.hint())
        if found.residual > BAD:
            log.warning("%s: %s", told, self.hint())
        model = copy.deepcopy(self.model)
        near = min(self.files, key=lambda file: abs(file.images - profile.images))
        filled(model, blended(self.files, found.weights), contents(near))
        self.settle(model, round(profile.images))
        return Averaged(model, self.run, name, profile, tuple(self.files), found)

    def hint(self) -> str:
        """What would help."""
        moments = len({file.images for file in self.files})
        return (
            f"{moments} moments are stored; 8 are enough for a sigma_rel of 0.04 to 0.2, 16 for 0.03 to 0.25"
        )

    def settle(self, model: Model, images: int) -> None:
        """What training does to averaged weights before they are looked at (`Method.settle`).

        Batch norms cannot be averaged: they must know how these very weights' activations are spread. Where
        the recipe is not to be had, buffers stay as they were at the nearest moment.
        """
        if self.recipe is not None:
            batch = self.recipe.batch
            clock = Clock(images, int(self.run.recipe["images"]), images // batch, batch)
            self.recipe.method.settle(model, clock)

    @cached_property
    def recipe(self) -> Recipe | None:
        """What the run was trained by, built on blank images; None where that is not possible here."""
        try:
            recorded = self.run.recipe
            return catalog.recipe(recorded["recipe"])(blank(self.model), **recorded["arguments"])
        except (DiptychError, KeyError, TypeError, ValueError, OSError) as error:  # of another version, say
            log.warning("batch norms and the like stay as at the nearest stored moment: %s", error)
            return None


def blank(model: Model) -> Images:
    """Images of the shape and with the labels that a model knows, all black."""
    channels, height, width = model.image_shape
    n = max(2, model.classes)
    return Images(
        np.zeros((n, height, width, channels), np.uint8),
        np.arange(n) if model.classes else None,
        tuple(map(str, range(model.classes))),
        attributes=np.zeros((n, model.attributes), np.float32) if model.attributes else None,
        attribute_names=model.attribute_names,
    )


def blended(files: Sequence[Stored], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of what the files hold of floating point, float64.

    Raises RunError where they do not hold the same.
    """
    total: dict[str, Tensor] = {}
    for file, weight in zip(files, weights, strict=True):
        if not weight:
            continue
        found = {name: t for name, t in contents(file).items() if t.is_floating_point()}
        total = total or {name: torch.zeros(t.shape, dtype=torch.float64) for name, t in found.items()}
        if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in total.items()}:
            raise RunError(f"{file.path} holds other weights than the averages before it")
        for name, tensor in found.items():
            total[name].add_(tensor, alpha=weight)
    return total


def contents(file: Stored) -> dict[str, Tensor]:
    """The tensors of one stored average. Raises RunError where another version wrote it."""
    tensors, about = read_tensors(file.path)
    if about.get("format") != FORMAT:
        raise RunError(f"{file.path} is of format {about.get('format')}; this version reads format {FORMAT}")
    return tensors


@torch.no_grad()
def filled(model: Model, blend: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Writes averaged parameters into a model, and buffers as they were."""
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in every}
    try:
        for ours, theirs in ((dict(model.named_parameters()), blend), (rest, buffers)):
            for name, tensor in ours.items():
                tensor.copy_(theirs[name])
    except (KeyError, RuntimeError) as error:
        raise RunError(f"the stored averages do not fit the model: {error}") from error
