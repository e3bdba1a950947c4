"""What is added to a generator's loss: path length, orthogonality."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from diptych.adversarial.penalties import checked_weight
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Loss
from diptych.networks.equalized import at_least_float32, full_precision
from diptych.networks.labels import LabelVector

WEIGHT = "a regulariser's weight"


class Regulariser(nn.Module, ABC):
    """A term of the generator's loss; its state, where it has one, is saved with the method.

    every: 1: together with the loss; k: a phase of its own at each k-th of the generator's steps, k times as
    heavy.
    """

    name: str
    every: int = 1
    twice: bool = False  # whether it differentiates the generator twice, which a compiled one cannot be

    @abstractmethod
    def forward(self, generator: nn.Module, batch: Batch, clock: Clock) -> Loss:
        """The weighted term, a scalar, and its unweighted size under its name."""


class PathLength(Regulariser):
    """A step of one length in style space moves images by one length (StyleGAN2, Karras et al., 2020,
    arXiv:1912.04958, equation 4).

    The generator has `draw(z, label) -> (styles (B, L, D), noise)`, what a training pass renders, and
    `synthesis(styles, noise)`: as in its code, styles are mixed and noise inputs random where they are in the
    generator's own step. shrink: the term is computed on that fraction of the batch.
    """

    name = "path_length"
    twice = True
    starts_anew = True  # lengths of other images say nothing of these
    mean: Tensor

    def __init__(self, weight: float = 2.0, *, decay: float = 0.01, shrink: int = 2, every: int = 4) -> None:
        super().__init__()
        if shrink < 1:
            raise WrongUse(f"shrink is at least 1, not {shrink}", "1 is the whole batch, 2 half of it")
        if not 0 <= decay <= 1:
            raise WrongUse(f"decay is between 0 and 1, not {decay}", "0.01, say, of what is taken anew")
        self.weight = checked_weight(weight, WEIGHT)
        self.decay, self.shrink, self.every = decay, shrink, every
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, generator: nn.Module, batch: Batch, clock: Clock) -> Loss:
        """weight (||J^T y|| - a)^2, with a the running mean of the lengths."""
        n = max(1, batch.image.shape[0] // self.shrink)
        label = batch.condition.label
        z = torch.randn(n, generator.latent, device=batch.image.device)  # type: ignore[call-overload]
        styles, noise = generator.draw(z, None if label is None else label[:n])  # type: ignore[operator]
        image = generator.synthesis(styles, noise)  # type: ignore[operator]
        y = torch.randn_like(image) / math.sqrt(image.shape[2] * image.shape[3])
        (slope,) = torch.autograd.grad((image * y).sum(), styles, create_graph=True)
        length = (slope.square().sum(2).mean(1) + 1e-12).sqrt()
        with torch.no_grad():
            self.mean.lerp_(length.detach().mean().float(), self.decay)
        size = (length - self.mean.clone()).square().mean()
        return self.weight * size, {self.name: size.detach(), "path": length.detach().mean()}


class Orthogonal(Regulariser):
    """weight ||W W^T o (1 - I)||^2 over the generator's matrices (BigGAN, Brock et al., 2019,
    arXiv:1809.11096, equation 3); embeddings of labels are left alone."""

    name = "orthogonal"

    def __init__(self, weight: float = 1e-4, every: int = 1) -> None:
        super().__init__()
        self.weight, self.every = checked_weight(weight, WEIGHT), every

    def forward(self, generator: nn.Module, batch: Batch, clock: Clock) -> Loss:
        """Looks at weights only: each row is one filter."""
        labels = [m for m in generator.modules() if isinstance(m, LabelVector)]
        told = {part for label in labels for part in label.modules()}
        layers = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in told]
        size = torch.stack([overlap(learned(layer).flatten(1)) for layer in layers]).sum()
        return self.weight * size, {self.name: size.detach()}


def learned(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weight that is learned, where the layer's own is computed from it.

    Of spectrally normalised weights the term would shrink all singular values but the largest.
    """
    return layer.parametrizations.weight.original if is_parametrized(layer, "weight") else layer.weight  # type: ignore


def overlap(matrix: Tensor) -> Tensor:
    """Sum of the squared inner products of different rows: (out, in) -> ()."""
    # W W^T and W^T W have the same sum of squares; of a tall matrix the latter is far smaller
    with full_precision(matrix):  # a difference of nearly equal sums: bfloat16 would change its sign
        matrix = at_least_float32(matrix)
        products = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        return products.square().sum() - matrix.square().sum(1).square().sum()
