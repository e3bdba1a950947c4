"""Linear operators of what was measured, y = A x, each with its singular value decomposition.

All but the mask act on channels, rows and columns apart, A = A_c (x) A_h (x) A_w, so that the
decomposition of an image-sized matrix is three small ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import WrongUse, did_you_mean
from diptych.saveable import saveable

Gain = Callable[[Tensor], Tensor]  # of each singular value, at 0 too
Shape = tuple[int, int, int]
NAMES = ("superres", "bicubic", "blur", "grey", "noise")
CUT = 0.03  # of the largest: smaller singular values count as 0, or 8-bit rounding would drown the image


class Operator(nn.Module, ABC):
    """A = U diag(s) V^T on images (B, *image_shape), measurements (B, *measured_shape)."""

    image_shape: Shape
    measured_shape: Shape

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def back(self, y: Tensor, gain: Gain) -> Tensor:
        """V diag(gain(s)) U^T y, over singular values above 0: 1 / s gives the pseudo-inverse."""

    @abstractmethod
    def within(self, x: Tensor, gain: Gain) -> Tensor:
        """V diag(gain(s)) V^T x, over all singular values, 0 where nothing is measured."""

    def inverse(self, y: Tensor) -> Tensor:
        """A^+ y, the smallest image that gives y."""
        return self.back(y, torch.reciprocal)


@saveable
class Masked(Operator):
    """The pixels where `mask`, (B or 1, 1, H, W), is 1; the others read as 0."""

    mask: Tensor

    def __init__(self, image_shape: Shape, mask: Tensor | None = None) -> None:
        super().__init__()
        self.image_shape = self.measured_shape = image_shape
        mask = torch.ones(1, 1, *image_shape[1:]) if mask is None else mask.float()
        self.register_buffer("mask", mask, persistent=False)  # so that it goes where the model is

    def forward(self, x: Tensor) -> Tensor:
        """The image, 0 where the mask is."""
        return self.mask * x

    def back(self, y: Tensor, gain: Gain) -> Tensor:
        """The only singular values are 1 and 0."""
        return self.mask * gain(y.new_ones(())) * y

    def within(self, x: Tensor, gain: Gain) -> Tensor:
        """gain(1) where the mask is 1, gain(0) elsewhere."""
        return torch.where(self.mask > 0, gain(x.new_ones(())), gain(x.new_zeros(()))) * x


class Separable(Operator, ABC):
    """Three small matrices, each at most as high as wide, over channels, rows and columns."""

    matrices: tuple[Tensor, Tensor, Tensor]

    def __init__(self, image_shape: Shape, matrices: tuple[Tensor, Tensor, Tensor]) -> None:
        super().__init__()
        self.image_shape, values = image_shape, []
        self.measured_shape = tuple(m.shape[0] for m in matrices)  # type: ignore[assignment]
        for axis, matrix in zip("chw", matrices, strict=True):
            U, s, Vt = torch.linalg.svd(matrix.double(), full_matrices=True)
            values.append(F.pad(s, (0, matrix.shape[1] - len(s))))
            for name, part in (("A", matrix), ("Ut", U.T), ("V", Vt.T), ("Vt", Vt)):
                self.register_buffer(f"{name}_{axis}", part.float().contiguous(), persistent=False)
        s = values[0][:, None, None] * values[1][:, None] * values[2]
        s = torch.where(s > CUT * s.max(), s, 0.0)
        self.register_buffer("s", s.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Channels, rows and columns, each multiplied by its matrix."""
        return self._by("A", x)

    def back(self, y: Tensor, gain: Gain) -> Tensor:
        """To U's coordinates, filled up with zeros, scaled, out of V's."""
        seen = self._by("Ut", y)
        gaps = [n - m for n, m in zip(self.image_shape, self.measured_shape, strict=True)]
        seen = F.pad(seen, (0, gaps[2], 0, gaps[1], 0, gaps[0]))
        s = self.get_buffer("s").to(y.device)
        scale = torch.where(s > 0, gain(torch.where(s > 0, s, 1.0)), 0.0)
        return self._by("V", scale * seen)

    def within(self, x: Tensor, gain: Gain) -> Tensor:
        """To V's coordinates, scaled, and back."""
        return self._by("V", gain(self.get_buffer("s").to(x.device)) * self._by("Vt", x))

    def _by(self, name: str, x: Tensor) -> Tensor:
        c, h, w = (self.get_buffer(f"{name}_{axis}").to(x.device) for axis in "chw")
        return torch.einsum("bkhw,ck->bchw", h @ x @ w.T, c)


