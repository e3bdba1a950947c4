"""StyleGAN2's generator (Karras et al., 2020, arXiv:1912.04958)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.errors import WrongUse, did_you_mean
from diptych.networks.equalized import EqualizedConv2d, fmaps
from diptych.networks.filters import upsample2d
from diptych.networks.mapping import Mapping
from diptych.networks.modulated import SynthesisLayer, ToImage, resampling
from diptych.networks.shapes import pyramid
from diptych.saveable import saveable

ARCHITECTURES = ("skip", "resnet", "orig")  # figure 7: (b), (c), (a)
HALF = math.sqrt(0.5)  # of each of two branches that are added, so that the sum keeps the variance


def known_architecture(name: str) -> str:
    """The name. Raises WrongUse where there is none such."""
    if name not in ARCHITECTURES:
        raise WrongUse(f"there is no architecture called {name!r}", did_you_mean(name, list(ARCHITECTURES)))
    return name


class SynthesisBlock(nn.Module):
    """All layers of one size: one for the first, two for each of the others, and colours where they are made.

    n_in: 0 for the first block, which begins with a learned constant.
    """

    taps: Tensor

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: tuple[int, int],
        *,
        colours: int,
        style: int,
        architecture: str,
        last: bool,
        clamp: float,
    ) -> None:
        super().__init__()
        residual = n_in and architecture == "resnet"
        self.start = None if n_in else nn.Parameter(torch.randn(n_out, *size))
        self.conv0 = SynthesisLayer(n_in, n_out, size, style=style, up=True, clamp=clamp) if n_in else None
        self.conv1 = SynthesisLayer(n_out, n_out, size, style=style, clamp=clamp)
        self.skip = EqualizedConv2d(n_in, n_out, 1, bias=False) if residual else None
        self.to_image = (
            ToImage(n_out, colours, style=style, clamp=clamp) if last or architecture == "skip" else None
        )
        self.register_buffer("taps", resampling(), persistent=False)

    def convs(self) -> list[SynthesisLayer]:
        """The styled layers in order."""
        return [self.conv1] if self.conv0 is None else [self.conv0, self.conv1]

    def forward(
        self, x: Tensor | None, image: Tensor | None, styles: Tensor, noise: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """styles (B, layers of this block + 1, D); noise: one for each layer. Both maps grow to this size."""
        if x is None or self.conv0 is None:
            assert self.start is not None
            start = self.start.expand(styles.shape[0], -1, -1, -1)
            start = start.contiguous(memory_format=torch.channels_last)  # all that follows keeps the format
            x = self.conv1(start, styles[:, 0], noise[0])
        elif self.skip is None:
            x = self.conv1(self.conv0(x, styles[:, 0], noise[0]), styles[:, 1], noise[1])
        else:
            side = upsample2d(self.skip(x, gain=HALF), self.taps)
            x = side + self.conv1(self.conv0(x, styles[:, 0], noise[0]), styles[:, 1], noise[1], gain=HALF)
        if image is not None:
            image = upsample2d(image, self.taps)
        if self.to_image is not None:
            seen = self.to_image(x, styles[:, -1])
            image = seen if image is None else image + seen
        return x, image


class Synthesis(nn.Module):
    """Styles (B, layers, D) -> images. Colours of a size share the style of the next size's first layer."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        style: int,
        base: int,
        largest: int,
        architecture: str,
        clamp: float,
    ) -> None:
        super().__init__()
        known_architecture(architecture)
        doublings, h, w = pyramid(image_shape)
        channels = fmaps(image_shape, base, largest)
        self.image_shape = image_shape
        self.blocks = nn.ModuleList(
            SynthesisBlock(
                channels[level - 1] if level else 0,
                c,
                (h * 2**level, w * 2**level),
                colours=image_shape[0],
                style=style,
                architecture=architecture,
                last=level == doublings,
                clamp=clamp,
            )
            for level, c in enumerate(channels)
        )
        convs = self.convs()
        self.layers = len(convs) + 1
        self.noise_shapes = [conv.noise_shape for conv in convs]

    def convs(self) -> list[SynthesisLayer]:
        """The styled layers from the smallest size up."""
        return [conv for block in self.blocks for conv in block.convs()]  # type: ignore[operator]

    def inputs(self, noise: str | Sequence[Tensor]) -> Sequence[Tensor | None]:
        """One for each layer; "const": those that came with it, "none": no noise."""
        convs = self.convs()
        if not isinstance(noise, str):
            if len(noise) != len(convs):
                raise WrongUse(f"there are {len(convs)} noise inputs, not {len(noise)}")
            return noise
        return [conv.noise if noise == "const" else None for conv in convs]

    def forward(self, styles: Tensor, noise: str | Sequence[Tensor] = "const") -> Tensor:
        """(B, C, H, W); noise: "const", "none", or a tensor (B, 1, h, w) for each layer."""
        inputs, at = self.inputs(noise), 0
        x: Tensor | None = None
        image: Tensor | None = None
        for block in self.blocks:
            n = 1 if at == 0 else 2
            x, image = block(x, image, styles[:, at : at + n + 1], inputs[at : at + n])
            at += n
        assert image is not None
        _, height, width = self.image_shape
        return image[:, :, :height, :width]


