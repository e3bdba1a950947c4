"""Inception-v3 (Szegedy et al., 2016, arXiv:1512.00567) as in TensorFlow's graph of 2015-12-05 that FID uses.

It differs from the paper's and from torchvision's: 1,008 classes, averages that leave the padding out, and a
maximum where the last block should average. Here batch norms are folded into the convolutions, and 1x1
convolutions of the same input are one; an average and a 1x1 convolution may swap, so the average comes last,
over a quarter of the channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d

EPSILON = 1e-3  # of the batch norms
SIZE = 299
SPATIAL = 7  # channels of the 17x17 map that sFID looks at
CLASSES = 1008
Shape = tuple[int, int, int, int]  # of a kernel: (outputs, inputs, height, width)
Weights = Mapping[str, Tensor]


def kernels() -> dict[str, Shape]:
    """The shape of every convolution's kernel, by the name that it has in the known weights file."""
    known: dict[str, Shape] = {
        "Conv2d_1a_3x3": (32, 3, 3, 3),
        "Conv2d_2a_3x3": (32, 32, 3, 3),
        "Conv2d_2b_3x3": (64, 32, 3, 3),
        "Conv2d_3b_1x1": (80, 64, 1, 1),
        "Conv2d_4a_3x3": (192, 80, 3, 3),
    }
    for block, inputs, averaged in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        known |= {f"Mixed_{block}.{name}": shape for name, shape in _kernels_35(inputs, averaged).items()}
    known |= {
        "Mixed_6a.branch3x3": (384, 288, 3, 3),
        "Mixed_6a.branch3x3dbl_1": (64, 288, 1, 1),
        "Mixed_6a.branch3x3dbl_2": (96, 64, 3, 3),
        "Mixed_6a.branch3x3dbl_3": (96, 96, 3, 3),
    }
    for block, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        known |= {f"Mixed_{block}.{name}": shape for name, shape in _kernels_17(width).items()}
    known |= {
        "Mixed_7a.branch3x3_1": (192, 768, 1, 1),
        "Mixed_7a.branch3x3_2": (320, 192, 3, 3),
        "Mixed_7a.branch7x7x3_1": (192, 768, 1, 1),
        "Mixed_7a.branch7x7x3_2": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_3": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_4": (192, 192, 3, 3),
    }
    for block, inputs in (("7b", 1280), ("7c", 2048)):
        known |= {f"Mixed_{block}.{name}": shape for name, shape in _kernels_8(inputs).items()}
    return known


