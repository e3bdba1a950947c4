"""Linear inverse problems, y = A x + noise, solved by a denoiser that never saw A.

ddnm: what was measured replaces its share of each clean image, any sampler (Wang et al., 2022,
arXiv:2212.00490); with noise the paper's DDNM+, a walk of its own. pigdm: the gradient of a Gaussian
likelihood through the denoiser, any sampler (Song et al., 2023, "Pseudoinverse-guided diffusion models for
inverse problems"); the exact posterior where images are an isotropic Gaussian. dps: after each step of any
sampler one along the gradient of the measurement's error (Chung et al., 2022, arXiv:2209.14687).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser, Wrapper, each
from diptych.diffusion.editing.edit import start
from diptych.diffusion.editing.operators import Gain, Operator
from diptych.diffusion.model import DiffusionModel
from diptych.diffusion.samplers.grids import HIGHEST
from diptych.diffusion.sight import Sight
from diptych.errors import WrongUse, did_you_mean
from diptych.model import Condition, Noise

METHODS = ("ddnm", "pigdm", "dps")


class Consistent(Wrapper):
    """Clean images that agree with a measurement: D(x) + A^+ (y - A D(x)) (DDNM, equation 13).

    Above the noise level `above` only; below it details are the denoiser's own.
    """

    def __init__(self, denoiser: Denoiser, operator: Operator, measured: Tensor, above: float = 0.0) -> None:
        super().__init__(denoiser)
        self.operator, self.measured, self.above = operator, measured, above

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,)."""
        return self.corrected(self.denoiser(x, sigma, condition), sigma)

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The clean image that agrees, and the learned variance."""
        clean, fraction = self.denoiser.moments(x, sigma, condition)
        return self.corrected(clean, sigma), fraction

    def corrected(self, clean: Tensor, sigma: Tensor) -> Tensor:
        """The nearest image that gives the measurement."""
        missing = self.operator.inverse(self.measured - self.operator(clean))
        return clean + (missing if self.above <= 0 else torch.where(each(sigma) >= self.above, missing, 0.0))


class PseudoinverseGuided(Wrapper):
    """D(x) + sigma^2 J^T A^T (r^2 A A^T + noise^2)^-1 (y - A D(x)), with J the slope of D.

    r^2 = s^2 sigma^2 / (s^2 + sigma^2) is how much of an image of deviation `s` is unknown at sigma. In noise
    that drowns the image J is r^2 / sigma^2, what it is for independent pixels: there a network's own would
    have to be right to 1 / sigma^2.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measured: Tensor,
        noise: float = 0.0,
        deviation: float = 0.5,
    ) -> None:
        super().__init__(denoiser)
        self.operator, self.measured = operator, measured
        self.noise, self.deviation = noise, deviation
        # along no direction has an image a deviation above s sqrt(C H W): at twice that nothing stands out
        self.drowned = min(HIGHEST, 2 * deviation * math.sqrt(math.prod(denoiser.image_shape)))

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,)."""
        return self.led(Slope(self.denoiser, x, sigma, condition), sigma)

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The clean image that is led, and the denoiser's learned variance."""
        slope = Slope(self.denoiser, x, sigma, condition, learned=True)
        return self.led(slope, sigma), slope.fraction

    def led(self, slope: Slope, sigma: Tensor) -> Tensor:
        """The clean image, moved to where the measurement is likelier."""
        level = each(sigma).square()
        unknown = self.deviation**2 * level / (self.deviation**2 + level)
        missing: Tensor = self.measured - self.operator(slope.clean)
        pull = self.operator.back(missing, lambda s: s / (unknown * s.square() + self.noise**2))
        back = torch.where(each(sigma) > self.drowned, unknown * pull, level * slope.back(pull))
        return slope.clean + back


class Slope:
    """A denoiser's clean image, and products with its slope, whether or not the caller keeps gradients.

    learned: also its learned variance, `fraction`, of the same call.
    """

    fraction: Tensor
    _clean: Tensor

    def __init__(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, condition: Condition, learned: bool = False
    ) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            copied = condition.map(lambda part: part.clone() if isinstance(part, Tensor) else part)
            self._x = x.detach().clone().requires_grad_(True)
            if learned:
                self._clean, fraction = denoiser.moments(self._x, sigma.clone(), copied)
                self.fraction = fraction.detach()
            else:
                self._clean = denoiser(self._x, sigma.clone(), copied)
        self.clean = self._clean.detach()

    def back(self, pull: Tensor) -> Tensor:
        """J^T pull, with J = d clean / d x."""
        with torch.inference_mode(False), torch.enable_grad():
            found: Tensor = torch.autograd.grad(self._clean, self._x, pull.detach().clone())[0]
            return found


