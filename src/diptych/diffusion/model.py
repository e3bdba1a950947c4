"""DiffusionModel: a denoiser, a sampler and a number of steps, seen as a Model."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from diptych.checking import at_least, between
from diptych.diffusion.bound import Bound, chain_of, variational_bound
from diptych.diffusion.denoiser import Denoiser, NetworkDenoiser, never_unlabelled
from diptych.diffusion.guidance import Composed, Guide, Guided, Strength, Thresholded, weighed
from diptych.diffusion.levels import ends, fitting, folded, noise_levels, of_sampler, refuse_idle, schedule_of
from diptych.diffusion.likelihood import ode_log_prob
from diptych.diffusion.samplers import GRIDS, SAMPLERS
from diptych.diffusion.samplers.options import parsed, written
from diptych.diffusion.sight import Sight
from diptych.errors import NotMeasurable, WrongUse, did_you_mean
from diptych.model import Condition, Model, Noise, from_uint8, takes_after, to_uint8
from diptych.saveable import saveable

log = logging.getLogger("diptych")

OF_SAMPLERS = ("eta", "churn", "variance")  # options of samplers that have fields of their own
OF_GUIDANCE = ("negative", "guidance_low", "guidance_high", "guidance_rescale")

GuidedFrom = Annotated[float, at_least(0, "it is a noise level: 0 guides down to the clean image")]
Rescale = Annotated[float, between(0, 1, "0 leaves the guided image as it is; 0.7 is usual")]
Threshold = Annotated[
    float, between(0, 1, "1 cuts clean images to [-1, 1]; 0.995 is dynamic thresholding; 0 is neither")
]
Tolerance = Annotated[float, at_least(1e-9, "1e-4 is usual, of nats a dimension")]


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
    # of a grid that follows one, in the place of the denoiser's own: a name; an object is kept as text
    schedule: str = ""
    guidance: float = 1.0  # 1: the conditional density itself; more: less diversity, clearer classes
    guidance_low: GuidedFrom = 0.0  # the noise levels that are guided
    guidance_high: float = 1e9
    guidance_rescale: Rescale = 0.0
    negative: int | None = None  # a class to lead away from, in the place of no class
    compose: str = ""  # several classes at once, "3:1.5,7:-0.5", in the place of the label that is asked for
    threshold: Threshold = 0.0
    eta: float | None = None  # noise of stochastic samplers; None: the sampler's own default
    churn: float | None = None
    variance: str | None = None  # of the ddpm sampler: "small", "large" or "learned"
    sampler_options: str = ""  # all others of the sampler: "S_noise=1.007,S_tmin=0.05"
    likelihood: str = "ode"  # how log_prob is found: "ode", or "bound", the variational one
    tolerance: Tolerance = 1e-4  # of a step of the ode, in nats a dimension
    probes: int = 1  # of the ode's divergence; 0: exact, which is slow
    terms: int = 64  # of the bound, how many steps are looked at; 0: all

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, fitting(type(self), f.name, getattr(self, f.name), f.default))
        for name, least, hint in (
            ("steps", 1, "more steps are slower and better"),
            ("probes", 0, "1 is usual; 0 is exact and slow"),
            ("terms", 0, "64 are usual; 0 looks at all steps"),
        ):
            if getattr(self, name) < least:
                raise WrongUse(f"{name} must be at least {least}, not {getattr(self, name)}", hint)
        for what, name, known in (
            ("sampler", self.sampler, SAMPLERS),
            ("grid", self.grid, GRIDS),
            ("likelihood", self.likelihood, ("ode", "bound")),
        ):
            if name not in known:
                raise WrongUse(f"there is no {what} called {name}", did_you_mean(name, list(known)))
        if self.schedule:
            schedule_of(self.schedule)  # raises where there is none such
        if self.guidance_low > self.guidance_high:
            raise WrongUse(
                f"guidance_low {self.guidance_low:g} must not be above guidance_high {self.guidance_high:g}",
                "they are the noise levels between which the model is guided",
            )
        if self.sigma_min < 0 or (self.sigma_max and not self.sigma_min < self.sigma_max):
            raise WrongUse(
                f"sigma_min {self.sigma_min} must lie between 0 and sigma_max {self.sigma_max}",
                "0.002 and 80 are EDM's; 0 stands for the model's own",
            )
        falling = all(a > b >= 0 for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if self.sigmas and (len(self.sigmas) < 2 or not falling or self.sigmas[-1] != 0):
            raise WrongUse(
                "sigmas must be falling noise levels, the last of them 0",
                "write --sigmas 80,10,1,0 --steps 3",
            )
        if self.sigmas and self.steps != len(self.sigmas) - 1:
            raise WrongUse(
                f"the noise levels given are of {len(self.sigmas) - 1} steps, not of {self.steps}",
                "levels that were tuned are for one number of steps: tune again, or use the run itself",
            )
        given = self.of_sampler()
        for name in OF_SAMPLERS:
            object.__setattr__(self, name, given.pop(name, None))
        object.__setattr__(self, "sampler_options", written(given))

    def of_sampler(self) -> dict[str, Any]:
        """The options that the sampler takes, where they are given."""
        held = {name: value for name in OF_SAMPLERS if (value := getattr(self, name)) is not None}
        return of_sampler(SAMPLERS[self.sampler], {**held, **parsed(self.sampler_options)})


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
        if options.guidance != 1 and guide is None and not (denoiser.classes or denoiser.attributes):
            raise WrongUse("guidance needs a model that knows labels", "leave guidance at 1 for this model")
        if options.negative is not None and not 0 <= options.negative < denoiser.classes:
            raise WrongUse(f"label {options.negative} is out of range", f"classes: {denoiser.classes}")
        led_from_none = options.guidance != 1 and guide is None and options.negative is None
        if led_from_none and not denoiser.unlabelled:
            raise never_unlabelled("leave guidance at 1, or lead away from a class with --negative")
        if options.compose and options.negative is not None:
            raise WrongUse("composed classes have weights of their own", "give the class a negative weight")
        if options.variance == "learned" and not denoiser.learned_variance:
            raise WrongUse(
                "this model has learned no variances", "take --variance small or large, or train iddpm or adm"
            )
        jumps = SAMPLERS[options.sampler].jumps
        if jumps and not denoiser.jumps:
            raise WrongUse(
                f"the sampler {options.sampler} needs a denoiser that jumps, and this one was not trained to",
                "train consistency, with --teacher where there is a run to start from",
            )
        if denoiser.jumps and not jumps:
            raise WrongUse(
                f"the sampler {options.sampler} walks along means, and this model jumps to an image at once",
                f"--sampler {next(one.name for one in SAMPLERS.values() if one.jumps)} is the one for it",
            )
        takes_after(self, denoiser)
        self.classes = denoiser.classes if guide is None else guide.around(denoiser, Strength()).classes
        self.guided()  # raises what is wrong with the options now, not at the first image
        self.sigmas = noise_levels(options, denoiser.schedule)

    def networks(self) -> Sequence[nn.Module]:
        """Those inside the denoisers: what is around them changes with the options."""
        return [part.network for part in self.modules() if isinstance(part, NetworkDenoiser)]

    def using(self, **changes: Any) -> Self:
        """The same weights with other options, each by its name, the sampler's own too: `S_noise=1.007`.

        Another sampler keeps those of the options that it takes. Raises WrongUse for options of guidance
        where nothing is guided; where the guidance that guides nothing is itself asked for, as by a sweep
        from 1 on, it is only said.
        """
        found = super().using(**{**self.following(changes), **folded(self.options, changes)})
        refuse_idle(self.options, found.options, changes)
        usual, guidance = DiffusionOptions(), found.options.guidance
        if self.guide is not None and changes.get("negative") is not None:
            raise WrongUse("negative means nothing to a model that has a guide", "leave it out")
        idle = [name for name in OF_GUIDANCE if changes.get(name) not in (None, getattr(usual, name))]
        if not idle or guidance != self.neutral:
            return found
        said = f"{', '.join(idle)} {'means' if len(idle) == 1 else 'mean'} nothing at guidance {guidance:g}"
        if "guidance" not in changes:
            raise WrongUse(said, "--guidance 2, say")
        log.warning("%s", said)
        return found

    def following(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What else changes with the sampler: options that only the one before took are left out."""
        asked = changes.get("sampler")
        name = asked if isinstance(asked, str) else None  # what else it is has been refused, or will be
        takes = SAMPLERS[name].takes if name in SAMPLERS else OF_SAMPLERS
        left: dict[str, Any] = {option: None for option in OF_SAMPLERS if option not in takes}
        if name is not None and "variance" in takes and self.denoiser.learned_variance:
            left["variance"] = self.options.variance or "learned"
        return left

    @property
    def neutral(self) -> float:
        """The guidance that guides nothing."""
        return 1.0 if self.guide is None else self.guide.neutral

    def lasting(self) -> Sequence[object]:
        """Levels and coefficients of its denoisers."""
        return [part.lasting() for part in self.modules() if isinstance(part, NetworkDenoiser)]

    def dial(self) -> Sequence[dict[str, int]]:
        """Quality is a curve over the number of steps."""
        if self.options.sigmas:
            return ({},)
        few = self.denoiser.jumps  # its quality is flat after a few of them
        most = len(self.denoiser.schedule.exact) or math.inf
        return [{"steps": steps} for steps in ((1, 2, 4) if few else (1, 2, 4, 8, 18, 35)) if steps <= most]

    def guided(self) -> Denoiser:
        """The denoiser as the options want it: guided, thresholded."""
        options, denoiser = self.options, self.denoiser
        if options.guidance != self.neutral:
            bounds = (options.guidance_low, options.guidance_high)
            everywhere = bounds[0] <= 0 and bounds[1] >= 1e9
            low, high = (0.0, float("inf")) if everywhere else bounds
            strength = Strength(options.guidance, low, high, options.guidance_rescale)
            if self.guide is None and options.compose:
                raise WrongUse("composed classes have weights of their own", "leave guidance at 1")
            if self.guide is not None and options.compose and not self.guide.composes:
                raise WrongUse(
                    "a classifier leads to one label, not to several that are composed",
                    f"leave guidance at {self.neutral:g}, or ask for one --label",
                )
            if self.guide is None:
                denoiser = Guided(denoiser, strength, options.negative)
            else:
                denoiser = self.guide.around(denoiser, strength)
        if options.compose:  # around the guide: a weaker denoiser is asked for the same labels
            denoiser = Composed(denoiser, *weighed(options.compose))
        return Thresholded(denoiser, options.threshold) if options.threshold else denoiser

    @property
    def unlabelled(self) -> bool:
        """Whether its network learned to do without the labels that it knows."""
        return bool(self.classes or self.attributes) and self.denoiser.unlabelled

    def walk(
        self, x: Tensor, sigmas: Sequence[float], noise: Noise, condition: Condition, denoiser: Denoiser
    ) -> Tensor:
        """Lets the sampler lead x (B, C, H, W), noisy at sigmas[0], to sigmas[-1] along a denoiser."""
        sampler, given = SAMPLERS[self.options.sampler], self.options.of_sampler()
        if sampler.takes_whole:  # edits walk stretches of it
            given["whole"] = self.sigmas
        return sampler(Sight(denoiser, condition), x, sigmas, noise, **given)

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in about [-1, 1]."""
        sigmas = self.sigmas
        start = noise.normal(*self.image_shape).contiguous(memory_format=torch.channels_last)
        return self.walk(sigmas[0] * start, sigmas, noise, condition, self.guided())

    def log_prob(self, image: Tensor, condition: Condition = Condition()) -> Tensor:
        """Log density (B,) in nats of images (B, C, H, W): of the guided probability-flow ODE, whatever the
        sampler and its steps; or, where `likelihood` is "bound", at least so much.

        Thresholds are left out: they put images where there is no density. The bound is on the probability
        of the image's 256 levels, each spread evenly over its 1 / 127.5.
        """
        self.refuse_jumps()
        if tuple(image.shape[1:]) != self.image_shape:
            raise WrongUse(f"images of {tuple(image.shape[1:])} were given to a model of {self.image_shape}")
        if not image.is_floating_point():
            raise WrongUse(
                f"log_prob wants images in [-1, 1], not {image.dtype}", "diptych.model.from_uint8 makes them"
            )
        self.check(condition, len(image))
        options, image = self.options, image.to(next(self.parameters(), image).dtype)
        if options.likelihood == "bound":
            nats = self.bound(from_uint8(to_uint8(image)), condition, options.terms).nats
            return math.log(127.5) * math.prod(self.image_shape) - nats
        denoiser = self.using(threshold=0.0).guided()
        low, high = ends(options, self.denoiser.schedule.ends())
        settings = {"tolerance": options.tolerance, "probes": options.probes}
        return ode_log_prob(denoiser, image, low, high, condition, **settings)

    def refuse_jumps(self) -> None:
        """Raises NotMeasurable for a denoiser that is no score."""
        if self.denoiser.jumps:
            raise NotMeasurable("a consistency model has no density", "its denoiser jumps, and is no score")

    def bound(self, image: Tensor, condition: Condition = Condition(), terms: int = 0) -> Bound:
        """The variational bound, term by term, of images whose 256 levels lie in [-1, 1].

        The chain is that of the denoiser's schedule, a thousand steps where it has none; clean images are
        cut to [-1, 1], as improved DDPM's are. terms: how many of its steps are looked at; 0: all.
        """
        self.refuse_jumps()
        denoiser = self.using(threshold=1.0).guided()
        wants = "learned" if self.denoiser.learned_variance else "large"
        variance, sigmas = self.options.variance or wants, chain_of(self.denoiser.schedule)
        return variational_bound(denoiser, image, sigmas, condition, variance=variance, terms=terms)