@saveable
class Pooling(Separable):
    """The means of height x width cells, as equal as they can be: a smaller image, or a colour sketch."""

    def __init__(self, image_shape: Shape, height: int, width: int) -> None:
        channels, *sides = image_shape
        for size, side in zip((height, width), sides, strict=True):
            if not 1 <= size <= side:
                raise WrongUse(f"{side} pixels cannot be pooled to {size}", f"1 to {side}")
        rows, columns = (
            F.adaptive_avg_pool1d(torch.eye(n), m).T for n, m in zip(sides, (height, width), strict=True)
        )
        super().__init__(image_shape, (torch.eye(channels), rows, columns))


@saveable
class Bicubic(Separable):
    """A smaller image, bicubic and antialiased, as resizing makes it."""

    def __init__(self, image_shape: Shape, height: int, width: int) -> None:
        channels, *sides = image_shape
        for size, side in zip((height, width), sides, strict=True):
            if not 1 <= size <= side:
                raise WrongUse(f"{side} pixels cannot be reduced to {size}", f"1 to {side}")

        def matrix(n: int, m: int) -> Tensor:
            eye = torch.eye(n).view(1, 1, n, n)  # resized along its rows alone
            return F.interpolate(eye, (m, n), mode="bicubic", antialias=True)[0, 0]

        rows, columns = (matrix(n, m) for n, m in zip(sides, (height, width), strict=True))
        super().__init__(image_shape, (torch.eye(channels), rows, columns))


@saveable
class Blur(Separable):
    """A Gaussian blur of this deviation in pixels; near the border its weights are made to add up to 1."""

    def __init__(self, image_shape: Shape, deviation: float) -> None:
        if not deviation > 0:
            raise WrongUse(f"a blur's deviation must be positive, not {deviation}", "in pixels, 2.0 say")
        channels, *sides = image_shape
        rows, columns = (gaussian(n, deviation) for n in sides)
        super().__init__(image_shape, (torch.eye(channels), rows, columns))


@saveable
class Grey(Separable):
    """Rec. 601 luma of an RGB image, one channel."""

    def __init__(self, image_shape: Shape) -> None:
        channels, height, width = image_shape
        if channels != 3:
            raise WrongUse(f"only images with 3 channels have a grey version, not {channels}")
        luma = torch.tensor([[0.299, 0.587, 0.114]])
        super().__init__(image_shape, (luma, torch.eye(height), torch.eye(width)))


@saveable
class Product(Separable):
    """`first`, then `second`: grey and small, say."""

    def __init__(self, first: Separable, second: Separable) -> None:
        if second.image_shape != first.measured_shape:
            raise WrongUse(f"the second operator reads {second.image_shape}, not {first.measured_shape}")
        c, h, w = (second.get_buffer(f"A_{axis}") @ first.get_buffer(f"A_{axis}") for axis in "chw")
        super().__init__(first.image_shape, (c, h, w))


def named_operator(text: str, shape: Shape) -> tuple[Operator, float]:
    """The operator that "superres:4" or the like names, for images of this shape, and its noise."""
    name, _, value = text.partition(":")
    if name not in NAMES:
        raise WrongUse(f"there is no operator called {name}", did_you_mean(name, list(NAMES)))
    if name == "grey":
        return Grey(shape), 0.0
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if not math.isfinite(amount):
        raise WrongUse(f"{text!r} does not say how much", "superres:4, bicubic:2, blur:2.0 or noise:0.2")
    if name == "blur":
        return Blur(shape, amount), 0.0
    if name == "noise":
        if not amount > 0:
            raise WrongUse(f"noise {value} must be positive", "white - black is 2: noise:0.2 is a tenth")
        return Masked(shape), amount
    height, width = shape[1:]
    if amount < 2 or amount % 1 or height % amount or width % amount:
        raise WrongUse(
            f"{height}x{width} pixels cannot be made {value} times smaller",
            f"a whole number from 2 on that divides {height} and {width}",
        )
    kind = Pooling if name == "superres" else Bicubic
    return kind(shape, height // int(amount), width // int(amount)), 0.0


def gaussian(n: int, deviation: float) -> Tensor:
    """A Gaussian blur of n values as a matrix (n, n) whose rows add up to 1."""
    place = torch.arange(n, dtype=torch.float64)
    weight = (-(place[:, None] - place).square() / (2 * deviation**2)).exp()
    return weight / weight.sum(1, keepdim=True)
