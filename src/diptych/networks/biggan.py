"""BigGAN's generator and critic (Brock et al., 2019, arXiv:1809.11096): residual blocks told a chunk of the
latent and a class embedding that all share, self-attention, spectral normalisation in both networks."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import WrongUse
from diptych.networks.equalized import at_least_float32, full_precision
from diptych.networks.labels import label_vector
from diptych.networks.resgan import twice
from diptych.networks.shapes import doubled, padded, widths
from diptych.networks.spectral import spectral
from diptych.saveable import saveable

L = TypeVar("L", bound=nn.Module)


@saveable
class BigGenerator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W) in [-1, 1].

    latent: cut into one chunk for the base and one for each block; 0: 20 for each. shared: length of the
    label's embedding. width: channels at the full size, doubled at each halving, up to `largest`. attention:
    features attend to each other at the largest size of at most so many pixels, and at most half of the
    image's; 0: nowhere.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 0,
        shared: int = 128,
        width: int = 64,
        largest: int = 1024,
        attention: int = 64,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        doublings, height, wide = doubled(image_shape)
        self.latent = latent = latent or 20 * (doublings + 1)
        channels = widths(width, doublings, largest)
        self.chunks = chunks(latent, doublings + 1)
        self.label = label_vector(shared, classes, attributes)
        self.norms_follow = self.label is not None  # the threshold of latents, as published
        if self.label is not None:
            for layer in self.label.children():
                orthogonal(layer)
        told = 0 if self.label is None else shared
        self.base = (height, wide, channels[0])
        self.project = spectral(orthogonal(nn.Linear(self.chunks[0], channels[0] * height * wide)))
        self.blocks = nn.ModuleList(
            UpBlock(a, b, chunk + told)
            for (a, b), chunk in zip(pairwise(channels), self.chunks[1:], strict=True)
        )
        self.attended = doublings - halvings(image_shape, attention)
        self.attention = Attention(channels[self.attended]) if attention else None
        self.norm = nn.BatchNorm2d(channels[-1], eps=1e-4)
        self.to_image = conv(channels[-1], image_shape[0], 3)

    def reads_latents(self) -> list[Tensor]:
        """What reads the latents first, (out, latent): see `diptych.latent.directions`."""
        rows = [self.project.weight]
        for block, chunk in zip(self.blocks, self.chunks[1:], strict=True):
            norms = [module for module in block.modules() if isinstance(module, ToldNorm)]
            layers = [layer.weight[:, :chunk] for norm in norms for layer in (norm.gain, norm.bias)]
            rows.append(torch.cat(layers))
        return [torch.block_diag(*rows)]  # type: ignore[no-untyped-call]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        first, *rest = torch.split(z, self.chunks, 1)
        if self.label is not None:
            embedding = self.label(label, z.shape[0])
            rest = [torch.cat([chunk, embedding], 1) for chunk in rest]
        x = self.project(first).unflatten(1, self.base).permute(0, 3, 1, 2)
        for level, (block, told) in enumerate(zip(self.blocks, rest, strict=True)):
            if self.attention is not None and level == self.attended:
                x = self.attention(x)
            x = block(x, told)
        _, height, width = self.image_shape
        return torch.tanh(self.to_image(F.relu(self.norm(x)))[:, :, :height, :width])


@saveable
class BigCritic(nn.Module):
    """From images (B, C, H, W), and labels, to logits (B,); labels enter as a projection."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 64,
        largest: int = 1024,
        attention: int = 64,
    ) -> None:
        super().__init__()
        doublings, _, _ = doubled(image_shape)
        channels = widths(width, doublings, largest)[::-1]
        self.multiple = 2**doublings
        ends = [image_shape[0], *channels[:-1], channels[-1]]
        self.blocks = nn.ModuleList(
            DownBlock(a, b, first=not level, down=level < doublings)
            for level, (a, b) in enumerate(pairwise(ends))
        )
        self.attended = halvings(image_shape, attention) - 1
        self.attention = Attention(channels[self.attended]) if attention else None
        self.head = Head(channels[-1], classes, attributes)

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        parts: list[nn.Module] = [*self.blocks, self.head]
        if self.attention is not None:
            parts[self.attended] = nn.ModuleList([parts[self.attended], self.attention])
        return parts

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        x = padded(image, self.multiple)
        for level, block in enumerate(self.blocks):
            x = block(x)
            if self.attention is not None and level == self.attended:
                x = self.attention(x)
        return self.head(x, label)  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Twice the size: told norm, ReLU, upsampling, convolution; told norm, ReLU, convolution; a shortcut."""

    def __init__(self, c_in: int, c_out: int, told: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = ToldNorm(c_in, told), ToldNorm(c_out, told)
        self.first = conv(c_in, c_out, 3, bias=False)  # batch norms would take biases away again
        self.second = conv(c_out, c_out, 3, bias=False)
        self.shortcut = conv(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x (B, c_in, H, W), told (B, told), to (B, c_out, 2 H, 2 W)."""
        h = self.first(twice(F.relu(self.first_norm(x, told))))
        h = self.second(F.relu(self.second_norm(h, told)))
        return h + twice(self.shortcut(x))  # type: ignore[no-any-return]