def _kernels_35(inputs: int, averaged: int) -> dict[str, Shape]:
    return {
        "branch1x1": (64, inputs, 1, 1),
        "branch5x5_1": (48, inputs, 1, 1),
        "branch5x5_2": (64, 48, 5, 5),
        "branch3x3dbl_1": (64, inputs, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (averaged, inputs, 1, 1),
    }


def _kernels_17(width: int) -> dict[str, Shape]:
    return {
        "branch1x1": (192, 768, 1, 1),
        "branch7x7_1": (width, 768, 1, 1),
        "branch7x7_2": (width, width, 1, 7),
        "branch7x7_3": (192, width, 7, 1),
        "branch7x7dbl_1": (width, 768, 1, 1),
        "branch7x7dbl_2": (width, width, 7, 1),
        "branch7x7dbl_3": (width, width, 1, 7),
        "branch7x7dbl_4": (width, width, 7, 1),
        "branch7x7dbl_5": (192, width, 1, 7),
        "branch_pool": (192, 768, 1, 1),
    }


def _kernels_8(inputs: int) -> dict[str, Shape]:
    return {
        "branch1x1": (320, inputs, 1, 1),
        "branch3x3_1": (384, inputs, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (448, inputs, 1, 1),
        "branch3x3dbl_2": (384, 448, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (192, inputs, 1, 1),
    }


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that is read from a weights file."""
    known: dict[str, tuple[int, ...]] = {"fc.weight": (CLASSES, 2048)}
    for name, shape in kernels().items():
        known[f"{name}.conv.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            known[f"{name}.bn.{part}"] = shape[:1]
    return known


def random_weights(seed: int) -> dict[str, Tensor]:
    """Weights that keep the size of activations, the same bits on every machine: to try the network without
    the known file.
    """
    stream = np.random.PCG64(seed)

    def uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
        # from the raw stream, which NumPy never changes
        raw = stream.random_raw(int(np.prod(shape))) >> np.uint64(11)
        values = low + (high - low) * (raw.astype(np.float64) * 2.0**-53)
        return torch.from_numpy(values.astype(np.float32).reshape(shape))

    made: dict[str, Tensor] = {}
    for name, shape in shapes().items():
        if len(shape) > 1:
            limit = (6 / np.prod(shape[1:])) ** 0.5  # He et al., 2015, arXiv:1502.01852
            made[name] = uniform(shape, -limit, limit)
        else:
            spread = name.endswith(("bn.weight", "bn.running_var"))
            made[name] = uniform(shape, 0.5, 1.5) if spread else uniform(shape, -0.2, 0.2)
    made["fc.bias"] = uniform((CLASSES,), -0.2, 0.2)
    return made


class Convolution(nn.Module):
    """Convolutions of one input as one, their batch norms folded in; ReLU, but not for the last `linear`."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weights: Weights, *names: str, stride: int = 1, pad: bool = True, linear: int = 0
    ) -> None:
        super().__init__()
        folded = [_folded(weights, name) for name in names]
        weight = torch.cat([weight for weight, _ in folded]).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.cat([bias for _, bias in folded]))
        self.stride, self.linear = stride, linear
        height, width = weight.shape[2:]
        self.padding = (height // 2, width // 2) if pad else (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        y = conv2d(x, self.weight, self.bias, self.stride, self.padding)
        y[:, : y.shape[1] - self.linear].relu_()
        return y


def _folded(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution and its batch norm together, computed in float64."""
    norm = {part: weights[f"{name}.bn.{part}"].double() for part in ("weight", "bias")}
    mean, variance = (weights[f"{name}.bn.running_{part}"].double() for part in ("mean", "var"))
    gain = norm["weight"] / (variance + EPSILON).sqrt()
    kernel = weights[f"{name}.conv.weight"].double() * gain[:, None, None, None]
    return kernel.float(), (norm["bias"] - mean * gain).float()


class Joined(nn.Module):
    """The 1x1 convolutions with which the branches of a block begin, as one."""

    def __init__(self, weights: Weights, block: str, *names: str, average: bool = True) -> None:
        super().__init__()
        last = weights[f"{block}.{names[-1]}.conv.weight"].shape[0] if average else 0
        self.convolution = Convolution(weights, *(f"{block}.{name}" for name in names), linear=last)
        self.parts = [weights[f"{block}.{name}.conv.weight"].shape[0] for name in names]
        self.average = average

    def forward(self, x: Tensor) -> list[Tensor]:
        *parts, last = self.convolution(x).split(self.parts, 1)
        if self.average:
            last = avg_pool2d(last, 3, 1, 1, count_include_pad=False).relu_()
        return [*parts, last]


class Block35(nn.Module):
    """(N, C, 35, 35) to (N, 224 + averaged, 35, 35)."""

    def __init__(self, weights: Weights, block: str) -> None:
        super().__init__()
        self.first = Joined(weights, block, "branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool")
        self.five = Convolution(weights, f"{block}.branch5x5_2")
        self.three = nn.Sequential(*(Convolution(weights, f"{block}.branch3x3dbl_{i}") for i in (2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        one, five, three, averaged = self.first(x)
        return torch.cat([one, self.five(five), self.three(three), averaged], 1)


class Reduction35(nn.Module):
    """(N, 288, 35, 35) to (N, 768, 17, 17)."""

    def __init__(self, weights: Weights, block: str) -> None:
        super().__init__()
        self.three = Convolution(weights, f"{block}.branch3x3", stride=2, pad=False)
        self.longer = nn.Sequential(
            *(Convolution(weights, f"{block}.branch3x3dbl_{i}") for i in (1, 2)),
            Convolution(weights, f"{block}.branch3x3dbl_3", stride=2, pad=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.three(x), self.longer(x), max_pool2d(x, 3, 2)], 1)


class Block17(nn.Module):
    """(N, 768, 17, 17) to the same."""

    def __init__(self, weights: Weights, block: str) -> None:
        super().__init__()
        self.first = Joined(weights, block, "branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool")
        self.seven = nn.Sequential(*(Convolution(weights, f"{block}.branch7x7_{i}") for i in (2, 3)))
        self.longer = nn.Sequential(
            *(Convolution(weights, f"{block}.branch7x7dbl_{i}") for i in (2, 3, 4, 5))
        )

    def forward(self, x: Tensor) -> Tensor:
        one, seven, longer, averaged = self.first(x)
        return torch.cat([one, self.seven(seven), self.longer(longer), averaged], 1)


class Reduction17(nn.Module):
    """(N, 768, 17, 17) to (N, 1280, 8, 8)."""

    def __init__(self, weights: Weights, block: str) -> None:
        super().__init__()
        self.first = Joined(weights, block, "branch3x3_1", "branch7x7x3_1", average=False)
        self.three = Convolution(weights, f"{block}.branch3x3_2", stride=2, pad=False)
        self.seven = nn.Sequential(
            *(Convolution(weights, f"{block}.branch7x7x3_{i}") for i in (2, 3)),
            Convolution(weights, f"{block}.branch7x7x3_4", stride=2, pad=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        three, seven = self.first(x)
        return torch.cat([self.three(three), self.seven(seven), max_pool2d(x, 3, 2)], 1)


class Block8(nn.Module):
    """(N, C, 8, 8) to (N, 2048, 8, 8); its last branch takes averages or, in the last block, maxima."""

    def __init__(self, weights: Weights, block: str, average: bool) -> None:
        super().__init__()
        firsts = ["branch1x1", "branch3x3_1", "branch3x3dbl_1", *(["branch_pool"] if average else [])]
        self.first = Joined(weights, block, *firsts, average=average)
        # a maximum and a convolution may not swap
        self.largest = None if average else Convolution(weights, f"{block}.branch_pool")
        self.three = nn.ModuleList(Convolution(weights, f"{block}.branch3x3_2{i}") for i in "ab")
        self.middle = Convolution(weights, f"{block}.branch3x3dbl_2")
        self.longer = nn.ModuleList(Convolution(weights, f"{block}.branch3x3dbl_3{i}") for i in "ab")

    def forward(self, x: Tensor) -> Tensor:
        one, three, longer, *last = self.first(x)
        if self.largest is not None:
            last = [self.largest(max_pool2d(x, 3, 1, 1))]
        longer = self.middle(longer)
        both = [*(part(three) for part in self.three), *(part(longer) for part in self.longer)]
        return torch.cat([one, *both, *last], 1)


class Network(nn.Module):
    """From (N, 3, 299, 299) in [-1, 1] to the 2,048 pooled numbers and the map that sFID looks at."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Convolution(weights, "Conv2d_1a_3x3", stride=2, pad=False),
            Convolution(weights, "Conv2d_2a_3x3", pad=False),
            Convolution(weights, "Conv2d_2b_3x3"),
            nn.MaxPool2d(3, 2),
            Convolution(weights, "Conv2d_3b_1x1"),
            Convolution(weights, "Conv2d_4a_3x3", pad=False),
            nn.MaxPool2d(3, 2),
        )
        self.large = nn.Sequential(*(Block35(weights, f"Mixed_5{i}") for i in "bcd"))
        self.reduce = Reduction35(weights, "Mixed_6a")
        self.middle = nn.Sequential(*(Block17(weights, f"Mixed_6{i}") for i in "bcd"))
        self.last_middle = Block17(weights, "Mixed_6e")
        self.small = nn.Sequential(
            Reduction17(weights, "Mixed_7a"),
            Block8(weights, "Mixed_7b", average=True),
            Block8(weights, "Mixed_7c", average=False),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled (N, 2048), and the first channels (N, 17, 17, 7) of the third 17x17 block's 1x1 branch."""
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.middle(self.reduce(self.large(self.stem(x))))
        return self.small(self.last_middle(x)).mean((2, 3)), x[:, :SPATIAL].permute(0, 2, 3, 1)
