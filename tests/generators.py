"""Small generators whose images are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diptych.saveable import saveable


@saveable
class Linear(nn.Module):
    """image = matrix z / 4, plus the label's own image."""

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        latent: int = 6,
        classes: int = 0,
        attributes: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape, self.latent, self.classes, self.attributes = (
            image_shape,
            latent,
            classes,
            attributes,
        )
        stream = torch.Generator().manual_seed(0)
        size = image_shape[0] * image_shape[1] * image_shape[2]
        self.matrix = nn.Parameter(torch.randn(size, latent, generator=stream))
        self.shift = nn.Parameter(torch.randn(max(classes, attributes, 1), size, generator=stream) / 2)

    def reads_latents(self) -> list[Tensor]:
        return [self.matrix]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        image = z @ self.matrix.T / 4
        if label is not None:
            image = image + (self.shift[label] if self.classes else label @ self.shift)
        return image.unflatten(1, self.image_shape)


class Planes(nn.Module):
    """Styles to images: each layer's style adds a matrix of its own."""

    def __init__(self, image_shape: tuple[int, int, int], layers: int, style: int) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(1)
        size = image_shape[0] * image_shape[1] * image_shape[2]
        self.image_shape = image_shape
        self.matrices = nn.Parameter(torch.randn(layers, size, style, generator=stream))

    def forward(self, styles: Tensor, noise: str | Sequence[Tensor] = "const") -> Tensor:
        return (torch.einsum("bld,lpd->bp", styles, self.matrices) / 8).unflatten(1, self.image_shape)


class Widen(nn.Module):
    """A latent (and a class) to the same style for each layer."""

    def __init__(self, latent: int, style: int, layers: int, classes: int) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(2)
        self.layers = layers
        self.matrix = nn.Parameter(torch.randn(style, latent, generator=stream) / latent**0.5)
        self.shift = nn.Parameter(torch.randn(max(1, classes), style, generator=stream))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        style = z @ self.matrix.T
        style = style if label is None else style + self.shift[label]
        return style[:, None].expand(-1, self.layers, -1)


@saveable
class Styled(nn.Module):
    """A style generator that is linear: image = sum over layers of matrix_l style_l / 8."""

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        latent: int = 6,
        layers: int = 3,
        style: int = 5,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape, self.latent, self.classes, self.attributes = image_shape, latent, classes, 0
        self.layers, self.noise_shapes = layers, [(1, 8, 8)]
        self.mapping, self.synthesis = (
            Widen(latent, style, layers, classes),
            Planes(image_shape, layers, style),
        )
        self.register_buffer("mean", torch.zeros(style))

    def reads_latents(self) -> list[Tensor]:
        return list(self.synthesis.matrices)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.synthesis(self.mapping(z, label))
