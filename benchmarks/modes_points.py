"""Points of several Gaussians, and every recipe's own settings around networks for points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych import catalog
from diptych.adversarial.latent import LatentModel
from diptych.data.images import Images
from diptych.diffusion.model import DiffusionModel
from diptych.errors import Diverged
from diptych.method import Method
from diptych.methods.adversarial import Adversarial
from diptych.model import Batch, Condition, Noise
from diptych.networks.mlp import MLPCritic, MLPDenoiser, MLPGenerator
from diptych.networks.spectral import SpectralNorm
from diptych.recipe import Recipe
from diptych.training.state import Settings, Training

N = 2500  # samples that are counted, as in VEEGAN and PacGAN
BATCH = 128


@dataclass(frozen=True)
class Gaussians:
    """A mixture with equal weights; stands where a training expects images. Points are (B, 2, 1, 1)."""

    centres: Tensor  # (K, 2), within [-1, 1]
    deviation: float

    def __len__(self) -> int:
        return 2**31  # never the same point twice

    def draw(self, n: int, rng: np.random.Generator) -> Tensor:
        centre = torch.from_numpy(rng.integers(0, len(self.centres), n))
        noise = torch.from_numpy(rng.standard_normal((n, 2)).astype(np.float32))
        return (self.centres[centre] + self.deviation * noise)[:, :, None, None]

    def batch(self, seed: int, start: int, size: int, device: torch.device | str = "cpu") -> Batch:
        return Batch(self.draw(size, np.random.default_rng([seed, start])).to(device), Condition())

    def counted(self, points: Tensor) -> dict[str, float]:
        """Modes with a sample within three deviations, the share of such samples, KL(samples || equal).

        A sample belongs to its nearest mode; as in VEEGAN (Srivastava et al., 2017, arXiv:1705.07761) and
        PacGAN (Lin et al., 2018, arXiv:1712.04086).
        """
        distance, nearest = torch.cdist(points.flatten(1).double(), self.centres.double()).min(1)
        good = distance < 3 * self.deviation
        counts = torch.bincount(nearest, minlength=len(self.centres))
        return {
            "modes": float(nearest[good].unique().numel()),
            "quality": good.double().mean().item(),
            "kl": kl_to_uniform(counts),
            "spread": (distance[good].square().mean() / 2).sqrt().item() / self.deviation
            if good.any()
            else 0.0,
        }


def kl_to_uniform(counts: Tensor) -> float:
    """KL divergence, in nats, of these counts from equal ones."""
    share = counts.double() / counts.sum()
    return torch.special.xlogy(share, share * len(share)).sum().item()


def grid() -> Gaussians:
    """25 modes: -4, -2, 0, 2, 4 in both directions with deviation 0.05, all divided by 4."""
    axis = torch.linspace(-1, 1, 5)
    return Gaussians(torch.cartesian_prod(axis, axis), 0.05 / 4)


def ring() -> Gaussians:
    """8 modes on the unit circle with deviation 0.01."""
    angle = torch.arange(8) * (2 * torch.pi / 8)
    return Gaussians(torch.stack([angle.cos(), angle.sin()], 1), 0.01)


POINTS = {"grid": grid, "ring": ring}


def recipe_for_points(name: str, arguments: Mapping[str, Any] = {}) -> Recipe:
    """A recipe as it is for images of 8 pixels, with networks for points in its networks' place.

    Loss, penalties, optimizers, learning rates and turns are the recipe's. What belongs to images is left
    out: augmentation, growing. A critic has spectral normalisation where the recipe's has it.
    """
    spec = catalog.recipe(name)
    recipe = spec(blank(spec.needs_labels), **{"batch": BATCH, **arguments})
    return Recipe(for_points(recipe.method), batch=BATCH, average=recipe.average)


def blank(labelled: bool) -> Images:
    """Images of 8 pixels without content."""
    pixels = np.zeros((8, 8, 8, 1), np.uint8)
    return Images(pixels, np.arange(8) % 2, ("a", "b")) if labelled else Images(pixels)


def for_points(method: Method) -> Method:
    if isinstance(method, Adversarial):
        spectrally = any(isinstance(part, SpectralNorm) for part in method.critic.modules())
        method.model = LatentModel(MLPGenerator())
        method.critic = MLPCritic(spectrally=spectrally)
        method.augment, method.grow, method.reals = nn.Identity(), None, None
        return method
    model: Any = method.model
    denoiser = type(model.denoiser)(MLPDenoiser(), sigma_data=0.5)
    method.model = DiffusionModel(denoiser, model.options)
    return method


def run(name: str, points: str, seed: int, images: int, arguments: Mapping[str, Any] = {}) -> dict[str, Any]:
    """What is counted after training on so many points."""
    torch.manual_seed(seed)
    mixture = POINTS[points]()
    data: Any = mixture
    training = Training(recipe_for_points(name, arguments), data, images, Settings(device="cpu", seed=seed))
    try:
        while not training.finished:
            training.step()
            if training.steps % 200 == 0:
                training.check_finite()
        training.check_finite()
    except Diverged as error:
        return {"ended": error.message}
    training.settle()
    with torch.inference_mode():
        drawn = training.average(Noise(range(N)))
    return {"ended": "finished", "losses": training.logs.means(), **mixture.counted(drawn)}
