"""How many FLOPs operations take, by torch's formulas where they are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count


def attention(*args: Any, **kwargs: Any) -> float:
    """FLOPs of attention: its first arguments are query, key and value."""
    return float(sdpa_flop_count(*(x.shape for x in args[:3])))  # type: ignore[no-untyped-call]


def attention_backward(*args: Any, **kwargs: Any) -> float:
    """FLOPs of its gradient: the first arguments are that of the output, query, key and value."""
    return float(sdpa_backward_flop_count(*(x.shape for x in args[:4])))  # type: ignore[no-untyped-call]


def convolution_backward(*args: Any, **kwargs: Any) -> float:
    """FLOPs of a convolution's gradients: of each that is asked for, those of the convolution itself.

    torch's own formula takes the weight's gradient of a grouped convolution for that of a full one.
    """
    grad, x, weight, transposed, (of_input, of_weight, _) = *args[:3], args[7], args[10]
    per_value = 2 * weight[0].numel()
    return float((x if transposed else grad).numel() * per_value * (of_input + of_weight))


FORMULAS: dict[Any, Callable[..., float]] = {
    **flop_registry,
    torch.ops.aten.convolution_backward: convolution_backward,
    # torch has formulas of the GPU's kernels only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums torch's own formulas over all operations.

    (FlopCounterMode's module hooks break double backward.)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in FORMULAS and func is not torch.ops.prim.device.default:
            with self:  # in inference mode operations that are made of others come whole
                made_up = func.decompose(*args, **(kwargs or {}))
                if made_up is not NotImplemented:
                    return made_up
        out = func(*args, **(kwargs or {}))
        if (formula := FORMULAS.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
