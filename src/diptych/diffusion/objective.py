"""What a denoiser learns from: which noise levels, and how much an error at each of them weighs.

Every diffusion loss is weight(sigma) ||D(x + sigma eps) - x||^2 over some distribution of sigma (Kingma and
Gao, 2023, arXiv:2303.00848): methods differ by these two functions, and by what their networks predict.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diptych.diffusion.schedules import Schedule, Table
from diptych.errors import WrongUse, did_you_mean

Levels = Callable[[int, torch.device], Tensor]  # so many noise levels, drawn from torch's generator
Weight = Callable[[Tensor, Tensor], Tensor]  # sigma and c_out(sigma), (B,) each -> (B,)


def spread(n: int, device: torch.device) -> Tensor:
    """n numbers in (0, 1), one in each of n equal parts: a batch meets all noise levels alike, so that its
    loss and gradient vary less (Kingma et al., 2021, arXiv:2107.00630, appendix I.1)."""
    parts = torch.arange(n, device=device) + torch.rand(n, device=device)
    return (parts / n).clamp(1e-7, 1 - 1e-7)


def normal(n: int, device: torch.device) -> Tensor:
    """n standard normal numbers, one in each of n parts that are as likely."""
    return math.sqrt(2) * torch.erfinv(2 * spread(n, device) - 1)


def lognormal(mean: float, deviation: float) -> Levels:
    """log sigma is normal (EDM, table 1)."""
    return lambda n, device: (mean + deviation * normal(n, device)).exp()


def uniform_times(schedule: Schedule) -> Levels:
    """Every time is as likely; of a schedule with steps, every step (DDPM, algorithm 1)."""

    def draw(n: int, device: torch.device) -> Tensor:
        if isinstance(schedule, Table):
            last = len(schedule.exact) - 1
            steps = (spread(n, device) * (last + 1)).floor().clamp_max(last)
            return schedule.level(steps / last)
        return schedule.level(spread(n, device))

    return draw


def logit_normal_times(schedule: Schedule, mean: float = 0.0, deviation: float = 1.5) -> Levels:
    """The time's logit is normal: most of the work is in the middle (Esser et al., 2024, equation 19).

    With their deviation of 1 one time in six hundred is below 0.05, and the last noise is hardly learned.
    """

    def draw(n: int, device: torch.device) -> Tensor:
        return schedule.level((mean + deviation * normal(n, device)).sigmoid())

    return draw


def uniform(sigma: Tensor, c_out: Tensor) -> Tensor:
    """The network's own error, whatever it predicts: for eps the simple loss (DDPM, equation 14)."""
    return c_out.square().reciprocal()


def snr(sigma: Tensor, c_out: Tensor) -> Tensor:
    """The signal-to-noise ratio: the error of eps, whatever the network predicts."""
    return sigma.square().reciprocal()


def min_snr(gamma: float = 5.0) -> Weight:
    """The signal-to-noise ratio, at most gamma (Hang et al., 2023, arXiv:2303.09556)."""
    return lambda sigma, c_out: sigma.square().reciprocal().clamp_max(gamma)


def edm(sigma_data: float = 0.5) -> Weight:
    """(sigma^2 + s^2) / (sigma s)^2 (EDM, table 1)."""
    return lambda sigma, c_out: (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def p2(gamma: float = 1.0, k: float = 1.0) -> Weight:
    """SNR / (k + SNR)^gamma: less for the last, invisible noise (Choi et al., 2022, arXiv:2204.00227)."""

    def weigh(sigma: Tensor, c_out: Tensor) -> Tensor:
        ratio = sigma.square().reciprocal()
        return ratio / (k + ratio) ** gamma

    return weigh


WEIGHTS: dict[str, Weight] = {
    "uniform": uniform,
    "snr": snr,
    "min-snr": min_snr(),
    "edm": edm(),
    "p2": p2(),
}


LEARNED = "uncertainty"  # the weighting that an Uncertainty learns, beginning with the uniform one


def weight(name: str) -> Weight:
    """The weighting of this name. Raises WrongUse with the nearest name where there is none."""
    known = {**WEIGHTS, LEARNED: uniform}
    if name not in known:
        raise WrongUse(f"there is no weighting called {name}", did_you_mean(name, list(known)))
    return known[name]


class Uncertainty(nn.Module):
    """u(sigma), the logarithm of the weighted error to be expected at a noise level, learned beside the
    denoiser: it makes all levels count the same (EDM2, Karras et al., 2024, arXiv:2312.02696)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, sigma: Tensor) -> Tensor:
        """u(sigma), (B,) to (B,), float32: linear in random cosines of log(sigma) / 4."""
        angle = (sigma.float().log() / 4)[:, None] * self.frequencies + self.phases
        scale = math.sqrt(2 / len(self.weight))
        return (angle.cos() * (scale * self.weight)).sum(1)

    def balance(self, error: Tensor, sigma: Tensor) -> Tensor:
        """error / exp(u) + u, least where u is the logarithm of the mean error (equation 21).

        error (B, C, H, W), sigma (B,).
        """
        u = self(sigma).view(-1, 1, 1, 1)
        return error * (-u).exp() + u  # type: ignore[no-any-return]
