"""GAT's generator and critic: plain transformers over patches, the latent as modulation of every block
(Hyun et al., 2025, "Scalable GANs with Transformers", arXiv:2509.24935)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.networks.dit import sincos
from diptych.networks.equalized import at_least_float32, full_precision
from diptych.networks.labels import agreement, label_vector, quiet
from diptych.networks.shapes import padded
from diptych.saveable import saveable

SLOW = 0.01  # the mapping learns at this share of the learning rate, as StyleGAN's
RESIDUAL = 0.1  # how loud a block is at the start


@saveable
class GATGenerator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W).

    Tokens begin as positions alone. The image is a sum over `levels` equal parts of the depth; in training
    mode all partial sums are returned, (B, levels C, H, W), the image last. Any H and W: makes whole patches
    and crops. A head has 64 channels, or all of them where the width is less.
    """

    normalises = True
    positions: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 64,
        width: int = 384,
        depth: int = 12,
        patch: int = 2,
        levels: int = 4,
        label_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.label_gain = label_gain
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent, self.patch = latent, patch
        self.grid = grid_of(image_shape, patch)
        self.register_buffer("positions", sincos(self.grid, width), persistent=False)
        self.label = label_vector(latent, classes, attributes)
        quiet(self.label)  # so that they turn quicker; `unit` makes them as loud as the latent again
        told = latent if self.label is None else 2 * latent
        self.mapping = nn.Sequential(Slow(told, width), nn.SiLU(), Slow(width, width), nn.SiLU())
        self.blocks = nn.ModuleList([Modulated(width) for _ in range(depth)])
        self.ends = ends(depth, levels)
        self.heads = nn.ModuleList([Head(width, patch * patch * image_shape[0]) for _ in self.ends])

    def reads_latents(self) -> list[Tensor]:
        """What reads the latents first, (out, latent): see `diptych.latent.directions`."""
        return [SLOW * self.mapping[0].weight[:, : self.latent]]  # type: ignore[index]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        style = self.style(z, label)
        x = self.positions.expand(z.shape[0], -1, -1)
        image: Tensor | None = None
        levels = []
        for i, block in enumerate(self.blocks):
            x = block(x, style)
            if i + 1 in self.ends:
                made = self.unpatched(self.heads[self.ends.index(i + 1)](x, style))
                image = made if image is None else image + made
                levels.append(image)
        return torch.cat(levels, 1) if self.training else levels[-1]

    def style(self, z: Tensor, label: Tensor | None) -> Tensor:
        """What modulates the blocks, (B, width)."""
        told = [unit(z)]
        if self.label is not None:
            told.append(self.label_gain * unit(self.label(label, z.shape[0])))
        return self.mapping(torch.cat(told, 1))  # type: ignore[no-any-return]

    def unpatched(self, x: Tensor) -> Tensor:
        """Tokens (B, T, p p C) to images (B, C, H, W)."""
        channels, height, width = self.image_shape
        patches: Tensor = x.unflatten(2, (self.patch, self.patch, channels))  # type: ignore[no-untyped-call]
        x = patches.unflatten(1, self.grid)  # type: ignore[no-untyped-call]
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, rows p, columns p, C)
        return x.permute(0, 3, 1, 2)[:, :, :height, :width]


@saveable
class GATCritic(nn.Module):
    """From images (B, C, H, W), or a generator's levels (B, levels C, H, W), and labels, to logits (B,).

    Sees each level through noise, the first under most, so that coarse levels are judged coarsely
    ("multi-level noise-perturbed image guidance"). Labels enter as a projection. Differentiable twice.
    """

    positions: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 384,
        depth: int = 12,
        patch: int = 2,
        levels: int = 4,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        self.channels, self.levels, self.patch = channels, levels, patch
        grid = grid_of(image_shape, patch)
        self.register_buffer("positions", sincos(grid, width), persistent=False)
        self.stem = Stem(levels * channels, width, patch)
        self.blocks = nn.ModuleList([Judging(width) for _ in range(depth)])
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.label = label_vector(width, classes, attributes)
        self.project = nn.Linear(width, 1 if self.label is None else width, bias=False)

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        last = [m for m in (self.norm, self.project, self.label) if m is not None]
        return [self.stem, *self.blocks, nn.ModuleList(last)]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C or levels C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        if image.shape[1] == self.channels:
            image = image.repeat(1, self.levels, 1, 1)
        if self.levels > 1:
            image = perturbed(image, self.levels, self.training)
        x = self.stem(padded(image, self.patch), self.positions)
        for block in self.blocks:
            x = block(x)
        with full_precision(x):
            seen: Tensor = self.project(self.norm(at_least_float32(x[:, 0])))
            if self.label is None:
                return seen.squeeze(1)
            told: Tensor = self.label(label, seen.shape[0])
            return agreement(seen, told)


