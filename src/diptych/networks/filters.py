"""Filters that resample images: zeros inserted, taps convolved with, samples left out; leaky ReLU between
two of them (StyleGAN2, Karras et al., 2020, arXiv:1912.04958; StyleGAN3, 2021, arXiv:2106.12423).

No inserted zero is multiplied and no sample computed that is left out: strided convolutions do it, one filter
for all channels, which are fastest by far on channels-last images. All can be differentiated twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import WrongUse

Padding = int | Sequence[int]  # of the zero-inserted image: (left, right, top, bottom); negative ones crop

SEPARATE = 8  # taps from which two passes over the image cost less than one with their outer product


def upfirdn2d(
    x: Tensor, taps: Tensor, up: int = 1, down: int = 1, padding: Padding = 0, gain: float = 1.0
) -> Tensor:
    """Insert up - 1 zeros after each pixel, pad, convolve with the taps, keep each down-th pixel, times gain.

    x (B, C, H, W); taps (T,) for both axes, or (T_y, T_x). n pixels become (n up + padding - T) // down + 1.
    Raises WrongUse where the taps do not fit in.
    """
    left, right, top, bottom = four(padding)
    rows = Axis(x.shape[2], taps.shape[0], up, down, top, bottom)
    columns = Axis(x.shape[3], taps.shape[-1], up, down, left, right)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    taps = taps.to(x.dtype)
    if taps.ndim == 2:
        return filtered(x, taps * gain, rows, columns)
    if rows.taps < SEPARATE:
        return filtered(x, taps.outer(taps * gain), rows, columns)
    x = filtered(x, taps[None, :], Axis(rows.n), columns)
    return filtered(x, taps[:, None] * gain, rows, Axis(columns.size))


def filter2d(x: Tensor, taps: Tensor, padding: Padding = 0, gain: float = 1.0) -> Tensor:
    """Convolution with the taps at the same size; outside of the image there are zeros.

    padding: more of them than the taps need, on each side.
    """
    return upfirdn2d(x, taps, padding=around(taps, 0, -1, padding), gain=gain)


def upsample2d(x: Tensor, taps: Tensor, factor: int = 2, padding: Padding = 0, gain: float = 1.0) -> Tensor:
    """(B, C, H, W) to (B, C, factor H, factor W); taps that sum to 1 keep the mean."""
    padding = around(taps, factor - 1, -factor, padding)
    return upfirdn2d(x, taps, up=factor, padding=padding, gain=gain * factor**2)


def downsample2d(x: Tensor, taps: Tensor, factor: int = 2, padding: Padding = 0, gain: float = 1.0) -> Tensor:
    """(B, C, H, W) to (B, C, H / factor, W / factor); taps that sum to 1 keep the mean."""
    return upfirdn2d(x, taps, down=factor, padding=around(taps, 1 - factor, -factor, padding), gain=gain)


def filtered_lrelu(
    x: Tensor,
    up_taps: Tensor | None = None,
    down_taps: Tensor | None = None,
    bias: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
) -> Tensor:
    """Add the bias (C,), upsample, leaky ReLU times gain, clamp to [-clamp, clamp], downsample.

    x (B, C, H, W); taps as in `upfirdn2d`, None for the identity; 0 <= slope <= 1 and gain > 0. The corners
    that the non-linearity makes lie above the band limit of the second filter (StyleGAN3, section 3.2).
    """
    if bias is not None:
        x = x + bias.to(x.dtype)[:, None, None]
    # gain (a max(x, slope x)) = max(gain a x, slope gain a x): the taps can take it
    x = resampled(x, up_taps, up, 1, padding, gain * up**2)
    if clamp is not None:  # before the non-linearity, where its bounds are wider on one side
        low = -clamp / slope if slope else -math.inf
        # nobody else has what was filtered just now
        x = x.clamp(low, clamp) if up_taps is None else x.clamp_(low, clamp)
    if slope != 1:
        x = F.leaky_relu(x, slope) if up_taps is None else F.leaky_relu_(x, slope)
    return resampled(x, down_taps, 1, down, 0, 1.0)


def resampled(x: Tensor, taps: Tensor | None, up: int, down: int, padding: Padding, gain: float) -> Tensor:
    """`upfirdn2d`, where no taps stand for the identity."""
    if taps is not None or up > 1 or down > 1:
        return upfirdn2d(x, x.new_ones(1) if taps is None else taps, up, down, padding, gain)
    edges = four(padding)
    x = F.pad(x, edges) if any(edges) else x
    return x * gain if gain != 1 else x


class Axis:
    """What becomes of one axis: n pixels to `size`."""

    def __init__(
        self, n: int, taps: int = 1, up: int = 1, down: int = 1, before: int = 0, after: int = 0
    ) -> None:
        self.n, self.taps, self.up, self.down = n, taps, up, down
        self.before, self.after = before, after
        padded = n * up + before + after
        if padded < taps:
            raise WrongUse(f"{n} pixels become {padded}, fewer than the {taps} taps of the filter")
        self.size = (padded - taps) // down + 1

    def adjoint(self) -> Axis:
        """What a gradient goes through, with the taps turned around: `size` samples to n."""
        before = self.taps - 1 - self.before
        after = (self.n - 1) * self.up + self.taps - self.size * self.down - before
        return Axis(self.size, self.taps, self.down, self.up, before, after)

    def transposed(self) -> tuple[int, int, int, int]:
        """Padding and output padding of a transposed convolution, and what is to be added on both sides.

        It makes the full convolution, of (n - 1) up + T samples, without `padding` on both of its sides.
        """
        cut_before, cut_after = self.taps - 1 - self.before, self.taps - self.up - self.after
        if 0 < cut_before - cut_after < self.up and cut_after >= 0:
            return cut_before, cut_before - cut_after, 0, 0
        padding = max(0, min(cut_before, cut_after, ((self.n - 1) * self.up + self.taps - 1) // 2))
        return padding, 0, padding - cut_before, padding - cut_after


def filtered(x: Tensor, taps: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """`convolved`, with derivatives of all orders that are filters again.

    torch's own second derivative of a convolution asks for that of the taps too, one channel after another.
    """
    if torch.is_grad_enabled() and not taps.requires_grad and not torch.compiler.is_compiling():
        return _Filtered.apply(x, taps, rows, columns)  # type: ignore[no-any-return, no-untyped-call]
    return convolved(x, taps, rows, columns)


class _Filtered(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, taps: Tensor, rows: Axis, columns: Axis) -> Tensor:
        return convolved(x, taps, rows, columns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, taps, ctx.rows, ctx.columns = inputs
        ctx.save_for_backward(taps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (taps,) = ctx.saved_tensors
        back = _Filtered.apply(grad, taps.flip(0, 1), ctx.rows.adjoint(), ctx.columns.adjoint())  # type: ignore[no-untyped-call]
        return back, None, None, None


def convolved(x: Tensor, taps: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """(B, C, H, W) with the taps (T_y, T_x) for all channels."""
    c = x.shape[1]
    if rows.up == columns.up == 1:
        weight, stride = taps.flip(0, 1).expand(c, 1, -1, -1), (rows.down, columns.down)
        edges = (rows.before, columns.before)
        if edges != (rows.after, columns.after) or min(edges) < 0:
            x, edges = F.pad(x, (columns.before, columns.after, rows.before, rows.after)), (0, 0)
        return F.conv2d(x, weight, None, stride, edges, 1, c)
    weight, stride = taps.expand(c, 1, -1, -1), (rows.up, columns.up)
    (top, more_y, above, below), (left, more_x, before, after) = rows.transposed(), columns.transposed()
    x = F.conv_transpose2d(x, weight, None, stride, (top, left), (more_y, more_x), c)
    x = F.pad(x, (before, after, above, below)) if before or after or above or below else x
    return x[:, :, :: rows.down, :: columns.down] if rows.down > 1 or columns.down > 1 else x


def around(taps: Tensor, before: int, after: int, padding: Padding) -> tuple[int, int, int, int]:
    """The padding that centres the taps, (T + before) // 2 and (T + after) // 2, and what is asked for."""
    left, right, top, bottom = four(padding)
    tall, wide = taps.shape[0], taps.shape[-1]
    return (
        left + (wide + before) // 2,
        right + (wide + after) // 2,
        top + (tall + before) // 2,
        bottom + (tall + after) // 2,
    )


def four(padding: Padding) -> tuple[int, int, int, int]:
    """(left, right, top, bottom)."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    left, right, top, bottom = padding
    return left, right, top, bottom
