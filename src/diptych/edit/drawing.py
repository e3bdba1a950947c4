"""What every edit in Python begins with and ends with: a model of diffusion, and images for seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.picture import Source, picture, read
from diptych.diffusion import editing
from diptych.diffusion.editing.operators import Operator
from diptych.diffusion.model import DiffusionModel
from diptych.errors import WrongUse
from diptych.model import Condition, Model, from_uint8, to_uint8
from diptych.runs import load_model

Seeds = Iterable[int]
Run = str | Path | Model
Label = int | Sequence[float] | None  # a class, or continuous labels


def opened(model: Run, device: str, options: dict[str, Any], labelled: bool) -> DiffusionModel:
    """The diffusion model with these options. Raises WrongUse for a model without a denoiser.

    And for guidance that is asked for where an edit has no label to be guided to.
    """
    loaded = model if isinstance(model, Model) else load_model(model, device)
    found = editing.diffusion_of(loaded).using(**options)
    editing.check_guidance(found, options, labelled)
    return found


def of_any_size(image: Source, channels: int) -> Tensor:
    """uint8 (C, H, W), as large as it is. Raises WrongUse for more colours than the model has."""
    size = read(image, channels).shape
    try:
        return picture(image, size)
    except WrongUse as error:
        raise WrongUse(error.message, "convert it first: an image of any size is taken as it is") from None


def drawn(
    model: Model,
    seeds: Seeds,
    label: Label,
    batch: int,
    image: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """An edit's images for these seeds, each of the same picture (uint8, or float in [-1, 1]) and mask."""
    seeds = list(seeds)
    n = len(seeds)
    if image is not None:
        image = from_uint8(image) if image.dtype == torch.uint8 else image
        image = image.expand(n, *image.shape)
    told = None if label is None else torch.tensor(label)
    condition = Condition(
        label=None if told is None else told.expand(n, *told.shape),
        image=image,
        mask=None if mask is None else mask.float().expand(n, *mask.shape),
    )
    return model.sample(seeds, condition, batch)


def degraded(operator: Operator, image: Tensor, noise: float) -> Tensor:
    """What the operator makes of an image, uint8 (C, H, W): as a file would hold it, but for noise."""
    measured = operator(from_uint8(image[None]))
    if noise:
        stream = torch.Generator().manual_seed(0)
        return (measured + noise * torch.randn(measured.shape, generator=stream))[0]  # type: ignore[no-any-return]
    return to_uint8(measured)[0]
