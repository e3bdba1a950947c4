"""Continuous labels: numbers that describe an image, and which of them models are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.data.images import Float32, Images, Incident
from diptych.errors import DataError, WrongUse, did_you_mean

Array = npt.NDArray[Any]
TAKEN = "taken as continuous labels"


def stacked(
    path: Path, keys: Sequence[str], sizes: Sequence[int], found: Sequence[Array | None]
) -> Float32 | None:
    """Continuous labels (N, K) of all parts of these sizes; not-a-number where an image has none."""
    if all(values is None for values in found):
        return None
    rows = []
    for key, size, values in zip(keys, sizes, found, strict=True):
        if values is None:
            raise DataError(f"{path} has continuous labels for one split only, none for {key}")
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) != size or not values.shape[1]:
            raise DataError(
                f"{path}: {key} has {size:,} images, its continuous labels the shape {values.shape}",
                "(N,) or (N, K)",
            )
        if values.dtype.kind not in "fiub" or np.isinf(values).any():
            raise DataError(f"{path}: the continuous labels of {key} are not all finite numbers")
        rows.append(values.astype(np.float32))
    if len({values.shape[1] for values in rows}) > 1:
        raise DataError(f"{path}: its splits have different numbers of continuous labels")
    return np.concatenate(rows)


def named(names: Array | None, count: int, path: Path) -> tuple[str, ...]:
    """The names that came with the values, or attribute0, attribute1 ..."""
    if names is None:
        return ("attribute",) if count == 1 else tuple(f"attribute{i}" for i in range(count))
    told = tuple(str(name) for name in names.reshape(-1))
    if len(set(told)) != count or len(told) != count:
        raise DataError(f"{path} has {count} continuous labels, named {', '.join(told)}")
    return told


def told(images: Images, names: Sequence[str]) -> Images:
    """The images with these continuous labels (or known causes) in the place of classes; or with neither.

    Raises WrongUse for a name that there is not.
    """
    if not names:
        return replace(images, attributes=None, attribute_names=(), labels=None, class_names=())
    known: dict[str, Array] = dict(images.factors)
    if images.attributes is not None:
        known |= dict(zip(images.attribute_names, images.attributes.T, strict=True))
    for name in names:
        if name not in known:
            raise WrongUse(
                f"the images have no continuous label called {name!r}",
                did_you_mean(name, list(known)) if known else "a labels.csv beside them may hold some",
            )
    values = np.stack([known[name] for name in names], 1).astype(np.float32)
    return replace(images, attributes=values, attribute_names=tuple(names), labels=None, class_names=())


def what_is_told(incident: Incident, images: Images) -> Incident:
    """An incident that says that numbers are there, with what became of them."""
    if incident.done != TAKEN or images.told:
        return incident
    done = "known, not told: the classes are; --attributes x tells them" if images.classes else "not told"
    return replace(incident, done=done)
