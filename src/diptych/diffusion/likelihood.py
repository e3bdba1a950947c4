"""The log density of images under a denoiser's probability-flow ODE (Song et al., 2021, arXiv:2011.13456,
appendix D.2), its divergence by Hutchinson's estimator (1989; Grathwohl et al., 2019, arXiv:1810.01367).

In the coordinates x = x_0 + sigma eps the ODE is dx / d log sigma = x - D(x; sigma) (EDM, equation 1). It is
solved for y = x / sqrt(1/4 + sigma^2), which hardly moves where the data's deviation is about 1/2: one
tolerance means the same at every noise level.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser, each
from diptych.diffusion.ode import State, dormand_prince
from diptych.errors import WrongUse
from diptych.model import Condition, Noise

SIGMA_DATA = 0.5


def ode_log_prob(
    denoiser: Denoiser,
    image: Tensor,
    sigma_min: float,
    sigma_max: float,
    condition: Condition = Condition(),
    *,
    tolerance: float = 1e-4,
    probes: int = 1,
) -> Tensor:
    """Log density (B,) in nats of images (B, C, H, W), as those noisy at sigma_min.

    It is that of normal noise of deviation sigma_max led down the ODE. tolerance: of each step, of the image
    and of the nats a dimension. probes: random directions for the estimate of the divergence, which has no
    bias; 0: it is exact, at one backward pass for every number of an image. An image's probes depend on its
    numbers alone: it has one density, in whichever batch. Works within no_grad and inference_mode.
    """
    if probes < 0 or tolerance <= 0:
        raise WrongUse(f"probes {probes} must not be negative, and tolerance {tolerance:g} positive")
    with torch.inference_mode(False), torch.no_grad():
        x = image.detach().clone()
        condition = condition.map(lambda part: part.clone() if isinstance(part, Tensor) else part)
        low, high = radius(sigma_min), radius(sigma_max)
        flow = Flow(denoiser, condition, directions(x, probes))
        start = x / low, torch.zeros_like(x[:, 0, 0, 0])
        y, turned = dormand_prince(flow, start, math.log(sigma_min), math.log(sigma_max), tolerance)
        d = math.prod(x.shape[1:])
        prior = -(y * (high / sigma_max)).flatten(1).square().sum(1) / 2
        return prior + d * (turned - math.log(sigma_max * low / high) - math.log(2 * math.pi) / 2)


def radius(sigma: float) -> float:
    """How large a noisy image is: sqrt(1/4 + sigma^2)."""
    return math.hypot(SIGMA_DATA, sigma)


@dataclass(frozen=True)
class Flow:
    """dy / d log sigma, and the mean of its divergence over the dimensions."""

    denoiser: Denoiser
    condition: Condition
    probes: Tensor  # (B, K, C, H, W)

    def __call__(self, rows: Tensor, time: Tensor, state: State) -> State:
        """rows (n,) of the batch, log sigma (n,), y (n, C, H, W) beside (n,); their slopes."""
        here, sigma = rows.to(state[0].device), time.exp()
        size = (SIGMA_DATA**2 + sigma**2).sqrt()
        shrinks = (SIGMA_DATA / size).square().to(state[0])  # of y, where D would not look at x
        x = (state[0] * each(size.to(state[0]))).contiguous(memory_format=torch.channels_last)
        condition = self.condition.map(
            lambda part: part[here] if isinstance(part, Tensor) else [part[i] for i in rows.tolist()]
        )
        probes = self.probes if len(self.probes) == 1 else self.probes[here]
        clean, trace = seen(self.denoiser, x, sigma.to(x), condition, probes)
        return state[0] * each(shrinks) - clean / each(size.to(x)), shrinks - trace


def seen(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, condition: Condition, probes: Tensor
) -> tuple[Tensor, Tensor]:
    """The clean image, and the mean of its Jacobian's diagonal (n,) by these probes (n or 1, K, C, H, W)."""
    with torch.enable_grad():
        clean = denoiser(x.requires_grad_(True), sigma, condition)
        found = []
        for k in range(probes.shape[1] or x[0].numel()):
            v = (probes[:, k] if probes.shape[1] else axis(k, x)).expand_as(x)
            (slope,) = torch.autograd.grad(clean, x, v, retain_graph=True, materialize_grads=True)
            found.append((slope * v).flatten(1).mean(1))
    return clean.detach(), torch.stack(found).mean(0)


def directions(image: Tensor, count: int) -> Tensor:
    """Random signs (B, K, C, H, W), drawn from each image's own seed; a count of 0 stands for every axis."""
    shape = image.shape[1:]
    if count == 0:
        return image.new_empty(len(image), 0, *shape)
    drawn = Noise(seeds(image), image.device).normal(count, *shape)
    return torch.where(drawn < 0, -1.0, 1.0).to(image.dtype)


def axis(k: int, image: Tensor) -> Tensor:
    """The k-th of d axes (1, C, H, W), sqrt(d) long: all of them at once would be d squared numbers."""
    d = image[0].numel()
    one = torch.zeros(d, dtype=image.dtype, device=image.device)
    one[k] = math.sqrt(d)
    return one.view(1, *image.shape[1:])


def seeds(image: Tensor) -> list[int]:
    """A number for each image that depends on its content alone."""
    return [zlib.crc32(one.contiguous().numpy().tobytes()) for one in image.detach().cpu()]
