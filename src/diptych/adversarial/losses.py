"""Adversarial losses and penalties, as functions of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def relativistic(better: Tensor, worse: Tensor) -> Tensor:
    """Softplus of how far `worse` scores above `better`, pair by pair: (B,) logits each, a scalar.

    The relativistic pairing loss (Jolicoeur-Martineau, 2019, arXiv:1807.00734; R3GAN, Huang et al., 2025,
    arXiv:2501.05441, equation 2). The critic puts reals first, the generator fakes.
    """
    return F.softplus(worse - better).mean()


def gradient_penalty(logit: Tensor, image: Tensor) -> Tensor:
    """Mean over the batch of ||d logit / d image||^2, differentiable: R1 on reals, R2 on fakes.

    Mescheder et al., 2018, arXiv:1801.04406. `image` (B, C, H, W) must require gradients; `logit` is (B,).
    """
    (slope,) = torch.autograd.grad(logit.sum(), image, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()
