"""Convolution that is differentiated twice as quickly as once.

torch's own second derivative of a convolution goes through the groups one by one, and takes convolutions with
kernels as large as images. Here the gradients of a convolution are convolutions with gradients of their own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]
Shape = tuple[Pair, Pair, int]  # stride, padding, groups


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What layer(x) gives, (B, C', H', W'); dilation and padding modes other than zeros are not for it."""
    return conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.groups)  # type: ignore[arg-type]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, for what is differentiated twice: critics with penalties of slopes.

    x (B, C, H, W), weight (C', C / groups, h, w). Compilers and exporters get torch's own.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type == "meta":
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    shape = pair(stride), pair(padding), groups
    return _Convolution.apply(x, weight, bias, shape)  # type: ignore[no-any-return, no-untyped-call]


def pair(value: int | Pair) -> Pair:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def wanted(ctx: Any, index: int) -> bool:
    """Whether the backward pass that runs asks for this input's gradient.

    `needs_input_grad` is also true for weights where only the slope at an image is asked for.
    """
    if not ctx.needs_input_grad[index]:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(ctx.next_functions[index][0]))
    except RuntimeError:  # it is an input of autograd.grad
        return True


def gradients(output: Tensor, x: Tensor, weight: Tensor, shape: Shape, mask: list[bool]) -> Any:
    """Of x and of the weight, those that the mask asks for."""
    stride, padding, groups = shape
    backward = torch.ops.aten.convolution_backward
    return backward(output, x, weight, None, stride, padding, (1, 1), False, (0, 0), groups, [*mask, False])


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
        stride, padding, groups = shape
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.shape = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return (
            _OfInput.apply(grad, weight, x.shape, ctx.shape) if wanted(ctx, 0) else None,  # type: ignore[no-untyped-call]
            _OfWeight.apply(grad, x, weight.shape, ctx.shape) if wanted(ctx, 1) else None,  # type: ignore[no-untyped-call]
            grad.sum((0, 2, 3)) if wanted(ctx, 2) else None,
            None,
        )


class _OfInput(torch.autograd.Function):
    """The gradient of x: linear in the output's gradient and in the weight."""

    @staticmethod
    def forward(grad: Tensor, weight: Tensor, size: torch.Size, shape: Shape) -> Tensor:
        x = grad.new_empty(()).expand(size)  # only its size is looked at
        return gradients(grad, x, weight, shape, [True, False])[0]  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, weight, _, ctx.shape = inputs
        ctx.save_for_backward(grad, weight)

    @staticmethod
    def backward(ctx: Any, twice: Tensor) -> Any:
        grad, weight = ctx.saved_tensors
        return (
            _Convolution.apply(twice, weight, None, ctx.shape) if wanted(ctx, 0) else None,  # type: ignore[no-untyped-call]
            _OfWeight.apply(grad, twice, weight.shape, ctx.shape) if wanted(ctx, 1) else None,  # type: ignore[no-untyped-call]
            None,
            None,
        )


class _OfWeight(torch.autograd.Function):
    """The gradient of the weight: linear in the output's gradient and in x."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, size: torch.Size, shape: Shape) -> Tensor:
        weight = x.new_empty(()).expand(size)
        return gradients(grad, x, weight, shape, [False, True])[1]  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, x, _, ctx.shape = inputs
        ctx.save_for_backward(grad, x)

    @staticmethod
    def backward(ctx: Any, twice: Tensor) -> Any:
        grad, x = ctx.saved_tensors
        return (
            _Convolution.apply(x, twice, None, ctx.shape) if wanted(ctx, 0) else None,  # type: ignore[no-untyped-call]
            _OfInput.apply(grad, twice, x.shape, ctx.shape) if wanted(ctx, 1) else None,  # type: ignore[no-untyped-call]
            None,
            None,
        )
