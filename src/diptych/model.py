"""The hinge: a Model turns noise, and a condition where there is one, into images.

Nothing here knows a family.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from diptych.errors import NotMeasurable, WrongUse, did_you_mean
from diptych.given import plain
from diptych.system.blocks import block_size, exact_blocks, one_thread, while_it_fits
from diptych.system.device import moved

Draw = Callable[[tuple[int, ...]], Tensor]
# within it a model is called as a trace will see it: without shortcuts that need to know what a tensor holds
RECORDING: ContextVar[bool] = ContextVar("RECORDING", default=False)


def stream(seed: int) -> torch.Generator:
    """The random numbers of a seed. Raises WrongUse for one that has more than 64 bits."""
    if not -(2**63) <= int(seed) < 2**64:
        raise WrongUse(f"a seed has at most 64 bits, not {int(seed).bit_length()}", "--seed 0, say")
    return torch.Generator().manual_seed(int(seed))


class Noise:
    """One random stream per image: image i depends on seed i, not on the batch it is drawn in.

    The streams run on the CPU whatever the device, so that a seed means the same image everywhere.
    """

    def __init__(self, seeds: Iterable[int], device: torch.device | str = "cpu") -> None:
        streams = [stream(seed) for seed in seeds]

        def draw(shape: tuple[int, ...]) -> Tensor:
            return moved(torch.stack([torch.randn(shape, generator=each) for each in streams]), device)

        self._draw: Draw = draw

    @classmethod
    def given(cls, tensors: Sequence[Tensor]) -> Noise:
        """Noise that was drawn before: hands the tensors out in order.

        Export makes noise an input this way.
        """
        noise, remaining = cls(()), iter(tensors)
        noise._draw = lambda shape: next(remaining)
        return noise

    @classmethod
    def between(cls, one: Noise, other: Noise, mix: Callable[[Tensor, Tensor], Tensor]) -> Noise:
        """What is drawn from the two, mixed."""
        noise = cls(())
        noise._draw = lambda shape: mix(one._draw(shape), other._draw(shape))
        return noise

    def recorded(self) -> tuple[Noise, list[Tensor]]:
        """The same noise, and a list that fills with all that is drawn from it, ready for `given`."""
        noise, drawn = Noise(()), list[Tensor]()

        def draw(shape: tuple[int, ...]) -> Tensor:
            drawn.append(self._draw(shape))
            return drawn[-1]

        noise._draw = draw
        return noise, drawn

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values, (B, *shape), float32."""
        return self._draw(shape)


@dataclass(frozen=True)
class Condition:
    """What the images are asked to be; each field is batched or None."""

    label: Tensor | None = None  # (B,) int64 classes, or (B, K) float continuous labels
    text: Sequence[str] | None = None
    image: Tensor | None = None  # (B, C', H', W') a source, a control map, a low resolution
    mask: Tensor | None = None  # (B, 1, H, W) in {0, 1}; 1 = keep this pixel

    def __post_init__(self) -> None:
        if self.label is not None:  # as networks read them, whatever an array brought
            kind = torch.float32 if self.label.dtype.is_floating_point else torch.int64
            object.__setattr__(self, "label", self.label.to(kind))

    def given(self) -> frozenset[str]:
        """The names of the fields that are not None."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def map(self, change: Callable[[Any], Any]) -> Condition:
        """The same condition with `change` applied to each field that is given."""
        return replace(self, **{name: change(getattr(self, name)) for name in self.given()})

    def __getitem__(self, rows: slice) -> Condition:
        return self.map(lambda part: part[rows])

    def of(self, rows: Sequence[int]) -> Condition:
        """The same condition for these rows, in this order."""
        return self.map(
            lambda part: part[list(rows)] if isinstance(part, Tensor) else [part[i] for i in rows]
        )

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on a device."""
        return self.map(lambda part: part.to(device) if isinstance(part, Tensor) else part)


class Batch(NamedTuple):
    """Real images to learn from, and what they show."""

    image: Tensor  # (B, C, H, W) in [-1, 1], channels-last
    condition: Condition