def solve(
    model: DiffusionModel,
    denoiser: Denoiser,
    operator: Operator,
    measured: Tensor,
    noise: Noise,
    told: Condition,
    method: str = "ddnm",
    *,
    level: float = 0.0,
    deviation: float = 0.5,
    scale: float = 1.0,
) -> Tensor:
    """Images (B, C, H, W) whose measurement is `measured`, up to noise of the deviation `level`.

    deviation: of images, for pigdm alone; scale: of dps alone, the length of a step along the gradient.
    """
    if method not in METHODS:
        raise WrongUse(f"there is no method called {method}", did_you_mean(method, list(METHODS)))
    sigmas, x = model.sigmas, model.sigmas[0] * start(noise, denoiser)
    if method == "dps":
        return dps(model, denoiser, operator, measured, x, noise, told, scale)
    if method == "pigdm":
        led: Denoiser = PseudoinverseGuided(denoiser, operator, measured, level, deviation)
    elif level > 0:
        return ddnm_plus(model, denoiser, operator, measured, x, noise, told, level)
    else:
        led = Consistent(denoiser, operator, measured)
    return model.walk(x, sigmas, noise, told, led)


def ddnm_plus(
    model: DiffusionModel,
    denoiser: Denoiser,
    operator: Operator,
    measured: Tensor,
    x: Tensor,
    noise: Noise,
    told: Condition,
    level: float,
    eta: float = 0.85,
) -> Tensor:
    """DDIM steps that count the measurement's noise, level / s along a singular direction, as part of theirs.

    DDNM+ by singular values, with the noise shared out as DDRM does (Kawar et al., 2022, arXiv:2201.11793,
    equations 7 and 8).
    """
    sight = Sight(denoiser, told)
    for sigma, following in pairwise(model.sigmas):
        clean = sight(x, sigma)
        if following == 0:
            return clean
        share, kept, renewed = noise_shares(following, level, eta)
        eps = operator.within((x - clean) / sigma, kept)
        drawn = operator.within(noise.normal(*denoiser.image_shape), renewed)
        x = clean + operator.back(measured - operator(clean), share) + eps + drawn
    return x


def noise_shares(following: float, level: float, eta: float) -> tuple[Gain, Gain, Gain]:
    """By singular value s: the share of the measurement that enters, over s, the noise kept, the noise added.

    While level / s is below the noise level to come, all of it, its own noise filled up; then less and less.
    """

    def entering(s: Tensor) -> Tensor:
        drowned = s * following >= level
        return torch.where(drowned, 1.0, following * s * math.sqrt(1 - eta**2) / level)

    def renewed(s: Tensor) -> Tensor:
        own = level / torch.where(s > 0, s, 1.0)
        drowned = (s > 0) & (own <= following)
        return torch.where(drowned, (following**2 - own.square()).clamp_min(0).sqrt(), eta * following)

    def kept(s: Tensor) -> Tensor:
        return torch.where(s > 0, 0.0, following * math.sqrt(1 - eta**2))

    return lambda s: entering(s) / s, kept, renewed


def dps(
    model: DiffusionModel,
    denoiser: Denoiser,
    operator: Operator,
    measured: Tensor,
    x: Tensor,
    noise: Noise,
    told: Condition,
    scale: float,
) -> Tensor:
    """A step of the sampler, then one along -grad ||y - A D(x)||^2 / ||y - A D(x)|| (DPS, algorithm 1).

    The paper steps in x_t = alpha_t x of a variance-preserving process, hence the factor of the two alphas.
    """
    for sigma, following in pairwise(model.sigmas):
        slope = Slope(denoiser, x, Sight(denoiser, told).level(x, sigma), told)
        missing = measured - operator(slope.clean)
        length = missing.flatten(1).norm(dim=1).clamp_min(1e-8)
        # grad ||r||^2 / ||r|| = -2 J^T A^T r / ||r||
        pull = slope.back(operator.back(missing, lambda s: s)) / each(length)
        alphas = math.sqrt((1 + sigma**2) * (1 + following**2))
        x = model.walk(x, (sigma, following), noise, told, denoiser) + 2 * scale * alphas * pull
    return x
