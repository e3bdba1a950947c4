"""Editing without training, in Python, with names and paths where objects are expected.

>>> images = diptych.edit.inpaint("runs/flowers", "photo.png", "mask.png", seeds=range(8))

Each function takes a model or a run, images as paths or uint8 tensors (C, H, W), and returns uint8
(N, C, H, W): image i depends on seed i alone. Keyword arguments that are not named are the model's options
(`steps`, `sampler`, `guidance`). Without a label an image is edited as "any". fit: "crop", "pad" or "stretch"
brings files to the model's size and channels; without it another size is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.picture import Fit, Source, areas, picture, read, selection
from diptych.diffusion import editing
from diptych.diffusion.editing.operators import Operator
from diptych.diffusion.model import DiffusionModel
from diptych.errors import WrongUse
from diptych.model import Condition, Model, Noise, from_uint8, to_uint8
from diptych.runs import load_model

Seeds = Iterable[int]
Run = str | Path | Model
Label = int | Sequence[float] | None  # a class, or continuous labels


def inpaint(
    model: Run,
    image: Source,
    mask: Source,
    *,
    seeds: Seeds = range(4),
    label: Label = None,
    method: str = "repaint",
    resamplings: int = 10,
    jump: int = 0,
    fit: Fit | None = None,
    batch: int = 64,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """Makes the white part of a mask anew; the black part stays as it is, to the bit.

    method: "repaint" (each of the model's steps about `resamplings` times), or "ddnm" (once), "pigdm", "dps".
    """
    found = opened(model, device, options, label is not None)
    image = picture(image, found.image_shape, fit)
    keep = ~selection(mask, found.image_shape[1:], fit)
    edit = editing.Inpaint(found, editing.InpaintOptions(method, resamplings, jump))
    return drawn(edit, seeds, label, batch, image=image, mask=keep)


def outpaint(
    model: Run,
    image: Source,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    overlap: float = 0.5,
    seeds: Seeds = range(4),
    label: Label = None,
    method: str = "repaint",
    resamplings: int = 10,
    jump: int = 0,
    batch: int = 16,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """Continues an image, of any size, by so many pixels on each side; the image itself stays as it is.

    overlap: the share that neighbouring windows of the model's size have in common, 0 to below 1.
    """
    found = opened(model, device, options, label is not None)
    if min(left, right, top, bottom) < 0 or left + right + top + bottom == 0:
        raise WrongUse("there is nothing to add", "say how many pixels: left, right, top or bottom")
    inside = of_any_size(image, found.image_shape[0])
    height, width = top + inside.shape[1] + bottom, left + inside.shape[2] + right
    edit = editing.Outpaint(
        found,
        height,
        width,
        top=top,
        left=left,
        overlap=overlap,
        options=editing.InpaintOptions(method, resamplings, jump),
    )
    return drawn(edit, seeds, label, batch, image=inside)


def panorama(
    model: Run,
    height: int,
    width: int,
    *,
    overlap: float = 0.5,
    seeds: Seeds = range(4),
    label: Label = None,
    batch: int = 16,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """New images larger than the model's, (N, C, height, width), from overlapping windows."""
    found = editing.wide(opened(model, device, options, label is not None), height, width, overlap)
    return drawn(found, seeds, label, batch)


def vary(
    model: Run,
    image: Source,
    *,
    strength: float = 0.5,
    mask: Source | None = None,
    seeds: Seeds = range(4),
    label: Label = None,
    fit: Fit | None = None,
    batch: int = 64,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """Images near a given one, or a painted one made real (SDEdit): 0 is the image itself, 1 forgets it.

    mask: white where it may change; all of it where there is none.
    """
    found = opened(model, device, options, label is not None)
    edit = editing.Vary(found, editing.VaryOptions(strength))
    keep = None if mask is None else ~selection(mask, found.image_shape[1:], fit)
    return drawn(edit, seeds, label, batch, image=picture(image, found.image_shape, fit), mask=keep)


def colour(
    model: Run,
    target: Source | tuple[int, ...],
    *,
    cells: int = 4,
    above: float = 0.0,
    seeds: Seeds = range(4),
    label: Label = None,
    fit: Fit | None = None,
    batch: int = 64,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """New images with the mean colours of a picture's `cells` x `cells` areas, or one mean colour (0-255).

    above: the noise level below which they may drift from them again.
    """
    found = opened(model, device, options, label is not None)
    if isinstance(target, tuple):
        channels = found.image_shape[0]
        if len(target) != channels or not all(0 <= part <= 255 for part in target):
            raise WrongUse(f"{target} is no colour", f"{channels} numbers from 0 to 255")
        flat = torch.tensor(target, dtype=torch.uint8).view(-1, 1, 1).expand(found.image_shape)
        target, cells = flat, 1
    edit = editing.Colour(found, editing.ColourOptions(cells, above))
    return drawn(edit, seeds, label, batch, image=picture(target, found.image_shape, fit))


def restore(
    model: Run,
    image: Source,
    operator: str | Operator,
    *,
    method: str = "ddnm",
    noise: float = 0.0,
    deviation: float = 0.5,
    scale: float = 1.0,
    degrade: bool = False,
    seeds: Seeds = range(4),
    label: Label = None,
    fit: Fit | None = None,
    batch: int = 64,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """Images of which `image` is the small, blurred, grey or noisy version.

    operator: "superres:4", "bicubic:4", "blur:2.0" (pixels), "grey", "noise:0.2", or one of
    `diptych.diffusion.editing`. noise: its deviation in what was measured (white - black is 2). degrade:
    `image` is a whole one, and is made small, blurred, grey or noisy first. See RestoreOptions for the rest.
    """
    found = opened(model, device, options, label is not None)
    if isinstance(operator, str):
        operator, own = editing.named_operator(operator, found.image_shape)
        noise = noise or own
    edit = editing.Restore(found, operator, editing.RestoreOptions(method, noise, deviation, scale))
    if degrade:
        measured = degraded(operator, picture(image, found.image_shape, fit), noise)
    else:
        hint = "degrade (--degrade) where it is a whole one, to try this out; else fit (--fit crop)"
        measured = picture(image, operator.measured_shape, fit, hint)
    return drawn(edit, seeds, label, batch, image=measured)


def regions(
    model: Run,
    areas_map: Source,
    labels: Sequence[int | None],
    *,
    feather: float = 1.0,
    seeds: Seeds = range(4),
    batch: int = 64,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """Images with a label for each area of a map: its greys, dark to light, get the labels in order.

    A label None stands for "any". feather: the pixels over which neighbouring labels pass into each other.
    """
    found = opened(model, device, options, any(one is not None for one in labels))
    given = [found.classes if one is None else one for one in labels]
    edit = editing.Regions(found, given, editing.RegionsOptions(feather))
    mask = areas(areas_map, found.image_shape[1:], len(given))
    return drawn(edit, seeds, None, batch, mask=mask)


@torch.inference_mode()
def interpolate(
    model: Run,
    one: Source | int,
    other: Source | int,
    *,
    frames: int = 8,
    steps: int = 50,
    labels: tuple[int, int] | None = None,
    fit: Fit | None = None,
    batch: int = 64,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """From one image to another through noise, `frames` of them with both ends; seeds in an image's place.

    steps: up from each image to noise, and down again, by Heun's method: the model's sampler is not asked.
    labels: of the two.
    """
    editing.check_heard(options)
    found = opened(model, device, options, labels is not None)
    where = found.device
    if isinstance(one, int) and isinstance(other, int):
        if fit is not None:
            raise WrongUse("fit means nothing to seeds", "leave it out")
        ends = Noise([one, other], where).normal(*found.image_shape)
    elif isinstance(one, int) or isinstance(other, int):
        raise WrongUse("an image and a seed have nothing between them", "give two images, or two seeds")
    else:
        shown = torch.stack([picture(end, found.image_shape, fit) for end in (one, other)])
        ends = from_uint8(shown).to(where)
    seeds = isinstance(one, int)
    how: dict[str, Any] = {"labels": labels, "steps": steps, "latents": seeds, "batch": batch}
    return to_uint8(editing.interpolate(found, ends[0], ends[1], frames, **how)).cpu()


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