class Model(nn.Module, ABC):
    """Turns noise, and a condition where there is one, into images.

    A subclass is @saveable and takes its frozen dataclass of sampling options as the argument `options`.
    """

    image_shape: tuple[int, int, int]  # (C, H, W)
    classes: int = 0  # how many labels it knows; 0: none
    attributes: int = 0  # how many continuous labels it knows, in their own units; 0: none
    attribute_names: tuple[str, ...] = ()
    examples: tuple[tuple[float, ...], ...] = ()  # attributes that images had
    options: Any  # frozen dataclass: steps, guidance, truncation ...

    @property
    def device(self) -> torch.device:
        """Where its weights lie; the CPU where it has none."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def unlabelled(self) -> bool:
        """Whether it knows labels and may be asked for images of none: by Condition(), and --label any."""
        return False

    @property
    def wants(self) -> frozenset[str]:
        """The Condition fields that it understands."""
        return frozenset({"label"} if self.classes or self.attributes else ())

    @abstractmethod
    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]; B is set by the noise."""

    def log_prob(self, image: Tensor, condition: Condition = Condition()) -> Tensor:
        """Log density (B,) in nats of images (B, C, H, W) in [-1, 1], or NotMeasurable with the reason."""
        raise NotMeasurable(f"{type(self).__name__} has no density")

    def equivariance(
        self, n: int, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> Mapping[str, Tensor]:
        """How far n images are from what they should be when what they begin with is moved, by transform.

        {name: float64 (transforms, 2)}: sums of squared errors, and of how many values. NotMeasurable with
        the reason.
        """
        raise NotMeasurable(
            f"{type(self).__name__} begins with nothing that could be moved",
            "style generators do: stylegan2, stylegan3",
        )

    def using(self, **changes: Any) -> Self:
        """The same weights with other options: `model.using(steps=4)`."""
        from diptych.saveable import rebuilt

        known = [f.name for f in fields(self.options)]
        for name in changes:
            if name not in known:
                raise WrongUse(
                    f"{type(self).__name__} has no option {name!r}",
                    did_you_mean(name, known) if known else "it has no options at all",
                )
        chosen = {name: plain(value) for name, value in changes.items()}
        return rebuilt(self, options=replace(self.options, **chosen))

    def networks(self) -> Sequence[nn.Module]:
        """Those that take most of the time: what `--compile` compiles."""
        return tuple(self.children())

    def lasting(self) -> Sequence[object]:
        """What it keeps between calls beside its weights: a captured graph reads that memory."""
        return ()

    def dial(self) -> Sequence[dict[str, Any]]:
        """The settings of `options` worth measuring beside each other: steps, where there are steps."""
        return ({},)

    def labels_for(self, seeds: Sequence[int]) -> Tensor | None:
        """The labels taken where none are asked for: seed modulo the number of classes, or of examples."""
        if self.classes:
            return torch.tensor([seed % self.classes for seed in seeds])
        if not self.attributes:
            return None
        examples = self.examples or [(math.nan,) * self.attributes]
        return torch.tensor([examples[seed % len(examples)] for seed in seeds]).view(-1, self.attributes)

    @torch.inference_mode()
    def sample(
        self,
        seeds: Iterable[int],
        condition: Condition | None = None,
        batch: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Images for these seeds, uint8 (N, C, H, W) on the CPU; `batch` at a time, or as memory allows.

        Seed i's image does not depend on the others, up to one level: kernels differ by batch size. With
        `exact` it is the same bit for bit, whatever the other seeds, the batch and the threads: networks see
        blocks of one size on one thread, and `batch` is not asked.
        """
        if batch < 1:
            raise WrongUse(f"batch must be at least 1, not {batch}")
        seeds = list(seeds)
        condition = Condition(label=self.labels_for(seeds)) if condition is None else condition
        self.check(condition, len(seeds))
        device = self.device
        images = torch.empty(len(seeds), *self.image_shape, dtype=torch.uint8)

        def draw(rows: Sequence[int]) -> Tensor:
            image = self(Noise([seeds[i] for i in rows], device), condition.of(rows).to(device))
            return to_uint8(image).cpu()

        with evaluating(self), one_thread() if exact else nullcontext():
            if exact:
                for places, rows in exact_blocks(seeds, block_size(device)):
                    images[list(places)] = draw(rows)[list(places.values())]
            else:
                for rows, drawn in while_it_fits(draw, len(seeds), batch):
                    images[rows.start : rows.stop] = drawn
        return images

    def check(self, condition: Condition, n: int) -> None:
        """Raises WrongUse where the condition is not one that this model understands."""
        for name in condition.given():
            if name == "label" and name not in self.wants:
                raise WrongUse(
                    "this model was trained without classes: it does not take a label",
                    "leave the label out, or train on images with labels: a folder for each class, say",
                )
            if name not in self.wants:
                raise WrongUse(
                    f"{type(self).__name__} does not take {name!r} as a condition",
                    f"it takes: {', '.join(sorted(self.wants)) or 'none'}",
                )
            if len(getattr(condition, name)) != n:
                raise WrongUse(f"there are {n} seeds but {len(getattr(condition, name))} of {name!r}")
        if condition.label is not None and n:
            (self._check_classes if self.classes else self._check_attributes)(condition.label)

    def _check_classes(self, label: Tensor) -> None:
        if label.ndim != 1 or label.is_floating_point():
            raise WrongUse(
                f"labels of shape {tuple(label.shape)} and type {label.dtype} are no classes",
                f"this model knows classes 0 to {self.classes - 1}, whole numbers (n,)",
            )
        low, high = int(label.min()), int(label.max())
        if not 0 <= low <= high < self.classes:
            raise WrongUse(
                f"label {low if low < 0 else high} is out of range",
                f"this model knows classes 0 to {self.classes - 1}",
            )

    def _check_attributes(self, label: Tensor) -> None:
        if label.ndim != 2 or label.shape[1] != self.attributes or not label.is_floating_point():
            raise WrongUse(
                f"labels of shape {tuple(label.shape)} and type {label.dtype} are no attributes",
                f"this model is told {', '.join(self.attribute_names)}: floats (n, {self.attributes})",
            )
        if label.isinf().any():
            raise WrongUse("an attribute is infinite", "not-a-number stands for none")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode; each of its parts is then in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def takes_after(one: nn.Module, other: nn.Module) -> None:
    """Makes one know the images and labels that another knows: a model, a denoiser or a network."""
    for name in ("image_shape", "classes", "attributes", "attribute_names", "examples"):
        if hasattr(other, name):
            setattr(one, name, getattr(other, name))


def to_uint8(image: Tensor) -> Tensor:
    """From [-1, 1] to the nearest of 256 levels."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(image: Tensor) -> Tensor:
    """From 256 levels to [-1, 1], keeping the memory format."""
    return image.float().div_(127.5).sub_(1)
