"""Layers that keep magnitudes: inputs of unit size give outputs of unit size, throughout training
(EDM2, Karras et al., 2024, arXiv:2312.02696)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SILU = 1 / 0.596  # silu shrinks normal values to 0.596 (equation 81)


def unit(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x with a root mean square of 1 over these dimensions, or nearly so where it is tiny; x's dtype."""
    size = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    n = math.prod([x.shape[d] for d in dims])  # a list, for torch.compile
    return x / torch.add(1e-4, size, alpha=n**-0.5).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu that keeps the magnitude of normal values (equation 81)."""
    return F.silu(x) * SILU


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b, scaled to keep the magnitude of independent values (equation 88)."""
    wa, wb = mp_weights(t)
    return torch.add(wa * a, b, alpha=wb)


def mp_weights(t: float) -> tuple[float, float]:
    """What the two parts of a sum weigh: 1 - t and t over the root of the sum of their squares."""
    size = math.hypot(1 - t, t)
    return (1 - t) / size, t / size


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Channels of a, then of b; what follows hears them in the ratio 1 - t to t (equation 103)."""
    na, nb = a.shape[1], b.shape[1]
    wa, wb = (weight * math.sqrt(na + nb) for weight in mp_weights(t))
    return torch.cat([wa / math.sqrt(na) * a, wb / math.sqrt(nb) * b], 1)


class MPFourier(nn.Module):
    """A number as `width` cosines of random frequencies and phases, of unit magnitude (equation 75)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))

    def forward(self, value: Tensor) -> Tensor:
        """(B,) to (B, width), float32."""
        return (value.float()[:, None] * self.frequencies + self.phases).cos() * math.sqrt(2)


class MPLayer(nn.Module, ABC):
    """A linear map without bias that knows its weights by their direction alone (equation 47).

    The optimizer would let the weights grow, and so learn ever more slowly: call `force` after its steps.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.dims = tuple(range(1, len(shape)))
        self.force()

    def scaled(self, gain: Tensor | float) -> Tensor:
        """The weights at unit magnitude, times the gain over the root of the number of inputs."""
        return unit(self.weight, self.dims) * (gain / math.sqrt(self.weight[0].numel()))

    @torch.no_grad()
    def force(self) -> None:
        """Sets the weights themselves to unit magnitude (equation 66)."""
        self.weight.copy_(unit(self.weight, self.dims))

    @abstractmethod
    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x mapped, times the gain."""


class MPLinear(MPLayer):
    """(..., c_in) to (..., c_out)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_out, c_in)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x mapped, times the gain."""
        return F.linear(x, self.scaled(gain))


class MPConv(MPLayer):
    """(B, c_in, H, W) to (B, c_out, H, W) with an odd kernel."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__(c_out, c_in, kernel, kernel)
        self.padding = kernel // 2

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x convolved, times the gain."""
        return F.conv2d(x, self.scaled(gain), padding=self.padding)


class MPLabel(nn.Module):
    """A label to a vector of unit magnitude. No label is a vector of zeros.

    Classes are int64 (B,), `classes` for none; attributes float (B, K) of about unit size, not-a-number for
    none.
    """

    def __init__(self, width: int, *, classes: int = 0, attributes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.inputs = classes or (attributes + 1 if attributes else 0)  # one more says that there is a label
        self.linear = MPLinear(self.inputs, width) if self.inputs else None

    def forward(self, label: Tensor | None, device: torch.device) -> Tensor | None:
        """(B, width), (1, width) where there is no label, None where none can be given."""
        if self.linear is None:
            return None
        if label is None:
            return torch.zeros(1, self.linear.weight.shape[0], device=device)
        if self.classes:
            hot = (label[:, None] == torch.arange(self.classes, device=device)).float()
            return self.linear(hot * math.sqrt(self.classes))  # type: ignore[no-any-return]
        known = label.isnan().any(1, keepdim=True).logical_not()
        return self.linear(torch.cat([torch.where(known, label, 0.0), known.float()], 1))  # type: ignore[no-any-return]


def force_magnitudes(module: nn.Module) -> None:
    """Sets the weights of all magnitude-preserving layers within a module to unit magnitude."""
    for layer in module.modules():
        if isinstance(layer, MPLayer):
            layer.force()
