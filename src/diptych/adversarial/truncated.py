"""The normal distribution cut off at a threshold, as a map from normal draws (the truncation trick of BigGAN,
Brock et al., 2019, arXiv:1809.11096, section 3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST = 4.0  # thresholds above it cut off less than float32 resolves

# Giles, 2010, "Approximating the erfinv function", single precision; highest power first
CENTRE = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
TAIL = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)


def truncated_normal(z: Tensor, threshold: float) -> Tensor:
    """Normal draws as draws of the normal distribution within [-threshold, threshold], in the same order.

    Quantile to quantile, Phi_t^-1(Phi(z)): where BigGAN draws values outside again, each seed keeps its own.
    """
    return math.sqrt(2) * inverse_erf(math.erf(threshold / math.sqrt(2)) * torch.erf(z / math.sqrt(2)))


def inverse_erf(y: Tensor) -> Tensor:
    """erf^-1 on (-1, 1) from plain operations, as ONNX has none; off by at most 1e-6 of its value."""
    w = -torch.log((1 - y) * (1 + y))
    return y * torch.where(w < 5, polynomial(w - 2.5, CENTRE), polynomial(w.clamp(min=5).sqrt() - 3, TAIL))


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Horner's scheme."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
