"""diffusers' schedulers beside our samplers: the same network, the same noise, the same noise levels.

Each case returns our images and theirs. The table of differences in benchmarks/samplers.py is made of them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.diffusion.samplers import SAMPLERS
from diptych.diffusion.samplers.grids import karras, leading, log_snr, trailing
from diptych.diffusion.schedules import LARGEST, Discrete
from diptych.model import Noise

N = 17  # more than 15: with fewer steps diffusers lowers the order of the last two
SEEDS = (3, 4)
VP = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
LINEAR = Discrete("linear")
Pair = tuple[Tensor, Tensor]


def network(x_t: Tensor, time: float) -> Tensor:
    """Any smooth function of a noisy image of unit size, and of time."""
    generator = torch.Generator().manual_seed(0)
    first, last = (torch.randn(s, generator=generator).to(x_t) / 5 for s in ((8, 3, 3, 3), (3, 8, 3, 3)))
    hidden = F.silu(F.conv2d(x_t, first, padding=1) + math.sin(time))
    return F.conv2d(hidden, last, padding=1).tanh() / 2


def clean(x: Tensor, sigma: float) -> Tensor:
    """A denoiser of images of about unit size, x = x_0 + sigma eps."""
    x_t = x / math.sqrt(1 + sigma**2)
    return x_t / math.sqrt(1 + sigma**2) + network(x_t, math.log(sigma) / 4)


def eps(x_t: Tensor, sigma: float) -> Tensor:
    """The same network as diffusers calls it: the noise in a variance-preserving image."""
    x = x_t * math.sqrt(1 + sigma**2)
    return (x - clean(x, sigma)) / sigma


def begin(sigma: float) -> Tensor:
    """Noise of this level."""
    return sigma * Noise(SEEDS).normal(3, 8, 8).double()


def after_start() -> Noise:
    """The noise that is drawn after the start."""
    noise = Noise(SEEDS)
    noise.normal(3, 8, 8)
    return noise


def ours(name: str, sigmas: Sequence[float], **options: Any) -> Tensor:
    """Our sampler on these levels."""
    return SAMPLERS[name](clean, begin(sigmas[0]), sigmas, after_start(), **options)


@contextmanager
def fed(scheduler: Any) -> Iterator[None]:
    """Lets a scheduler draw the noise that ours draw."""
    module, noise = importlib.import_module(type(scheduler).__module__), after_start()

    def draw(shape: Sequence[int], **_: Any) -> Tensor:
        return noise.normal(*shape[1:]).double()

    with patch.object(module, "randn_tensor", draw, create=True):
        yield


def scheduler_of(kind: str, steps: int = N, **options: Any) -> Any:
    """One of diffusers' schedulers with its timesteps set."""
    import diffusers

    made = getattr(diffusers, kind)(**options)
    made.set_timesteps(steps)
    return made


def floats(sigmas: Tensor) -> list[float]:
    """Their levels, each once."""
    return list(dict.fromkeys(sigmas.double().tolist()))


def scaled(scheduler: Any, levels: Sequence[float]) -> Tensor:
    """Their loop where the scheduler scales x for the network; `levels` are those of its calls."""
    x = begin(levels[0])
    scheduler.set_begin_index(0)
    with fed(scheduler):
        for t, sigma in zip(scheduler.timesteps, levels, strict=True):
            scheduler.scale_model_input(x, t)
            x = scheduler.step((x - clean(x, sigma)) / sigma, t, x).prev_sample
    return x


def preserved(scheduler: Any, levels: Sequence[float]) -> Tensor:
    """Their loop where x_t is variance-preserving."""
    x_t = begin(levels[0]) / math.sqrt(1 + levels[0] ** 2)
    with fed(scheduler):
        for t, sigma in list(zip(scheduler.timesteps, levels, strict=False)):
            x_t = scheduler.step(eps(x_t, sigma), t, x_t).prev_sample
    return x_t


def one_call(name: str, kind: str) -> Pair:
    """Euler and its like."""
    theirs = scheduler_of(kind, **VP)
    sigmas = floats(theirs.sigmas)
    return ours(name, sigmas), scaled(theirs, sigmas[:-1])


def heun(name: str, kind: str) -> Pair:
    """Their levels stand there once a call."""
    theirs = scheduler_of(kind, **VP)
    return ours(name, floats(theirs.sigmas)), scaled(theirs, theirs.sigmas.double().tolist()[:-1])


def midpoint(name: str, kind: str, eta: float) -> Pair:
    """Their second call is at the geometric middle of the level and where the step goes down to."""
    theirs = scheduler_of(kind, **VP)
    sigmas = floats(theirs.sigmas)
    downs = [b * b / a if eta else b for a, b in pairwise(sigmas[:-1])]
    middles = [math.sqrt(a * down) for a, down in zip(sigmas[:-2], downs, strict=True)]
    calls = [*chain(*zip(sigmas[:-2], middles, strict=True)), sigmas[-2]]
    return ours(name, sigmas), scaled(theirs, calls)


