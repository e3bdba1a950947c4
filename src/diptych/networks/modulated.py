"""Modulated convolution and the layers of a style generator built on it (StyleGAN2, Karras et al., 2020,
arXiv:1912.04958, section 2.2).

Activations are scaled in place of weights, so that a batch is one convolution: a grouped one with a group for
each image is slower, and exports with one batch size only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.networks.equalized import EqualizedLinear, at_least_float32, full_precision, leaky
from diptych.networks.filters import upfirdn2d

FILTER = (1.0, 3.0, 3.0, 1.0)  # what StyleGAN2 resamples with


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    demodulate: bool = True,
    gain: float = 1.0,
    taps: Tensor | None = None,
) -> Tensor:
    """Convolution of each image with weights of its own, scale_i w_oik, of unit norm if demodulated.

    x (B, I, H, W), weight (O, I, k, k), scale (B, I). gain: times the output. taps: (T,), summing to 1; the
    output has twice the size and is filtered with them.
    """
    x = x * scale.to(x.dtype)[:, :, None, None]
    kernel = weight.shape[2]
    if taps is None:
        y = F.conv2d(x, weight.to(x.dtype), padding=kernel // 2)
    else:
        y = F.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2)
        before = kernel // 2 + (taps.shape[0] + 1) // 2 - (kernel - 1)
        after = kernel // 2 + (taps.shape[0] - 2) // 2 - (kernel - 2)
        y = upfirdn2d(y, taps, padding=(before, after, before, after), gain=4.0)
    if not demodulate:
        return y if gain == 1 else y * gain
    with full_precision(x):
        square = at_least_float32(weight).square().sum((2, 3))
        norm = (at_least_float32(scale).square() @ square.T + 1e-8).rsqrt() * gain  # equation 3
    return y * norm.to(y.dtype)[:, :, None, None]


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU.

    up: doubles the size. size: height and width of the output, for the noise that comes with the layer.
    clamp: see `leaky`.
    """

    noise: Tensor
    taps: Tensor | None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: tuple[int, int],
        *,
        style: int,
        up: bool = False,
        clamp: float = 0.0,
    ) -> None:
        super().__init__()
        self.clamp, self.noise_shape = clamp, (1, *size)
        self.affine = EqualizedLinear(style, n_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, *size))
        self.register_buffer("taps", resampling() if up else None, persistent=False)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None, gain: float = 1.0) -> Tensor:
        """x (B, n_in, h, w), style (B, D), noise (B, 1, H, W) or (1, H, W); gain: times the output."""
        total = math.sqrt(2) * gain
        with full_precision(x):
            scale = self.affine(at_least_float32(style))
        x = modulated_conv2d(x, self.weight, scale, gain=total, taps=self.taps)
        if noise is not None:
            x = x + (noise * (self.strength * total)).to(x.dtype)
        x = x + (self.bias * total).to(x.dtype)[:, None, None]
        return leaky(x, self.clamp * gain)


class ToImage(nn.Module):
    """A modulated 1x1 convolution to colours, not demodulated."""

    def __init__(self, n_in: int, colours: int, *, style: int, clamp: float = 0.0) -> None:
        super().__init__()
        self.clamp, self.scale = clamp, 1 / math.sqrt(n_in)
        self.affine = EqualizedLinear(style, n_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(colours, n_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(colours))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, n_in, H, W), style (B, D) -> (B, colours, H, W), float32 or better."""
        with full_precision(x):
            scale = self.affine(at_least_float32(style), gain=self.scale)
        y = modulated_conv2d(x, self.weight, scale, demodulate=False)
        y = at_least_float32(y) + self.bias[:, None, None]
        return y.clamp(-self.clamp, self.clamp) if self.clamp else y


def resampling() -> Tensor:
    """The taps of StyleGAN2's low-pass filter, summing to 1."""
    taps = torch.tensor(FILTER)
    return taps / taps.sum()
