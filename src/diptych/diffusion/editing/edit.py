"""What every edit is: a Model around a diffusion model that wants an image, a mask or both."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser
from diptych.diffusion.model import OF_GUIDANCE, DiffusionModel, DiffusionOptions
from diptych.errors import WrongUse, dimensions
from diptych.model import Condition, Model, Noise, takes_after


class Edit(Model, ABC):
    """A diffusion model that starts from, or is held to, what the condition shows.

    `options` are the edit's own; steps, sampler and guidance are the diffusion model's:
    `Vary(model.using(steps=50, guidance=2), VaryOptions(strength=0.3))`. Without a label it edits as "any".
    """

    needs: frozenset[str] = frozenset()  # the Condition fields that must be given
    takes: frozenset[str] = frozenset()  # and those that may

    def __init__(self, model: Model, options: Any) -> None:
        super().__init__()
        self.model, self.options = diffusion_of(model), options
        takes_after(self, self.model)

    @property
    def wants(self) -> frozenset[str]:
        """The label, where the model knows labels, and what the edit reads."""
        return self.model.wants | self.needs | self.takes

    def read(self, condition: Condition, name: str, shape: tuple[int, ...]) -> Tensor:
        """A part of the condition as (B, *shape). Raises WrongUse where it is missing or of another size."""
        part = getattr(condition, name)
        if part is None:
            raise WrongUse(f"{type(self).__name__} needs {name!r} as a condition", f"(B, {numbers(shape)})")
        if tuple(part.shape[1:]) != tuple(shape):
            raise WrongUse(
                f"the {name} is {dimensions(part.shape[1:])}, but {dimensions(shape)} is needed",
                "resize or convert it first (--fit does on the command line)",
            )
        return part  # type: ignore[no-any-return]

    def kept(self, condition: Condition) -> Tensor:
        """Where pixels are kept, bool (B, 1, H, W), from the condition's mask of 0 and 1."""
        return self.read(condition, "mask", (1, *self.image_shape[1:])) > 0.5


def diffusion_of(model: Model) -> DiffusionModel:
    """The model, if it is one that can be edited with. Raises WrongUse where it has no denoiser."""
    if not isinstance(model, DiffusionModel):
        raise WrongUse(
            f"{type(model).__name__} has no denoiser, and editing needs one",
            "edit with a diffusion model: a run of edm, ddpm or flow, say",
        )
    return model


def check_guidance(model: DiffusionModel, asked: Mapping[str, Any], labelled: bool) -> None:
    """Raises WrongUse where the options asked for are of a guidance that leads nowhere without a label.

    A run's own guidance may: only what is asked for is expected to do something.
    """
    if labelled or not (model.guide is None or model.guide.needs_label):
        return
    usual = {"guidance": model.neutral} | {name: getattr(DiffusionOptions(), name) for name in OF_GUIDANCE}
    idle = [name for name, value in usual.items() if asked.get(name) not in (None, value)]
    if idle:
        raise WrongUse(
            f"{', '.join(idle)} {'means' if len(idle) == 1 else 'mean'} nothing without a label",
            "say what to be guided to: a label (--label 3), or labels where an edit has several",
        )


def numbers(shape: tuple[int, ...] | torch.Size) -> str:
    """(3, 32, 32) as "3, 32, 32"."""
    return ", ".join(map(str, shape))


def label_only(condition: Condition) -> Condition:
    """What the denoiser hears: the image and the mask are the edit's."""
    return Condition(label=condition.label)


def start(noise: Noise, denoiser: Denoiser) -> Tensor:
    """Standard normal (B, C, H, W), laid out as a model's own sampling lays it out."""
    return noise.normal(*denoiser.image_shape).contiguous(memory_format=torch.channels_last)