class Stem(nn.Module):
    """Patches as tokens with their positions, behind one that will hold the verdict."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.xavier_uniform_(self.patches.weight.view(width, -1))
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]
        self.verdict = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, image: Tensor, positions: Tensor) -> Tensor:
        """(B, C, rows p, columns p) to (B, 1 + T, width)."""
        tokens = self.patches(image).flatten(2).transpose(1, 2) + positions
        return torch.cat([self.verdict.expand(image.shape[0], -1, -1), tokens], 1)


class Modulated(nn.Module):
    """Attention and a gated layer; the style scales what they hear and gates what they say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affine = linear(width, 4 * width, RESIDUAL)
        self.attention = Attention(width, twice=False)
        self.mlp = SwiGLU(width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, T, C), style (B, C)."""
        scale1, gate1, scale2, gate2 = self.affine(style)[:, None].chunk(4, 2)
        x = torch.addcmul(x, gate1, self.attention(plain_norm(x) * (1 + scale1)))
        return torch.addcmul(x, gate2, self.mlp(plain_norm(x) * (1 + scale2)))


class Judging(nn.Module):
    """Attention and a gated layer behind norms, both quiet at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attention, self.mlp = Attention(width, twice=True), SwiGLU(width)
        self.scale1 = nn.Parameter(torch.full((width,), RESIDUAL))
        self.scale2 = nn.Parameter(torch.full((width,), RESIDUAL))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C)."""
        x = torch.addcmul(x, self.scale1, self.attention(self.norm1(x)))
        return torch.addcmul(x, self.scale2, self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Self-attention with normed queries and keys.

    twice: written out in products, because fused attention has no second derivative, which penalties need.
    """

    def __init__(self, width: int, twice: bool) -> None:
        super().__init__()
        self.heads, self.twice = max(1, width // 64), twice
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)
        self.scales = nn.Parameter(torch.ones(2, width // self.heads))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C)."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, x.shape[2] // self.heads)).permute(2, 0, 3, 1, 4)
        scales = self.scales.to(qkv.dtype)
        q, k, v = plain_norm(qkv[0]) * scales[0], plain_norm(qkv[1]) * scales[1], qkv[2]
        if self.twice:
            weight = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)
            seen = weight @ v
        else:
            seen = F.scaled_dot_product_attention(q, k, v)
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """silu(a) b, then a layer; two thirds of four times as wide inside (Shazeer, 2020, arXiv:2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 8 * width // 3
        self.enter, self.leave = linear(width, 2 * hidden), linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C)."""
        a, b = self.enter(x).chunk(2, 2)
        return self.leave(F.silu(a) * b)  # type: ignore[no-any-return]


class Head(nn.Module):
    """Tokens to the pixels of their patches; the style scales what is heard."""

    def __init__(self, width: int, pixels: int) -> None:
        super().__init__()
        self.affine, self.pixels = linear(width, width, RESIDUAL), linear(width, pixels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, T, C), style (B, C)."""
        return self.pixels(plain_norm(x) * (1 + self.affine(style)[:, None]))  # type: ignore[no-any-return]


class Slow(nn.Module):
    """A layer whose weights are kept large and used small, so that Adam moves it slowly."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in))
        self.bias = nn.Parameter(torch.zeros(width_out))
        nn.init.xavier_uniform_(self.weight, gain=1 / SLOW)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C)."""
        return F.linear(x, SLOW * self.weight, SLOW * self.bias)


def perturbed(image: Tensor, levels: int, noisy: bool = True) -> Tensor:
    """(1 - t) x + t noise for each of (B, levels C, H, W): t from 0.885 at the first to 0.01 at the last.

    A level's noise contains that of the next, so that several together tell no more than the clearest one.
    """
    kept, before, shown = torch.zeros_like(image.chunk(levels, 1)[-1]), 0.0, []
    for level, x in reversed(list(enumerate(image.chunk(levels, 1)))):
        t = noise_level(level, levels)
        if noisy:
            ratio = (1 - t) / (1 - before)
            kept = ratio * kept + math.sqrt(t**2 - (ratio * before) ** 2) * torch.randn_like(x)
        shown.append((1 - t) * x + kept)
        before = t
    return torch.cat(shown[::-1], 1)


def noise_level(level: int, levels: int, least: float = 1 / 8) -> float:
    """The share of noise: the part of the image that shows grows geometrically from `least` to all."""
    return 1.01 - float(least ** (1 - level / (levels - 1)))


def grid_of(image_shape: tuple[int, int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    _, height, width = image_shape
    return -(-height // patch), -(-width // patch)


def ends(depth: int, levels: int) -> list[int]:
    """After how many blocks each level ends: equal parts of the depth."""
    return [depth * (level + 1) // levels for level in range(levels)]


def linear(width_in: int, width_out: int, gain: float = 1.0) -> nn.Linear:
    """A layer with Xavier's uniform weights and biases at zero."""
    layer = nn.Linear(width_in, width_out)
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


def plain_norm(x: Tensor) -> Tensor:
    """Root mean square of the last axis brought to 1."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def unit(x: Tensor) -> Tensor:
    """(B, C) with a root mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
