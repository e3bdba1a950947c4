"""What a sampler is: a pure function of a denoiser, a start, noise levels and a stream of noise.

Noise levels are Python floats, so that a whole sampler exports as one graph and nothing waits for the device.
Images are x = x_0 + sigma eps whatever the schedule (x_t / alpha_t): formulas of the literature that are
written with alpha and sigma become weighted means of the image and of what the denoiser sees in it.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, get_type_hints, runtime_checkable

from torch import Tensor

from diptych.diffusion.samplers.options import Option
from diptych.model import Noise

WHOLE = "whole"  # no option: an argument in which the model gives the levels of which `sigmas` is a stretch
# no image is left to three digits: from such levels on Euler's step is exact, and other slopes are magnified
NOISE_ALONE = 1000.0


class Denoise(Protocol):
    """A denoiser under its condition: a noisy batch and its level to a clean batch."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor: ...


@runtime_checkable
class Moments(Protocol):
    """A denoiser under its condition that may have learned variances."""

    def moments(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """The clean batch and the learned variances, from 0, the smallest, to 1, the largest."""


Walk = Callable[..., Tensor]  # (denoise, x, sigmas, noise, **options): x at sigmas[0] to x at sigmas[-1]


@dataclass(frozen=True)
class Sampler:
    """A walk down the noise levels with its name and what it promises."""

    name: str
    walk: Walk
    order: int  # of convergence on the probability-flow ODE; 0: it samples, each time anew
    calls: int = 1  # of the network a step, at most
    jumps: bool = False  # for denoisers that jump to an image at once, and for no others
    check: Callable[..., None] | None = None  # raises WrongUse where its options do not go together

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, **options: Any
    ) -> Tensor:
        """Images at the last level, from x (B, C, H, W) at the first of falling levels."""
        return self.walk(denoise, x, sigmas, noise, **self.fitted(options))

    @cached_property
    def options(self) -> Mapping[str, Option]:
        """Those of its own, in their order."""
        hints = get_type_hints(self.walk, include_extras=True)
        own = {name: p for name, p in self._keywords.items() if name != WHOLE}
        return {name: Option(name, hints.get(name, Any), p.default) for name, p in own.items()}

    @property
    def takes(self) -> frozenset[str]:
        """What its options are called."""
        return frozenset(self.options)

    @property
    def takes_whole(self) -> bool:
        """Whether it must be told of which levels it walks a stretch."""
        return WHOLE in self._keywords

    @property
    def _keywords(self) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(self.walk).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    def fitted(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What it is given, its options checked. Raises WrongUse for a value that one cannot have."""
        found = {n: self.options[n].fitted(v) if n in self.options else v for n, v in given.items()}
        if self.check is not None:
            self.check(**{name: found.get(name, option.default) for name, option in self.options.items()})
        return found

    @property
    def deterministic(self) -> bool:
        """Whether the same start always leads to the same image (unless an option adds noise)."""
        return self.order > 0


def sampler(
    name: str,
    *,
    order: int,
    calls: int = 1,
    jumps: bool = False,
    check: Callable[..., None] | None = None,
) -> Callable[[Walk], Sampler]:
    """Marks a function as a sampler; its keyword-only arguments are options that a model may give it.

    Each has a default, and is annotated as what it may be: `Annotated[float, at_least(0)]`, `Literal`.
    """
    return lambda walk: Sampler(name, walk, order, calls, jumps, check)


def samplers() -> dict[str, Sampler]:
    """Every sampler by name, from the modules beside this one."""
    package = __name__.rpartition(".")[0]
    folder = importlib.import_module(package)
    modules = [importlib.import_module(f"{package}.{m.name}") for m in pkgutil.iter_modules(folder.__path__)]
    return {s.name: s for module in modules for s in vars(module).values() if isinstance(s, Sampler)}


def ancestral(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """The level to step down to, and the deviation of the noise that leads from there up to `following`.

    eta = 1 is the reverse of the noising itself (DDPM's posterior), 0 adds none.
    """
    up = min(following, eta * following * math.sqrt(1 - (following / sigma) ** 2))
    return math.sqrt((following - up) * (following + up)), up


def straight(denoise: Denoise, x: Tensor, sigma: float, kept: float) -> Tensor:
    """kept x + (1 - kept) D(x): a step straight to the clean image.

    A denoiser that has `towards` does it without writing the clean images down.
    """
    towards = getattr(denoise, "towards", None)
    moved: Tensor = denoise(x, sigma).lerp(x, kept) if towards is None else towards(x, sigma, kept)
    return moved


def renoised(x: Tensor, noise: Noise, deviation: float) -> Tensor:
    """x with normal noise added."""
    return x.add(noise.normal(*x.shape[1:]), alpha=deviation) if deviation else x