def of_steps(kind: str, steps: int, spacing: str, **options: Any) -> Any:
    """A scheduler of a thousand steps that has its alphas in float64."""
    theirs = scheduler_of(kind, steps, **VP, clip_sample=False, timestep_spacing=spacing, **options)
    theirs.alphas_cumprod = 1 / (1 + torch.tensor(LINEAR.exact, dtype=torch.float64).square())
    return theirs


def ddim(steps: int, eta: float) -> Pair:
    """DDIM, with noise or without."""
    theirs = of_steps("DDIMScheduler", steps, "trailing")
    step = theirs.step
    theirs.step = lambda *arguments: step(*arguments, eta=eta)
    sigmas = trailing(steps, *LINEAR.ends(), LINEAR)
    return ours("ddim", sigmas, eta=eta), preserved(theirs, sigmas[:-1])


def ddpm(steps: int, variance: str) -> Pair:
    """With spacing "leading": only step 0 is theirs without noise, whichever is the last."""
    theirs = of_steps("DDPMScheduler", steps, "leading", variance_type=f"fixed_{variance}")
    sigmas = leading(steps, *LINEAR.ends(), LINEAR)
    return ours("ddpm", sigmas, variance=variance), preserved(theirs, sigmas[:-1])


class Learned:
    """The same denoiser with variances, any function of the image."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return clean(x, sigma)

    def moments(self, x: Tensor, sigma: float) -> Pair:
        """Clean images, and the variance from 0 to 1."""
        return clean(x, sigma), (network(x / math.sqrt(1 + sigma**2), 1.0) + 1) / 2


def ddpm_learned() -> Pair:
    """Improved DDPM: their network returns twice the channels."""
    theirs = of_steps("DDPMScheduler", 10, "leading", variance_type="learned_range")
    sigmas = leading(10, *LINEAR.ends(), LINEAR)
    x_t = begin(sigmas[0]) / math.sqrt(1 + sigmas[0] ** 2)
    with fed(theirs):
        for t, sigma in zip(theirs.timesteps, sigmas[:-1], strict=True):
            x_t = theirs.step(torch.cat([eps(x_t, sigma), network(x_t, 1.0)], 1), t, x_t).prev_sample
    mine = SAMPLERS["ddpm"](Learned(), begin(sigmas[0]), sigmas, after_start(), variance="learned")
    return mine, x_t


def multistep(name: str, kind: str, **options: Any) -> Pair:
    """Multistep methods of variance-preserving images."""
    theirs = scheduler_of(kind, **VP, **options, final_sigmas_type="zero")
    sigmas = floats(theirs.sigmas)
    return ours(name, sigmas), preserved(theirs, sigmas[:-1])


def deis(order: int) -> Pair:
    """But for the last step, to 0: theirs is not a number (0 log 0), ours the clean image."""
    theirs = scheduler_of("DEISMultistepScheduler", **VP, solver_order=order)
    sigmas = floats(theirs.sigmas)[:N]
    theirs.timesteps = theirs.timesteps[:-1]
    return ours("deis", sigmas, order=order), preserved(theirs, sigmas) * math.sqrt(1 + sigmas[-1] ** 2)


def ipndm() -> Pair:
    """Their network predicts v, of which they make eps; their levels are given as betas."""
    sigmas = karras(N, 0.01, 80)
    betas = [sigma / math.sqrt(1 + sigma**2) for sigma in sigmas]
    theirs = scheduler_of("IPNDMScheduler", trained_betas=betas)
    theirs.betas = torch.tensor(betas, dtype=torch.float64)
    theirs.alphas = (1 - theirs.betas.square()).sqrt()
    x_t = begin(sigmas[0]) / math.sqrt(1 + sigmas[0] ** 2)
    for t, sigma, beta in zip(theirs.timesteps, sigmas[:-1], betas[:-1], strict=True):
        v = (eps(x_t, sigma) - beta * x_t) * math.sqrt(1 + sigma**2)
        x_t = theirs.step(v, t, x_t).prev_sample
    return ours("ipndm", sigmas), x_t


def singlestep(name: str, order: int, algorithm: str) -> Pair:
    """One step of ours is `order` of theirs, with levels between at equal steps of log sigma.

    Of third order their middle stage with "midpoint" is not the paper's, but that with "heun" is.
    """
    kinds = ("midpoint", "heun", "midpoint")[:order] if order == 3 else ("midpoint", "midpoint")
    ends = log_snr(6, 0.02, 80)[:-1]
    between = [a * (b / a) ** (k / order) for a, b in pairwise(ends) for k in range(order)]
    theirs = scheduler_of(
        "DPMSolverSinglestepScheduler",
        len(between),
        **VP,
        solver_order=order,
        algorithm_type=algorithm,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    theirs.sigmas = torch.tensor([*between, ends[-1]], dtype=torch.float64)
    theirs.set_begin_index(0)
    x_t = begin(ends[0]) / math.sqrt(1 + ends[0] ** 2)
    for k, (t, sigma) in enumerate(zip(theirs.timesteps, between, strict=True)):
        theirs.register_to_config(solver_type=kinds[k % order])
        x_t = theirs.step(eps(x_t, sigma), t, x_t).prev_sample
    return ours(name, ends), x_t * math.sqrt(1 + ends[-1] ** 2)


def velocity(y: Tensor, t: float) -> Tensor:
    """From image to noise, on the straight line y = x / (1 + sigma), t = sigma / (1 + sigma)."""
    return y - network(y, t)


def flow_clean(x: Tensor, sigma: float) -> Tensor:
    """The denoiser that this velocity makes."""
    y, t = x / (1 + sigma), sigma / (1 + sigma)
    return y - t * velocity(y, t)


def flow(name: str, kind: str, shift: float) -> Pair:
    """From pure noise: their t is 1, our level LARGEST."""
    theirs = scheduler_of(kind, shift=shift)
    start = y = begin(1.0)
    for t, s in zip(theirs.timesteps, theirs.sigmas.double().tolist(), strict=False):
        y = theirs.step(velocity(y, s), t, y).prev_sample
    sigmas = [min(t / max(1 - t, 1e-30), LARGEST) for t in floats(theirs.sigmas)]
    return SAMPLERS[name](flow_clean, start * (1 + sigmas[0]), sigmas, Noise(())), y


def edm(name: str, kind: str, **options: Any) -> Pair:
    """Their network predicts EDM's F."""
    theirs = scheduler_of(kind, **options)
    sigmas, s = floats(theirs.sigmas), 0.5
    x = begin(sigmas[0])
    with fed(theirs):
        for t, sigma in zip(theirs.timesteps, sigmas[:-1], strict=True):
            theirs.scale_model_input(x, t)
            total = sigma**2 + s**2
            F_x = (clean(x, sigma) - s**2 / total * x) * total**0.5 / (sigma * s)
            x = theirs.step(F_x, t, x).prev_sample
    return ours(name, sigmas), x


