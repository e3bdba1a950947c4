"""Layers whose weights are scaled at run time, so that all of them learn at one rate; pixel norm; minibatch
standard deviation (progressive growing, Karras et al., 2017, arXiv:1710.10196, sections 3 and 4)."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.networks.shapes import pyramid


def fmaps(image_shape: tuple[int, int, int], base: int, largest: int) -> list[int]:
    """Channels from the smallest size up: base / side, at most `largest`; side: the shorter one in pixels."""
    doublings, h, w = pyramid(image_shape)
    return [max(1, min(base // (min(h, w) * 2**level), largest)) for level in range(doublings + 1)]


class EqualizedLinear(nn.Module):
    """(B, n_in) -> (B, n_out); weights are N(0, 1) and take the scale gain / sqrt(n_in) when they are used.

    lr_multiplier: weights and biases move so many times as fast as those of other layers.
    """

    def __init__(
        self, n_in: int, n_out: int, *, bias: float = 0.0, gain: float = 1.0, lr_multiplier: float = 1.0
    ) -> None:
        super().__init__()
        self.scale, self.lr_multiplier = gain * lr_multiplier / math.sqrt(n_in), lr_multiplier
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((n_out,), bias))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """x (B, n_in); gain: times the output."""
        return F.linear(x, self.weight * (self.scale * gain), self.bias * (self.lr_multiplier * gain))


class EqualizedConv2d(nn.Module):
    """A convolution of N(0, 1) weights that take the scale gain / sqrt(fan in) when they are used."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        *,
        bias: bool = True,
        gain: float = 1.0,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.stride = gain / math.sqrt(n_in * kernel**2), stride
        self.padding = kernel // 2 if padding is None else padding
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """x (B, n_in, H, W); gain: times the output."""
        weight = self.weight * (self.scale * gain)
        bias = self.bias if self.bias is None or gain == 1 else self.bias * gain
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class EqualizedLabel(nn.Module):
    """A label to a vector, as a linear layer of the one-hot class or of the attributes; the vector of "no
    label" is the mean of all.

    Classes are int64 (B,); attributes float (B, K) in the network's units, not-a-number for the mean.
    """

    def __init__(self, width: int, *, classes: int = 0, attributes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.linear = EqualizedLinear(classes or attributes, width)
        if not classes:  # else the normalised vector of one attribute would be its sign, that of the mean 0
            nn.init.normal_(self.linear.bias)

    def forward(self, label: Tensor | None, n: int) -> Tensor:
        """(n, width)."""
        linear = self.linear
        if label is None:
            mean = linear.weight.mean(1) * linear.scale if self.classes else 0
            return (linear.bias + mean).expand(n, -1)
        if self.classes:
            return F.embedding(label, linear.weight.T * linear.scale) + linear.bias
        return linear(label.nan_to_num())  # type: ignore[no-any-return]


class PixelNorm(nn.Module):
    """Each pixel's vector, or each latent's, to a mean square of 1 (equation 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...)."""
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class MinibatchStd(nn.Module):
    """Appends channels that say how much images of a group differ (section 3).

    Image i belongs to group i mod n, n = max(1, B // group), so that any batch can be divided: where n does
    not divide B, some groups have one image more. features: so many means over as many parts of the channels.
    """

    def __init__(self, group: int = 4, features: int = 1) -> None:
        super().__init__()
        if group < 1 or features < 1:
            raise WrongUse(
                f"a group of {group} images and {features} features are not possible: at least 1",
                "4 and 1 are usual: --group 4, say",
            )
        self.group, self.features = group, features
        self.at_once = group  # images that are to go through together: see diptych.training.shards

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C + features, H, W)."""
        b, _, h, w = x.shape
        n = max(1, b // self.group)
        rows = -(-b // n)
        y = F.pad(at_least_float32(x).flatten(1), (0, 0, 0, rows * n - b)).view(rows, n, -1)
        inside = (torch.arange(rows * n, device=x.device) < b).view(rows, n, 1)
        share = (inside / inside.sum(0)).to(y.dtype)
        variance = ((y - (y * share).sum(0)).square() * share).sum(0)
        means = (variance + 1e-8).sqrt().view(n, self.features, -1).mean(2)
        seen = means.repeat(rows, 1)[:b, :, None, None].expand(-1, -1, h, w)
        return torch.cat([x, seen.to(x.dtype)], 1)


def leaky(x: Tensor, clamp: float = 0.0) -> Tensor:
    """Leaky ReLU of slope 0.2; clamp: values beyond are cut off, 0: none.

    Its gain of sqrt(2) is given to the layer before it, which costs nothing: leaky(a x) = a leaky(x).
    """
    x = F.leaky_relu(x, 0.2)
    return x.clamp(-clamp, clamp) if clamp else x


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened; anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Turns autocast off where it is on: styles and their norms lose too much in 8 bits."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