class DownBlock(nn.Module):
    """ReLU (not on images), convolution, ReLU, convolution, half the size where `down`; a shortcut."""

    def __init__(self, c_in: int, c_out: int, *, first: bool, down: bool) -> None:
        super().__init__()
        self.sees_image, self.down = first, down
        self.first, self.second = conv(c_in, c_out, 3), conv(c_out, c_out, 3)
        self.shortcut = nn.Identity() if c_in == c_out and not down else conv(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, c_in, H, W)."""
        h = self.second(F.relu(self.first(x if self.sees_image else F.relu(x))))
        if not self.down:
            return h + self.shortcut(x)  # type: ignore[no-any-return]
        return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))  # type: ignore[no-any-return]


class ToldNorm(nn.Module):
    """Batch norm whose gain and bias are linear in what it is told (B, told)."""

    def __init__(self, c: int, told: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(c, affine=False, eps=1e-4)
        self.gain = spectral(orthogonal(nn.Linear(told, c, bias=False)))
        self.bias = spectral(orthogonal(nn.Linear(told, c, bias=False)))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """x (B, c, H, W)."""
        gain, bias = self.gain(told)[:, :, None, None], self.bias(told)[:, :, None, None]
        return torch.addcmul(bias, self.norm(x), 1 + gain)


class Attention(nn.Module):
    """Each pixel looks at a grid of half the size (Zhang et al., 2019, arXiv:1805.08318); begins as the
    identity."""

    def __init__(self, c: int) -> None:
        super().__init__()
        inner = max(1, c // 8)
        self.query, self.key = conv(c, inner, 1, bias=False), conv(c, inner, 1, bias=False)
        self.value = conv(c, max(1, c // 2), 1, bias=False)
        self.leave = conv(max(1, c // 2), c, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, c, H, W), with H and W at least 2."""
        query, key, value = self.query(x), F.max_pool2d(self.key(x), 2), F.max_pool2d(self.value(x), 2)
        seen = F.scaled_dot_product_attention(rows(query), rows(key), rows(value), scale=1.0)
        seen = seen.squeeze(1).mT.reshape(-1, seen.shape[3], *x.shape[2:])
        return x + self.gain * self.leave(seen)  # type: ignore[no-any-return]


def rows(x: Tensor) -> Tensor:
    """(B, c, H, W) to (B, 1, H W, c)."""
    return x.flatten(2).mT[:, None]


class Head(nn.Module):
    """ReLU, sum over the image, then psi(h) + <V label, h>: (B, c, H, W) to logits (B,)."""

    def __init__(self, c: int, classes: int, attributes: int) -> None:
        super().__init__()
        self.linear = spectral(orthogonal(nn.Linear(c, 1, bias=False)))
        self.label = label_vector(c, classes, attributes)
        if self.label is not None:
            for layer in self.label.children():
                orthogonal(layer)
            spectral(self.label)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """x (B, c, H, W), label (B,) int64 or (B, K)."""
        with full_precision(x):
            h = F.relu(at_least_float32(x)).sum((2, 3))
            logit: Tensor = self.linear(h).squeeze(1)
            return logit if self.label is None else logit + (self.label(label, h.shape[0]) * h).sum(1)


def chunks(latent: int, parts: int) -> list[int]:
    """`latent` cut into so many lengths, as equal as can be. Raises WrongUse where it is too short."""
    if latent < parts:
        raise WrongUse(f"a latent of {latent} cannot be cut into {parts} chunks", f"--latent {20 * parts}")
    return [latent // parts + (part < latent % parts) for part in range(parts)]


def halvings(image_shape: tuple[int, int, int], attention: int) -> int:
    """How many halvings (at least one) bring an image down to the size at which features attend."""
    doublings, height, width = doubled(image_shape)
    sizes = [min(height, width) * 2 ** (doublings - level) for level in range(1, doublings + 1)]
    return next((level for level, size in enumerate(sizes, 1) if size <= attention), doublings)


def conv(c_in: int, c_out: int, size: int, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size, with orthogonal weights, spectrally normalised."""
    return spectral(orthogonal(nn.Conv2d(c_in, c_out, size, padding=size // 2, bias=bias)))


def orthogonal(layer: L) -> L:
    """The layer with orthogonal weights (Saxe et al., 2014, arXiv:1312.6120), and its bias at zero."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    assert isinstance(weight, Tensor)
    nn.init.orthogonal_(weight)
    if bias is not None:
        nn.init.zeros_(bias)
    return layer
