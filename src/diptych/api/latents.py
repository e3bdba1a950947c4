"""What the latents of a GAN are good for, in Python: styles mixed, images inverted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from diptych.api.models import Loadable, loaded
from diptych.arguments import picked, spelled
from diptych.data.decode import Fit
from diptych.errors import WrongUse
from diptych.system.files import expanded

if TYPE_CHECKING:
    from diptych.adversarial.latent import GeneratorModel
    from diptych.latent.inversion import Inversion

Label = int | Sequence[float] | Tensor | None  # a class, or continuous labels
Pictures = str | Path | Tensor | Sequence[str | Path | Tensor]
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@spelled
def mix(
    model: Loadable,
    rows: Iterable[int],
    columns: Iterable[int],
    layers: Iterable[int] = (),
    *,
    label: Label = None,
    batch: int = 64,
    device: str = "auto",
    **options: Any,
) -> Tensor:
    """Style mixing of seeds: uint8 (1 + R, 1 + C, c, H, W), the sources on the edges, their mixtures inside.

    A mixture is its row's image, but that it has its column's style in these layers; 0 is the coarsest, and
    () are all. label: one for all; None: each seed's own. All other keyword arguments are the model's options
    (`truncation`). Raises WrongUse for a model without a style for each layer.
    """
    from diptych.latent import mixing

    found = with_latents(model, device, options)
    return mixing.mix(found, list(rows), list(columns), layers, label=told(label), batch=batch)


@spelled
def invert(
    model: Loadable,
    images: Pictures,
    *,
    space: Literal["auto", "w", "w+", "z"] = "auto",
    steps: int = 500,
    lr: float = 0.1,
    start: Literal["best", "mean"] = "best",
    candidates: int = 512,
    pixels: float = 1.0,
    label: Label = None,
    fit: Fit | None = None,
    batch: int = 16,
    device: str = "auto",
    **options: Any,
) -> Inversion:
    """The latents of a GAN whose images are nearest to given ones: `.points`, and their images, `.image`.

    images: pictures, folders of them, or uint8 tensors (C, H, W); `fit` brings pictures of another size to
    the model's. space: "w", one style for all layers; "w+", one for each, nearer and less editable; "z";
    "auto": w where there are styles. steps: of the search. lr: its highest step length, in standard
    deviations of the latents. start: the nearest of so many `candidates`, or the mean. pixels: their weight
    beside the perceptual distance. label: of the images; None: that of the nearest candidate. batch: images
    sought at once. All other keyword arguments are the model's options (`noise`).
    Raises WrongUse for a model that has no latent space, or pictures that do not fit.
    """
    from diptych.data.picture import picture
    from diptych.latent import inversion

    how = picked(locals(), ("space", "steps", "lr", "start", "candidates", "pixels", "batch"))
    check_untruncated(options)
    found = with_latents(model, device, options)
    given = listed(images)
    shown = torch.stack([picture(one, found.image_shape, fit) for one in given])
    names = tuple(str(i if isinstance(one, Tensor) else one) for i, one in enumerate(given))
    sought = inversion.InversionOptions(**how)
    return inversion.invert(found, shown, label=told(label), options=sought, names=names)


def check_untruncated(options: Iterable[str]) -> None:
    """Raises WrongUse for options that keep latents near the mean, where latents are sought."""
    from diptych.latent.points import LIMITS

    if odd := set(LIMITS) & set(options):
        raise WrongUse(
            f"{min(odd)} means nothing here: latents are sought without truncation", "leave it out"
        )


def listed(images: Pictures) -> list[Path | Tensor]:
    """One image or several as a list; of a folder those in it. Raises WrongUse where there are none."""
    if isinstance(images, str | Path) or (isinstance(images, Tensor) and images.ndim == 3):
        images = [images]
    found = [one for each in images for one in ([each] if isinstance(each, Tensor) else inside(each))]
    if not found:
        raise WrongUse("there are no pictures to invert", "name files, folders of them, or tensors")
    return found


def inside(path: str | Path) -> list[Path]:
    """A file itself; of a folder the pictures in it, by name."""
    path = expanded(path)
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)


def with_latents(model: Loadable, device: str, options: Mapping[str, Any]) -> GeneratorModel:
    """The model of a GAN with these options. Raises WrongUse for another, and for noise of layers by seed."""
    from diptych.latent.points import check_noise, generator_of

    check_noise(options)
    return generator_of(loaded(model, device)).using(**options)


def told(label: Label) -> Tensor | None:
    """A label () or (K,) as latents take it."""
    return None if label is None else torch.as_tensor(label)
