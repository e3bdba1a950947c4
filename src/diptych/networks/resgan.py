"""The residual GAN of WGAN-GP (Gulrajani et al., 2017, arXiv:1704.00028, appendix F) and of SNGAN (Miyato et
al., 2018, arXiv:1802.05957, appendix B.4), with conditional batch norm and a projection critic (Miyato and
Koyama, 2018, arXiv:1802.05637)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.networks.equalized import at_least_float32, full_precision
from diptych.networks.labels import label_vector
from diptych.networks.shapes import doubled, padded, widths
from diptych.networks.spectral import spectral
from diptych.saveable import saveable

Norm = Literal["none", "layer"]
L = TypeVar("L", bound=nn.Module)


@saveable
class ResGenerator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W) in [-1, 1].

    width: channels at the full size, doubled at each halving, up to `largest`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 128,
        width: int = 64,
        largest: int = 1024,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent = latent
        doublings, height, wide = doubled(image_shape)
        channels = widths(width, doublings, largest)
        self.base = (height, wide, channels[0])
        self.project = even(nn.Linear(latent, channels[0] * height * wide))
        self.blocks = nn.ModuleList(UpBlock(a, b, classes, attributes) for a, b in pairwise(channels))
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_image = even(nn.Conv2d(channels[-1], image_shape[0], 3, padding=1))

    def reads_latents(self) -> list[Tensor]:
        """What reads the latents first, (out, latent): see `diptych.latent.directions`."""
        return [self.project.weight[:, : self.latent]]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        x = self.project(z).unflatten(1, self.base).permute(0, 3, 1, 2)
        for block in self.blocks:
            x = block(x, label)
        _, height, width = self.image_shape
        return torch.tanh(self.to_image(F.relu(self.norm(x)))[:, :, :height, :width])


@saveable
class ResCritic(nn.Module):
    """From images (B, C, H, W), and labels, to logits (B,); labels enter as a projection.

    normalised: every weight is divided by its spectral norm, features are summed over the image in place of
    averaged. norm: "layer" for layer norm in the blocks.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 64,
        largest: int = 1024,
        normalised: bool = False,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        if norm not in ("none", "layer"):
            raise WrongUse(f"the critic's norm cannot be {norm!r}", "it is none or layer")
        doublings, _, _ = doubled(image_shape)
        channels = widths(width, doublings, largest)[::-1]
        self.multiple, self.normalised = 2**doublings, normalised
        ends = [image_shape[0], *channels[:-1], channels[-1]]
        self.blocks = nn.ModuleList(
            DownBlock(a, b, first=not level, down=level < doublings, normalised=normalised, norm=norm)
            for level, (a, b) in enumerate(pairwise(ends))
        )
        self.head = Projection(channels[-1], classes, attributes, normalised)

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        return [*self.blocks, self.head]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        x = padded(image, self.multiple)
        for block in self.blocks:
            x = block(x)
        x = F.relu(x)
        x = at_least_float32(x)
        return self.head(x.sum((2, 3)) if self.normalised else x.mean((2, 3)), label)  # type: ignore[no-any-return]


class Projection(nn.Module):
    """psi(features) + <V label, features> (Miyato and Koyama, 2018, equation 4): (B, c) to logits (B,)."""

    def __init__(self, c: int, classes: int, attributes: int, normalised: bool) -> None:
        super().__init__()
        # a bias moves reals and fakes alike, and has next to no gradient in differences and margins
        self.linear = spectral(even(nn.Linear(c, 1, bias=False)), normalised)
        self.label = label_vector(c, classes, attributes)
        if self.label is not None:
            for layer in self.label.children():
                even(layer)
            spectral(self.label, normalised)

    def forward(self, features: Tensor, label: Tensor | None) -> Tensor:
        """features (B, c), label (B,) int64 or (B, K)."""
        with full_precision(features):
            features = at_least_float32(features)
            logit: Tensor = self.linear(features).squeeze(1)
            if self.label is None:
                return logit
            return logit + (self.label(label, features.shape[0]) * features).sum(1)  # type: ignore[no-any-return]


class LabelNorm(nn.Module):
    """Batch norm with a gain and a bias for each label (de Vries et al., 2017, arXiv:1707.00683)."""

    def __init__(self, c: int, classes: int, attributes: int) -> None:
        super().__init__()
        self.told = label_vector(2 * c, classes, attributes)
        self.norm = nn.BatchNorm2d(c, affine=self.told is None)
        if self.told is not None:  # labels that begin apart are learned sooner than labels that begin as one
            for parameter in self.told.parameters():
                nn.init.normal_(parameter, std=0.3)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """x (B, c, H, W)."""
        x = self.norm(x)
        if self.told is None:
            return x
        gain, bias = self.told(label, x.shape[0])[:, :, None, None].chunk(2, 1)
        return torch.addcmul(bias, x, 1 + gain)


class UpBlock(nn.Module):
    """Twice the size: norm, ReLU, nearest upsampling, convolution; norm, ReLU, convolution; a shortcut."""

    def __init__(self, c_in: int, c_out: int, classes: int, attributes: int) -> None:
        super().__init__()
        # no biases: batch norms would take them away again
        self.first_norm = LabelNorm(c_in, classes, attributes)
        self.first = even(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), math.sqrt(2))
        self.second_norm = LabelNorm(c_out, classes, attributes)
        self.second = even(nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), math.sqrt(2))
        self.shortcut = even(nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """x (B, c_in, H, W) to (B, c_out, 2 H, 2 W)."""
        h = self.first(twice(F.relu(self.first_norm(x, label))))
        h = self.second(F.relu(self.second_norm(h, label)))
        return h + twice(self.shortcut(x))  # type: ignore[no-any-return]


class DownBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, averaging to half the size where `down`; a shortcut.

    first: the block that sees the image, which no ReLU may cut.
    """

    def __init__(
        self, c_in: int, c_out: int, *, first: bool, down: bool, normalised: bool, norm: Norm
    ) -> None:
        super().__init__()
        self.sees_image, self.down = first, down

        def layer(c_in: int, c_out: int, size: int, gain: float) -> nn.Conv2d:
            conv = even(nn.Conv2d(c_in, c_out, size, padding=size // 2), gain)
            return spectral(conv, normalised)

        def normaliser(c: int) -> nn.Module:
            return nn.GroupNorm(1, c) if norm == "layer" else nn.Identity()

        self.first_norm = nn.Identity() if first else normaliser(c_in)
        self.first = layer(c_in, c_out, 3, math.sqrt(2))
        self.second_norm = normaliser(c_out)
        self.second = layer(c_out, c_out, 3, math.sqrt(2))
        straight = c_in == c_out and not down
        self.shortcut = nn.Identity() if straight else layer(c_in, c_out, 1, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, c_in, H, W)."""
        h = x if self.sees_image else F.relu(self.first_norm(x))
        h = self.second(F.relu(self.second_norm(self.first(h))))
        if not self.down:
            return h + self.shortcut(x)  # type: ignore[no-any-return]
        return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))  # type: ignore[no-any-return]


def twice(x: Tensor) -> Tensor:
    """Each pixel four times: (B, c, H, W) to (B, c, 2 H, 2 W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def even(layer: L, gain: float = 1.0) -> L:
    """The layer with Glorot's uniform weights, gain times as large, and its bias at zero."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    assert isinstance(weight, Tensor)
    nn.init.xavier_uniform_(weight, gain)
    if bias is not None:
        nn.init.zeros_(bias)
    return layer
