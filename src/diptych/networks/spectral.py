"""Spectral normalisation (Miyato et al., 2018, arXiv:1802.05957): a weight divided by its largest singular
value, which power iteration follows while the weight moves."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from diptych.networks.labels import LabelVector

L = TypeVar("L", bound=nn.Module)


class SpectralNorm(nn.Module):
    """weight / sigma, with sigma = u^T W v; each use in training moves u and v by one power iteration.

    The weight (out, ...) is taken as a matrix of `out` rows. In float32 under autocast too.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = as_matrix(weight).shape
        self.register_buffer("left", F.normalize(torch.randn(rows), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(columns), dim=0))
        self.improve(weight, 15)

    @torch.no_grad()
    def improve(self, weight: Tensor, steps: int) -> None:
        """So many steps towards the singular vectors of this weight (algorithm 1)."""
        matrix = as_matrix(weight)
        for _ in range(steps):
            self.left.copy_(F.normalize(matrix @ self.right, dim=0))
            self.right.copy_(F.normalize(self.left @ matrix, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight, of the same shape."""
        with torch.autocast(weight.device.type, enabled=False):
            if self.training:
                self.improve(weight, 1)
            # copies: the next use moves the vectors in place before this one is differentiated
            left, right = self.left.clone(), self.right.clone()
            return weight / (left @ (as_matrix(weight) @ right))


def as_matrix(weight: Tensor) -> Tensor:
    """(out, in) of a linear layer's or an embedding's, (out, h w in) of a convolution's weight."""
    # a view of a channels-last weight, where flatten(1) alone would copy it
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight


def spectral(layer: L, wanted: bool = True) -> L:
    """The layer with its weight normalised from now on; a LabelVector with that of its table or its map."""
    if isinstance(layer, LabelVector):
        for part in layer.children():
            spectral(part, wanted)
    elif wanted:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        register_parametrization(layer, "weight", SpectralNorm(weight.detach()), unsafe=True)
    return layer


def converge(network: nn.Module, steps: int = 15) -> None:
    """Brings the singular vectors to the weights as they are.

    Averaged weights need it: their vectors are those of the weights in training.
    """
    for norms in network.modules():
        if isinstance(norms, nn.utils.parametrize.ParametrizationList) and isinstance(norms[0], SpectralNorm):
            assert isinstance(norms.original, Tensor)
            norms[0].improve(norms.original, steps)
