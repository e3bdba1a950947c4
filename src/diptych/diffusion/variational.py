"""The terms of the variational bound on the likelihood, in coordinates where x = x_0 + sigma eps
(Ho et al., 2020, arXiv:2006.11239, equation 5; Nichol and Dhariwal, 2021, arXiv:2102.09672).

A step leads from the level sigma to a smaller one, `following`; everything is elementwise and in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import log_ndtr


def bounds(sigma: Tensor, following: Tensor, end: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
    """Log variances that a step may have: the posterior's, beta tilde, and the forward step's, beta.

    Those of x_following = x_t / alpha_t with alpha = 1 / sqrt(1 + sigma^2). Where `following` is 0 the
    posterior has no variance, and `end` stands in its place; None: half of the larger.
    """
    between = (sigma - following) * (sigma + following)
    large = between * (1 + following.square()) / (1 + sigma.square())
    small = (following / sigma).square() * between
    last = large / 2 if end is None else torch.as_tensor(end, dtype=large.dtype, device=large.device)
    return torch.where(following > 0, small, last).log(), large.log()


def ending(low: float, high: float) -> float:
    """The posterior's variance from `high` to `low`; it stands for that of the last step, from `low`."""
    return (low / high) ** 2 * (high - low) * (high + low) / (1 + low**2)


def learned(log_small: Tensor, log_large: Tensor, fraction: Tensor) -> Tensor:
    """Log variance between the bounds (improved DDPM, equation 15); fraction 0: the smallest."""
    return log_small + fraction * (log_large - log_small)


def posterior_mean(x: Tensor, clean: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
    """The mean of x_following where x is noisy at sigma and the image `clean` (DDPM, equation 7)."""
    return torch.lerp(clean, x, (following / sigma).square().to(x.dtype).expand_as(x))


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N(mean1, exp logvar1) || N(mean2, exp logvar2)) of each element."""
    ratio = logvar1 - logvar2
    return (ratio.exp() - 1 - ratio + (mean1 - mean2).square() * (-logvar2).exp()) / 2


def discretized_nll(x0: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """-log of the mass that a normal puts on each pixel's one of 256 levels in [-1, 1] (DDPM, equation 13).

    The outermost levels reach to infinity.
    """
    inverse = (-logvar / 2).exp()
    above, below = (x0 - mean + 1 / 255) * inverse, (x0 - mean - 1 / 255) * inverse
    above = above.masked_fill(x0 > 1 - 1 / 255, math.inf)
    below = below.masked_fill(x0 < -1 + 1 / 255, -math.inf)
    # in the tail towards which both ends lie the mass is a difference of small numbers, not of ones
    flip = above + below > 0
    upper, lower = torch.where(flip, -below, above), torch.where(flip, -above, below)
    top: Tensor = log_ndtr(upper)
    share: Tensor = (log_ndtr(lower) - top).clamp_max(-torch.finfo(x0.dtype).eps)
    return -(top + (-share.expm1()).log())
