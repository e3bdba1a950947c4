"""Editing without training, in Python, with names and paths where objects are expected.

>>> images = diptych.edit.inpaint("runs/flowers", "photo.png", "mask.png", seeds=range(8))

Each function takes a model or a run, images as paths or uint8 tensors (C, H, W), and returns uint8
(N, C, H, W): image i depends on seed i alone. Keyword arguments that are not named are the model's options
(`steps`, `sampler`, `guidance`). Without a label an image is edited as "any". fit: "crop", "pad" or "stretch"
brings files to the model's size and channels; without it another size is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.arguments import spelled
from diptych.data.picture import Fit, Source, areas, picture, selection
from diptych.diffusion import editing
from diptych.diffusion.editing.operators import Operator
from diptych.edit.drawing import Label, Run, Seeds, degraded, drawn, of_any_size, opened
from diptych.errors import WrongUse
from diptych.model import Noise, from_uint8, to_uint8

__all__ = [
    "colour",
    "inpaint",
    "interpolate",
    "outpaint",
    "panorama",
    "regions",
    "restore",
    "stroke",
    "vary",
]


@spelled
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


@spelled
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


@spelled
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


@spelled
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


@spelled
def stroke(
    model: Run,
    painting: Source,
    *,
    strength: float = 0.7,
    mask: Source | None = None,
    seeds: Seeds = range(4),
    label: Label = None,
    fit: Fit | None = None,
    batch: int = 64,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """A painting made real: `vary` from coarse strokes of colour, which takes more noise than a photo.

    mask: white where strokes were painted over a photo; all of it where there is none.
    """
    how: dict[str, Any] = {"strength": strength, "mask": mask, "seeds": seeds, "label": label, "fit": fit}
    return vary(model, painting, **how, batch=batch, device=device, **options)


@spelled
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


@spelled
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


@spelled
def regions(
    model: Run,
    map: Source,
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
    mask = areas(map, found.image_shape[1:], len(given))
    return drawn(edit, seeds, None, batch, mask=mask)


@spelled
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