@dataclass(frozen=True)
class Case:
    """One of our samplers beside one of their schedulers."""

    name: str
    peer: str
    pair: Callable[..., Pair]
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def run(self) -> Pair:
        """Our images and theirs."""
        return self.pair(*self.arguments, **dict(self.options))

    def __str__(self) -> str:
        return "-".join(map(str, (self.name, self.peer, *self.arguments[2:], *(v for _, v in self.options))))


def case(name: str, peer: str, pair: Callable[..., Pair], *arguments: Any, **options: Any) -> Case:
    """A case whose function is told both names."""
    return Case(name, peer, pair, (name, f"{peer}Scheduler", *arguments), tuple(options.items()))


MULTI, EDM = "DPMSolverMultistep", "EDMDPMSolverMultistep"
CASES = (
    *(Case("ddpm", "DDPM", ddpm, (n, kind)) for n in (10, 100) for kind in ("small", "large")),
    Case("ddpm", "DDPM", ddpm_learned),
    *(Case("ddim", "DDIM", ddim, (n, eta)) for n in (10, 100) for eta in (0.0, 0.7)),
    case("euler", "EulerDiscrete", one_call),
    case("euler", "EDMEuler", edm),
    *(case("euler", "FlowMatchEulerDiscrete", flow, shift) for shift in (1.0, 3.0)),
    case("euler-ancestral", "EulerAncestralDiscrete", one_call),
    case("heun", "HeunDiscrete", heun),
    *(case("flow-heun", "FlowMatchHeunDiscrete", flow, shift) for shift in (1.0, 3.0)),
    case("dpm2", "KDPM2Discrete", midpoint, 0.0),
    case("dpm2-ancestral", "KDPM2AncestralDiscrete", midpoint, 1.0),
    Case("dpm-solver-2", "DPMSolverSinglestep", singlestep, ("dpm-solver-2", 2, "dpmsolver")),
    Case("dpm-solver-3", "DPMSolverSinglestep", singlestep, ("dpm-solver-3", 3, "dpmsolver")),
    Case("dpm++2s", "DPMSolverSinglestep", singlestep, ("dpm++2s", 2, "dpmsolver++")),
    Case("dpm++3s", "DPMSolverSinglestep", singlestep, ("dpm++3s", 3, "dpmsolver++")),
    case("dpm++2m", MULTI, multistep, solver_order=2),
    case("dpm++2m", EDM, edm, solver_order=2),
    case("dpm++3m", MULTI, multistep, solver_order=3),
    case("dpm++3m", EDM, edm, solver_order=3),
    case("dpm++2m-sde", MULTI, multistep, algorithm_type="sde-dpmsolver++"),
    case("dpm++2m-sde", EDM, edm, algorithm_type="sde-dpmsolver++"),
    case("unipc", "UniPCMultistep", multistep, solver_order=2),
    case("unipc3", "UniPCMultistep", multistep, solver_order=3),
    case("lms", "LMSDiscrete", one_call),
    *(Case("deis", "DEISMultistep", deis, (order,)) for order in (1, 2, 3)),
    Case("ipndm", "IPNDM", ipndm),
)
