"""From one image to another through noise: up the probability-flow ODE (DDIM inversion, Song et al., 2020,
arXiv:2010.02502, section 4.3), across a great circle (slerp), and down again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser
from diptych.diffusion.editing.edit import diffusion_of
from diptych.diffusion.editing.regions import Regional, check_labels
from diptych.diffusion.model import OF_GUIDANCE, DiffusionModel, DiffusionOptions
from diptych.diffusion.samplers import kinds
from diptych.diffusion.samplers.grids import HIGHEST, LOWEST, karras
from diptych.diffusion.samplers.heun import heun
from diptych.diffusion.sight import Sight
from diptych.errors import WrongUse, dimensions
from diptych.latent.arcs import slerp
from diptych.model import Condition, Model, Noise

SILENT = Noise(())
# the options that change what the ODE is or where it ends; the others are of samplers, and none is asked
HEARD = frozenset({"guidance", *OF_GUIDANCE, "compose", "threshold", "sigma_min", "sigma_max"})
UNHEARD = frozenset(f.name for f in fields(DiffusionOptions)) - HEARD


def check_heard(names: Iterable[str]) -> None:
    """Raises WrongUse for an option of the model that says nothing to an interpolation."""
    if idle := sorted((UNHEARD | kinds("").keys()) & set(names)):
        raise WrongUse(
            f"{', '.join(idle)} {'means' if len(idle) == 1 else 'mean'} nothing to an interpolation",
            "Heun's method follows the ODE, in as many steps as steps (--inversion-steps) says",
        )


def invert(model: Model, image: Tensor, condition: Condition = Condition(), steps: int = 50) -> Tensor:
    """The noise (B, C, H, W), about standard normal, from which the ODE leads to the image in [-1, 1]."""
    model = checked(model, image)
    sigmas = levels(model, steps)
    rising = sigmas[-2::-1]  # the level 0, where the ODE has no slope, is left out
    return heun(Sight(model.guided(), condition), image, rising, SILENT) / sigmas[0]


def back(
    model: Model,
    latent: Tensor,
    condition: Condition = Condition(),
    steps: int = 50,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """The image (B, C, H, W) to which the ODE leads from noise: the inverse of `invert`."""
    model = diffusion_of(model)
    sigmas = levels(model, steps)
    sight = Sight(denoiser or model.guided(), condition)
    return heun(sight, sigmas[0] * latent, sigmas, SILENT)


def interpolate(
    model: Model,
    one: Tensor,
    other: Tensor,
    frames: int = 8,
    *,
    labels: tuple[int, int] | None = None,
    steps: int = 50,
    latents: bool = False,
    batch: int = 64,
) -> Tensor:
    """Images (frames, C, H, W) from `one` to `other`, (C, H, W) each, the two included.

    labels: of the two; on the way the clean images of both are mixed. latents: the two are noise already.
    batch: how many frames go down at once.
    """
    model = diffusion_of(model)
    if frames < 2:
        raise WrongUse(
            f"from one image to another there are at least 2 frames, not {frames}", "the two count as well"
        )
    if batch < 1:
        raise WrongUse(f"batch must be at least 1, not {batch}")
    pair = torch.stack([one, other])
    if labels is not None:
        check_labels(model, labels)
    told = Condition(label=None if labels is None else torch.tensor(labels, device=pair.device))
    ends = pair if latents else invert(model, pair, told, steps)
    along = torch.linspace(0, 1, frames, device=pair.device)

    def between(share: Tensor) -> Tensor:
        latent = slerp(ends[:1], ends[1:], share)
        if labels is None or labels[0] == labels[1]:
            one_told = None if told.label is None else told.label[:1].expand(len(share))
            return back(model, latent, Condition(label=one_told), steps)
        shares = torch.stack([1 - share, share], 1)[:, :, None, None]
        return back(model, latent, Condition(), steps, Regional(model.guided(), labels, shares))

    return torch.cat([between(share) for share in torch.split(along, batch)])


def levels(model: DiffusionModel, steps: int) -> list[float]:
    """The noise levels between which images and noise are the same thing: falling, the last of them 0."""
    if steps < 2:
        raise WrongUse(f"an inversion needs at least 2 steps, not {steps}", "50 are usual")
    if model.denoiser.jumps:
        raise WrongUse(
            "a consistency model jumps to an image, and no path leads back to its noise",
            "interpolate with the model that it was made from",
        )
    low, high = model.denoiser.schedule.ends()
    options = model.options
    return karras(steps, options.sigma_min or max(low, LOWEST), options.sigma_max or min(high, HIGHEST))


def checked(model: Model, image: Tensor) -> DiffusionModel:
    """The model, whose images are of this size. Raises WrongUse where they are not."""
    found = diffusion_of(model)
    if tuple(image.shape[1:]) != tuple(found.image_shape):
        raise WrongUse(
            f"the image is {dimensions(image.shape[1:])}, but {dimensions(found.image_shape)} is needed",
            "resize or convert it first (--fit does on the command line)",
        )
    return found
