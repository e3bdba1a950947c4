"""DiffusionModel: a denoiser, a sampler and a number of steps, seen as a Model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser
from diptych.diffusion.guidance import Guide, Guided, Strength, Thresholded
from diptych.diffusion.samplers import GRIDS, SAMPLERS
from diptych.diffusion.schedules import SCHEDULES, Schedule, schedule
from diptych.errors import WrongUse, did_you_mean
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


@saveable
@dataclass(frozen=True)
class DiffusionOptions:
    """How a denoiser is turned into images. 0 for a noise level means the denoiser's own."""

    steps: int = 18
    sampler: str = "heun"
    grid: str = "karras"  # how the noise levels lie
    sigma_min: float = 0.0
    sigma_max: float = 0.0
    sigmas: tuple[float, ...] = ()  # noise levels in the grid's place, falling to 0: see diptych tune-steps
    schedule: str = ""  # of a grid that follows a schedule, in the place of the denoiser's own
    guidance: float = 1.0  # 1: the conditional density itself; more: less diversity, clearer classes
    guidance_low: float = 0.0  # the noise levels that are guided
    guidance_high: float = 1e9
    guidance_rescale: float = 0.0
    negative: int | None = None  # a class to lead away from, in the place of no class
    threshold: float = 0.0  # 1: clean images are cut to [-1, 1]; 0.995, say: dynamic thresholding; 0: neither
    eta: float | None = None  # noise of stochastic samplers; None: the sampler's own default
    churn: float | None = None
    variance: str | None = None  # of the ddpm sampler: "small", "large" or "learned"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise WrongUse(f"steps must be at least 1, not {self.steps}")
        for what, name, known in (
            ("sampler", self.sampler, SAMPLERS),
            ("grid", self.grid, GRIDS),
            ("schedule", self.schedule or "flow", SCHEDULES),
        ):
            if name not in known:
                raise WrongUse(f"there is no {what} called {name}", did_you_mean(name, list(known)))
        if self.sigma_min < 0 or (self.sigma_max and not self.sigma_min < self.sigma_max):
            raise WrongUse(f"sigma_min {self.sigma_min} must lie between 0 and sigma_max {self.sigma_max}")
        falling = all(a > b >= 0 for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if self.sigmas and (len(self.sigmas) < 2 or not falling):
            raise WrongUse("sigmas must be two noise levels or more, each smaller than the one before")
        for name in ("eta", "churn", "variance"):
            if getattr(self, name) is not None and name not in SAMPLERS[self.sampler].takes:
                able = [s.name for s in SAMPLERS.values() if name in s.takes]
                raise WrongUse(f"sampler {self.sampler} has no {name}", f"these have: {', '.join(able)}")

    def of_sampler(self) -> Mapping[str, Any]:
        """The options that the sampler takes, where they are given."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: given[k] for k in SAMPLERS[self.sampler].takes if given.get(k) is not None}


@saveable
class DiffusionModel(Model):
    """Starts from noise of the highest level and lets a sampler walk a denoiser down to a clean image.

    guide: what guidance leads away from or towards; None: classifier-free guidance.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        options: DiffusionOptions = DiffusionOptions(),
        guide: Guide | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.options, self.guide = denoiser, options, guide
        if options.guidance != 1 and guide is None and not denoiser.classes:
            raise WrongUse("guidance needs a model that knows labels", "leave guidance at 1 for this model")
        if options.negative is not None and not 0 <= options.negative < denoiser.classes:
            raise WrongUse(f"label {options.negative} is out of range", f"classes: {denoiser.classes}")
        self.image_shape = denoiser.image_shape
        self.classes = denoiser.classes if guide is None else guide.around(denoiser, Strength()).classes
        self.sigmas = noise_levels(options, denoiser.schedule)

    def dial(self) -> Sequence[dict[str, int]]:
        """Quality is a curve over the number of steps."""
        if self.options.sigmas:
            return ({},)
        few = self.options.sampler == "consistency"  # its quality is flat after a few jumps
        return [{"steps": steps} for steps in ((1, 2, 4) if few else (1, 2, 4, 8, 18, 35))]

    def guided(self) -> Denoiser:
        """The denoiser as the options want it: guided, thresholded."""
        options, denoiser = self.options, self.denoiser
        if options.guidance != (1 if self.guide is None else self.guide.neutral):
            bounds = (options.guidance_low, options.guidance_high)
            everywhere = bounds[0] <= 0 and bounds[1] >= 1e9
            low, high = (0.0, float("inf")) if everywhere else bounds
            strength = Strength(options.guidance, low, high, options.guidance_rescale)
            if self.guide is None:
                denoiser = Guided(denoiser, strength, options.negative)
            else:
                denoiser = self.guide.around(denoiser, strength)
        return Thresholded(denoiser, options.threshold) if options.threshold else denoiser

    def walk(
        self, x: Tensor, sigmas: Sequence[float], noise: Noise, condition: Condition, denoiser: Denoiser
    ) -> Tensor:
        """Lets the sampler lead x (B, C, H, W), noisy at sigmas[0], to sigmas[-1] along a denoiser."""
        options = self.options
        return SAMPLERS[options.sampler](Sight(denoiser, condition), x, sigmas, noise, **options.of_sampler())

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        sigmas = self.sigmas
        start = noise.normal(*self.image_shape).contiguous(memory_format=torch.channels_last)
        return self.walk(sigmas[0] * start, sigmas, noise, condition, self.guided())


def noise_levels(options: DiffusionOptions, own: Schedule) -> tuple[float, ...]:
    """The noise levels that a sampler visits, falling to 0; `own` is the denoiser's schedule."""
    if options.sigmas:
        return options.sigmas
    followed = schedule(options.schedule) if options.schedule else own
    low, high = followed.ends()
    ends = options.sigma_min or low, options.sigma_max or high
    return tuple(GRIDS[options.grid](options.steps, *ends, followed))


@dataclass(frozen=True)
class Sight:
    """A denoiser under a condition, as samplers call it."""

    denoiser: Denoiser
    condition: Condition

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Clean images (B, C, H, W)."""
        return self.denoiser(x, self.level(x, sigma), self.condition)  # type: ignore[no-any-return]

    def moments(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Clean images and the learned variances, 0 to 1."""
        return self.denoiser.moments(x, self.level(x, sigma), self.condition)

    def level(self, x: Tensor, sigma: float) -> Tensor:
        """The noise level as (1,), on the images' device."""
        return torch.full((1,), sigma, device=x.device, dtype=x.dtype)
