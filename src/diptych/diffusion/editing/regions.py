"""Different labels in different areas of one image: the clean images of all labels, each where it is
asked for (MultiDiffusion's regions, Bar-Tal et al., 2023, arXiv:2302.08113, section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser, Wrapper, never_unlabelled
from diptych.diffusion.editing.edit import Edit, label_only, start
from diptych.diffusion.editing.operators import gaussian
from diptych.diffusion.model import DiffusionModel
from diptych.errors import WrongUse
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


class Regional(Wrapper):
    """sum_k share_k D(x, label_k), all labels through the network as one batch.

    shares (B or 1, K, H or 1, W or 1), adding up to 1 over K; the label `classes` stands for none.
    """

    def __init__(self, denoiser: Denoiser, labels: Sequence[int], shares: Tensor) -> None:
        super().__init__(denoiser)
        if not denoiser.classes:
            raise WrongUse(
                "regions are told apart by labels, and this model knows no classes",
                "train on images with labels: a folder for each class, say",
            )
        odd = [label for label in labels if not 0 <= label <= denoiser.classes]
        if odd or not labels:
            named = f"label {odd[0]} is" if len(odd) == 1 else f"labels {', '.join(map(str, odd))} are"
            raise WrongUse(
                f"{named} out of range" if odd else "regions need labels",
                f"this model knows classes 0 to {denoiser.classes - 1}; {denoiser.classes}, or any, is none",
            )
        if denoiser.classes in labels and not denoiser.unlabelled:
            raise never_unlabelled("give each area a label")
        self.labels, self.shares = torch.tensor(labels, device=shares.device), shares

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); the condition's own label is not heard."""
        return self._shared(self.denoiser(*self._repeated(x, sigma, condition)))

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The clean image and the learned variance, both put together."""
        clean, fraction = self.denoiser.moments(*self._repeated(x, sigma, condition))
        return self._shared(clean), self._shared(fraction)

    def _repeated(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Condition]:
        k = len(self.labels)
        label = self.labels.repeat_interleave(x.shape[0])
        many = sigma if sigma.shape[0] == 1 else sigma.repeat(k)
        return x.repeat(k, 1, 1, 1), many, replace(condition, label=label)

    def _shared(self, found: Tensor) -> Tensor:
        k = len(self.labels)
        seen = found.reshape(k, found.shape[0] // k, *found.shape[1:])
        mixed: Tensor = (seen * self.shares.transpose(0, 1)[:, :, None]).sum(0)
        return mixed


def check_labels(model: DiffusionModel, labels: Sequence[int]) -> None:
    """Raises WrongUse where these labels cannot be meant side by side, the model's options as they are."""
    denoiser, options = model.guided(), model.options
    if options.compose:
        raise WrongUse(
            f"the composed classes {options.compose} would take the place of the labels",
            "leave --compose out (--compose '' where it is the run's own), or the labels",
        )
    if model.classes and not denoiser.classes:
        raise WrongUse(f"at guidance {options.guidance:g} this model hears no label", "--guidance 1, say")
    Regional(denoiser, labels, torch.ones(1))


@saveable
@dataclass(frozen=True)
class RegionsOptions:
    """How sharply areas meet."""

    feather: float = 1.0  # deviation in pixels over which one label passes into the next; 0: a hard edge

    def __post_init__(self) -> None:
        if not 0 <= self.feather < math.inf:
            raise WrongUse(
                f"feather {self.feather} must be finite and not negative",
                "it counts pixels; 0 is a hard edge",
            )


@saveable
class Regions(Edit):
    """Images with a label for each area.

    Wants the mask (B, K, H, W) in {0, 1}: the area of each of the K labels; each pixel lies in one of them.
    """

    needs = frozenset({"mask"})

    def __init__(
        self, model: Model, labels: Sequence[int], options: RegionsOptions = RegionsOptions()
    ) -> None:
        super().__init__(model, options)
        check_labels(self.model, labels)
        self.labels = tuple(labels)

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        if condition.label is not None:
            raise WrongUse("Regions takes no label as a condition", "each of its regions has one")
        areas = self.read(condition, "mask", (len(self.labels), *self.image_shape[1:]))
        shares = feathered(areas, self.options.feather)
        denoiser, sigmas = Regional(self.model.guided(), self.labels, shares), self.model.sigmas
        return self.model.walk(
            sigmas[0] * start(noise, denoiser), sigmas, noise, label_only(condition), denoiser
        )


def feathered(areas: Tensor, deviation: float) -> Tensor:
    """Areas (B, K, H, W) as shares that pass into each other over `deviation` pixels and add up to 1."""
    shares = areas.float()
    if deviation > 0:
        rows, columns = (gaussian(n, deviation).to(shares) for n in areas.shape[2:])
        shares = rows @ shares @ columns.T
    total = shares.sum(1, keepdim=True)
    return torch.where(total > 0, shares / total.clamp_min(1e-12), 1 / areas.shape[1])
