"""What of the references is compared beside whole networks, for the table of networks.py; and its lines."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from diptych.diffusion.denoiser import ScheduleDenoiser
from diptych.diffusion.objective import Uncertainty
from diptych.diffusion.schedules import Discrete
from diptych.method import Condition
from diptych.methods.edm2 import adam_on_the_sphere
from diptych.methods.iddpm import Hybrid
from diptych.networks.magnitude import force_magnitudes
from diptych.recipe import power, power_exponent
from networks_weights import fill

SIZE, CLASSES = 32, 5
TIMES, LOGS = (3.0, 700.0, 41.5), (-0.5, 0.7, 1.1)
LABELS = (1, 4, CLASSES)  # the last is "no label"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    network: str
    reference: str
    configuration: str
    difference: float
    parameters: int
    more: int = 0  # parameters than the reference has


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; not a number where the reference says next to nothing."""
    if theirs.std() < 0.01:
        return math.nan
    return ((ours - theirs).abs() / theirs.abs().clamp_min(1)).max().item()


def size(network: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def row(ours: Any, theirs: Any, reference: str, configuration: str, a: Tensor, b: Tensor) -> Row:
    """The line of two networks and what they returned."""
    more = size(ours) - size(theirs)
    return Row(type(ours).__name__, reference, configuration, apart(a, b), size(ours), more)


def one_hot(label: Tensor) -> Tensor:
    """A class as EDM hears it; zeros for none."""
    return nn.functional.one_hot(label, CLASSES + 1)[:, :CLASSES].float()


def inputs(level: tuple[float, ...], size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Images, noise levels and labels."""
    return torch.randn(len(level), 3, size, size), torch.tensor(level), torch.tensor(LABELS)


class Varied(nn.Module):
    """Some eps and variances, cheaply."""

    def __init__(self) -> None:
        super().__init__()
        self.image_shape, self.classes = (3, 8, 8), 0
        self.weight = nn.Parameter(torch.randn(6, 3, 1, 1))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) to (B, 6, H, W)."""
        return (nn.functional.conv2d(x, self.weight) + time.view(-1, 1, 1, 1) / 1000).tanh()


def bound(schedule: str) -> Row:
    """Terms of the bound in bits a dimension, at 8 first steps, the last and 55 between.

    At the first step the reference takes differences of an approximate normal distribution function in single
    precision; it is given the exact one in double.
    """
    theirs = importlib.import_module("guided_diffusion.gaussian_diffusion")
    diffusion = theirs.GaussianDiffusion(
        betas=theirs.get_named_beta_schedule(schedule, 1000),
        model_mean_type=theirs.ModelMeanType.EPSILON,
        model_var_type=theirs.ModelVarType.LEARNED_RANGE,
        loss_type=theirs.LossType.MSE,
    )
    network = Varied()
    method = Hybrid(ScheduleDenoiser(network, Discrete(schedule), "eps", learned_variance=True))
    x = torch.randint(0, 256, (64, 3, 8, 8)) / 127.5 - 1
    step = torch.cat([torch.zeros(8), torch.randint(1, 999, (55,)), torch.tensor([999])]).long()
    eps = torch.randn_like(x)
    sigma = method.levels[step + 1]
    noisy = x + sigma.view(-1, 1, 1, 1) * eps
    clean, fraction = method.denoiser.moments(noisy, sigma, Condition())
    a = method.term(x, noisy, clean, fraction, step).mean((1, 2, 3)) / math.log(2)
    losses = theirs.discretized_gaussian_log_likelihood.__globals__
    with patch.dict(losses, approx_standard_normal_cdf=lambda x: torch.special.ndtr(x.double())):
        b = diffusion._vb_terms_bpd(
            lambda x, t: network(x, t.float()), x, diffusion.q_sample(x, step, eps), step, clip_denoised=False
        )["output"]
    what = f"{schedule}, learned variances, bits a dimension, exact normal distribution"
    return Row("Hybrid.term", "guided-diffusion _vb_terms_bpd", what, apart(a, b), 0)


def uncertainty(networks: Any) -> Row:
    """EDM2's logarithm of the weighted error at a level."""
    theirs = networks.Precond(8, 3, 0, model_channels=64, channel_mult=[1], num_blocks=1, use_fp16=False)
    mine, sigma = Uncertainty(128), torch.logspace(-3, 2, 7)
    fill(mine.frequencies, theirs.logvar_fourier.freqs)
    fill(mine.phases, theirs.logvar_fourier.phases)
    fill(mine.weight, networks.normalize(theirs.logvar_linear.weight)[0])
    _, log_variance = theirs.eval()(torch.randn(7, 3, 8, 8), sigma, return_logvar=True)
    what, difference = "levels 0.001 to 100", apart(mine(sigma), log_variance.flatten())
    return Row("Uncertainty", "EDM2 Precond logvar", what, difference, size(mine))


def profiles(averages: Any) -> Row:
    """Power-function averages: how much the past weighs in the following average."""
    widths, seen = (0.05, 0.1, 0.15, 0.25), (64, 128, 6400, 10**6)
    pairs = [(power_exponent(width), float(averages.std_to_exp(width))) for width in widths]
    pairs += [(power(w)(n, 64), averages.power_function_beta(w, n, 64)) for w in widths for n in seen]
    difference = apart(*torch.from_numpy(np.array(pairs, dtype=np.float64).T))
    what = "exponents and weights of four widths, 64 to 1e6 images"
    return Row("power", "EDM2 power_function_beta", what, difference, 0)


@torch.enable_grad()
def trained(network: nn.Module, one_hot: bool) -> Tensor:
    """The losses of 12 steps towards random images."""
    generator, losses = torch.Generator().manual_seed(2), []
    label = torch.tensor([0, 1, 2, 3])
    heard = nn.functional.one_hot(label, CLASSES).float() if one_hot else label
    if one_hot:
        optimizer: Any = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.9, 0.99))
    else:
        force_magnitudes(network)
        optimizer = adam_on_the_sphere(network, 1e-2)
    for _ in range(12):
        x, target = torch.randn(2, 4, 3, 16, 16, generator=generator)
        loss = (network(x, torch.randn(4, generator=generator), heard) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)
