"""Gradients written out as operations, beside autograd's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import RunError
from diptych.exporter.gradients import written_out


class Slope(nn.Module):
    """The gradient of the sum of what a function makes of x."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        """As x."""
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_(True)
            return torch.autograd.grad(self.of(x).sum(), x)[0]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


PLAIN, GROUPED, TRANSPOSED, GAIN = normal(5, 4, 3, 3), normal(6, 2, 3, 3), normal(4, 3, 4, 4), normal(4)


def attended(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)[:, None]
    return F.scaled_dot_product_attention(tokens, tokens, tokens) ** 2


DIFFERENTIABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "a stride that leaves a pixel out": lambda x: F.conv2d(x, PLAIN, stride=2, padding=1) ** 2,
    "dilated, in groups": lambda x: F.conv2d(x, GROUPED, dilation=2, groups=2).sin(),
    "transposed": lambda x: F.conv_transpose2d(x, TRANSPOSED, stride=2, padding=1) ** 2,
    "pooling": lambda x: F.avg_pool2d(x, (2, 3)) ** 3,
    "a norm": lambda x: F.silu(F.group_norm(x, 2, GAIN, GAIN)),
    "attention": attended,
    "a choice": lambda x: x.flatten(1).log_softmax(1)[:, 2:3],
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_is_the_gradient_at_any_batch_size(name: str) -> None:
    slope = Slope(DIFFERENTIABLE[name])
    made = written_out(slope, (torch.randn(2, 4, 8, 9),), (torch.randn(3, 4, 8, 9),))
    for n in (1, 2, 5):
        x = torch.randn(n, 4, 8, 9)
        torch.testing.assert_close(made(x), slope(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (lambda x: F.avg_pool2d(x, 3, stride=1), "side by side"),
        (lambda x: F.avg_pool2d(x, 5), "side by side"),
        (lambda x: x / x.shape[0] ** 2, "follows the batch"),
        (lambda x: x.tanh() if len(x) > 2 else x.sin(), "change with the batch"),
    ],
)
def test_what_cannot_be_written_out_is_said(of: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(RunError, match=said):
        written_out(Slope(of), (torch.randn(2, 4, 8, 9),), (torch.randn(3, 4, 8, 9),))