@saveable
class StyleGAN2Generator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W).

    In training, noise inputs are random, styles of two latents are mixed in a share `mixing` of the images
    (StyleGAN, Karras et al., 2018, arXiv:1812.04948, section 3.1), and `mean` follows the mean style.
    base, largest: see `fmaps`. clamp: bounds activations, for half precision; 0: none. label_gain: see
    `Mapping`.
    """

    mean: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 512,
        style: int = 512,
        mapping_layers: int = 8,
        base: int = 16384,
        largest: int = 512,
        architecture: str = "skip",
        mixing: float = 0.9,
        clamp: float = 0.0,
        label_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent, self.mixing = latent, mixing
        self.synthesis = Synthesis(
            image_shape, style=style, base=base, largest=largest, architecture=architecture, clamp=clamp
        )
        self.layers, self.noise_shapes = self.synthesis.layers, self.synthesis.noise_shapes
        self.mapping = Mapping(
            latent,
            style,
            self.layers,
            depth=mapping_layers,
            classes=classes,
            attributes=attributes,
            label_gain=label_gain,
        )
        self.register_buffer("mean", torch.zeros(style))

    def reads_latents(self) -> list[Tensor]:
        """What reads each layer's style, (out, D): see `diptych.latent.directions`."""
        reads: list[list[Tensor]] = [[] for _ in range(self.layers)]
        blocks: Any = self.synthesis.blocks
        at = 0
        for block in blocks:
            for layer in block.convs():
                reads[at].append(layer.affine.weight * layer.affine.scale)
                at += 1
            if block.to_image is not None:
                affine = block.to_image.affine
                reads[at].append(affine.weight * (affine.scale * block.to_image.scale))
        return [torch.cat(weights) for weights in reads]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        if not self.training:
            return self.synthesis(self.mapping(z, label))  # type: ignore[no-any-return]
        styles, noise = self.draw(z, label)
        with torch.no_grad():  # the first layer's style is never of the other latent
            self.mean.lerp_(styles[:, 0].detach().mean(0).to(self.mean.dtype), 0.005)
        return self.synthesis(styles, noise)  # type: ignore[no-any-return]

    def draw(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """What a training pass renders: styles (B, layers, D), some of them mixed, random noise inputs."""
        styles = self.mapping(z, label)
        if self.mixing:
            styles = self.mixed(styles, label)
        return styles, [torch.randn(z.shape[0], *shape, device=z.device) for shape in self.noise_shapes]

    def mixed(self, styles: Tensor, label: Tensor | None) -> Tensor:
        """From a random layer on, the styles of another latent, in a share `mixing` of the images."""
        n, layers = styles.shape[:2]
        other = self.mapping(torch.randn(n, self.latent, device=styles.device), label)
        cut = torch.randint(1, layers, (n, 1), device=styles.device)
        late = torch.arange(layers, device=styles.device) >= cut
        chosen = torch.rand(n, 1, device=styles.device) < self.mixing
        return torch.where((late & chosen)[:, :, None], other, styles)
