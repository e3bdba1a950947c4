"""The usual form of a generator's operations: zeros inserted and multiplied, weights modulated, a group of
the convolution for each image. What ours must equal, and what benchmarks/generators.py times them against."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.networks.filters import four


def upfirdn2d(
    x: Tensor, taps: Tensor, up: int = 1, down: int = 1, padding: Any = 0, gain: float = 1.0
) -> Tensor:
    """y[n] = gain sum_k h[k] u[n down + T - 1 - k], u being x with zeros inserted, padded or cropped."""
    b, c, h, w = x.shape
    left, right, top, bottom = four(padding)
    if up > 1:
        zeros = x.new_zeros(b, c, h * up, w * up)
        zeros[:, :, ::up, ::up] = x
        x = zeros
    x = F.pad(x, (left, right, top, bottom))
    kernels = [taps] if taps.ndim == 2 else [taps[None, :], taps[:, None]]
    for kernel in kernels:
        kernel = (kernel * gain ** (1 / len(kernels))).to(x.dtype).flip(0, 1)
        x = F.conv2d(x, kernel.repeat(c, 1, 1, 1), groups=c)
    return x[:, :, ::down, ::down]


def grouped_conv2d(x: Tensor, weight: Tensor, **settings: Any) -> Tensor:
    """Each image (B, I, H, W) with its own weight (B, O, I, k, k)."""
    b, i, h, w = x.shape
    y = F.conv2d(x.reshape(1, b * i, h, w), weight.flatten(0, 1), groups=b, **settings)
    return y.view(b, -1, *y.shape[2:])


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    demodulate: bool = True,
    gain: float = 1.0,
    taps: Tensor | None = None,
) -> Tensor:
    """StyleGAN2, equations 1 and 3; upsampling is a transposed convolution and a filter."""
    own = weight[None] * scale[:, None, :, None, None]
    if demodulate:
        own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    own = own * gain
    kernel = weight.shape[2]
    if taps is None:
        return grouped_conv2d(x, own, padding=kernel // 2)
    b, i, h, w = x.shape
    turned = own.transpose(1, 2).flatten(0, 1)
    y = F.conv_transpose2d(x.reshape(1, b * i, h, w), turned, stride=2, groups=b)
    y = y.view(b, -1, *y.shape[2:])
    before, after = kernel // 2 + (taps.shape[0] + 1) // 2, kernel // 2 + (taps.shape[0] - 2) // 2
    before, after = before - (kernel - 1), after - (kernel - 2)
    return upfirdn2d(y, taps, padding=(before, after, before, after), gain=4.0)


def alias_free_layer(layer: Any, x: Tensor, style: Tensor) -> Tensor:
    """StyleGAN3's layer, section 3.2 and figure 4b: all of it in the order in which the paper says it."""
    weight, scale = layer.weight, layer.affine(style)
    if layer.image:
        own = weight[None] * scale[:, None, :, None, None] / math.sqrt(weight[0].numel())
    else:
        weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        own = weight[None] * scale[:, None, :, None, None] / scale.square().mean().sqrt()
        own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    y = grouped_conv2d(x, own / layer.magnitude.sqrt(), padding=layer.kernel - 1)
    y = y + layer.bias[:, None, None]
    if layer.up_taps is not None:
        y = upfirdn2d(y, layer.up_taps, up=layer.up, padding=layer.padding, gain=layer.up**2)
    if not layer.image:
        y = F.leaky_relu(y, 0.2) * math.sqrt(2)
    y = y.clamp(-layer.clamp, layer.clamp)
    return y if layer.down_taps is None else upfirdn2d(y, layer.down_taps, down=layer.down)


def bilinear(x: Tensor) -> Tensor:
    """Twice the size by zero insertion and the filter (1, 3, 3, 1) / 8 on both axes."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device) / 8
    return upfirdn2d(x, taps, up=2, padding=(2, 1, 2, 1), gain=4.0)


def bottleneck(block: Any, x: Tensor) -> Tensor:
    """R3GAN's block, bias and non-linearity after each convolution."""
    h = x.contiguous()
    for layer in (block.enter, block.spatial):
        h = F.conv2d(h, layer.weight, None, layer.stride, layer.padding, 1, layer.groups)
        h = F.leaky_relu(h + layer.bias[:, None, None], 0.2)
    return x + F.conv2d(h, block.leave.weight)


@contextmanager
def usual_form() -> Iterator[None]:
    """While it lasts, our networks compute with the operations above."""
    networks = "diptych.networks."
    with (
        patch(networks + "filters.upfirdn2d", upfirdn2d),
        patch(networks + "modulated.upfirdn2d", upfirdn2d),
        patch(networks + "modulated.modulated_conv2d", modulated_conv2d),
        patch(networks + "stylegan3.AliasFreeLayer.forward", alias_free_layer),
        patch(networks + "r3gan.bilinear", bilinear),
        patch(networks + "r3gan.Block.forward", bottleneck),
    ):
        yield
