"""A gradient that a model takes while it samples, written out as operations that a graph can hold."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from diptych.errors import RunError

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default)


def written_out(module: nn.Module, small: tuple[Tensor, ...], large: tuple[Tensor, ...]) -> fx.GraphModule:
    """A module that differentiates in its forward pass, as the operations that this comes to.

    small and large: its arguments for batches of two sizes, which show what moves with the first argument's
    first dimension. Raises RunError where the operations change with the batch.
    """
    found, other = (operations(module, given) for given in (small, large))
    nodes, others = list(found.graph.nodes), list(other.graph.nodes)
    if [node.target for node in nodes] != [node.target for node in others]:
        raise RunError("a gradient whose operations change with the batch cannot be exported")
    batch, was, now = next(node for node in nodes if node.op == "placeholder"), len(small[0]), len(large[0])
    with found.graph.inserting_after([node for node in nodes if node.op == "placeholder"][-1]):
        size = found.graph.call_function(aten.sym_size.int, (batch, 0))

    def moving(a: Any, b: Any, node: fx.Node) -> Any:
        """An argument with the batch's size in the place of a number that follows it."""
        if isinstance(a, (list, tuple)):
            return type(a)(moving(x, y, node) for x, y in zip(a, b, strict=True))
        if isinstance(a, fx.Node) or a == b:
            return a
        if not (isinstance(a, int) and a % was == 0 and a // was * now == b):
            raise RunError(f"{node.target} of a gradient follows the batch in a way that cannot be exported")
        with found.graph.inserting_before(node):
            return found.graph.call_function(operator.mul, (size, a // was))

    for node, twin in zip(nodes, others, strict=True):
        node.args = moving(node.args, twin.args, node)
        node.kwargs = {key: moving(node.kwargs[key], twin.kwargs[key], node) for key in node.kwargs}
    found.graph.eliminate_dead_code()
    found.recompile()
    return found


def operations(module: nn.Module, given: tuple[Tensor, ...]) -> fx.GraphModule:
    """What the module does to these arguments, operation by operation, the backward pass decomposed."""
    known = core_aten_decompositions().items()  # type: ignore[no-untyped-call]
    table = {**{op: how for op, how in known if "backward" in str(op)}, **BACKWARD}
    with sdpa_kernel(SDPBackend.MATH):  # of fused attention there is no backward pass to write out
        found: fx.GraphModule = make_fx(lambda *arguments: module(*arguments), table)(*given)
    for node in found.graph.nodes:
        if node.target in VIEWS:  # of what is contiguous here, and need not be in the whole graph
            node.target = aten.reshape.default
    return found


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """With respect to x: the convolution transposed, whose result is padded to x's size."""
    if mask[1] or mask[2]:
        raise RunError("the gradient of a convolution's weights cannot be exported")
    if transposed:
        back = aten.convolution(grad, weight, None, stride, padding, dilation, False, [0, 0], groups)
        return back, None, None
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    left = [(n + 2 * pad - gap * (taps - 1) - 1) % step for n, taps, step, pad, gap in sizes]
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, left, groups), None, None


def avg_pool2d_backward(
    grad: Tensor, x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], *rest: Any
) -> Tensor:
    """Each mean's gradient, shared among its pixels; of windows that lie side by side."""
    n, c, h, w = grad.shape
    covered = (h * kernel[0], w * kernel[1]) == tuple(x.shape[2:])
    if not covered or any(padding) or list(stride or kernel) != list(kernel):
        raise RunError("the gradient of means over windows that do not lie side by side cannot be exported")
    spread = (grad / (kernel[0] * kernel[1]))[:, :, :, None, :, None]
    return spread.expand(n, c, h, kernel[0], w, kernel[1]).reshape(n, c, h * kernel[0], w * kernel[1])


# what PyTorch's own decompositions leave
BACKWARD: Mapping[Any, Any] = {
    aten.convolution_backward.default: convolution_backward,
    aten.avg_pool2d_backward.default: avg_pool2d_backward,
}
