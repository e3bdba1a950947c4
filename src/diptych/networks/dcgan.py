"""DCGAN's generator and critic (Radford et al., 2015, arXiv:1511.06434): strided convolutions, batch norm,
ReLU in one, leaky ReLU in the other. Labels join the latents, and the critic's last features (Reed et al.,
2016, arXiv:1605.05396)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.networks.equalized import at_least_float32, full_precision
from diptych.networks.labels import label_vector, quiet
from diptych.networks.shapes import doubled, padded, widths
from diptych.saveable import saveable


@saveable
class DCGenerator(nn.Module):
    """From latents (B, latent), and labels, to images (B, C, H, W) in [-1, 1].

    width: channels at half of the full size, doubled at each halving, up to `largest`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        latent: int = 100,
        width: int = 128,
        largest: int = 1024,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        self.latent = latent
        doublings, height, wide = doubled(image_shape)
        channels = widths(width, doublings - 1, largest)
        self.label = label_vector(latent, classes, attributes)
        quiet(self.label)
        told = latent if self.label is None else 2 * latent
        self.base = (height, wide, channels[0])
        self.project = nn.Linear(told, channels[0] * height * wide, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(c, wider, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=True),
            )
            for c, wider in pairwise(channels)
        )
        self.to_image = nn.ConvTranspose2d(channels[-1], image_shape[0], 4, stride=2, padding=1)
        narrow(self)

    def reads_latents(self) -> list[Tensor]:
        """What reads the latents first, (out, latent): see `diptych.latent.directions`."""
        return [self.project.weight[:, : self.latent]]

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent), label (B,) int64 or (B, K); without a label the mean of all is taken."""
        if self.label is not None:
            z = torch.cat([z, self.label(label, z.shape[0])], 1)
        x = self.project(z).unflatten(1, self.base).permute(0, 3, 1, 2)
        x = F.relu(self.norm(x))
        for stage in self.stages:
            x = stage(x)
        _, height, width = self.image_shape
        return torch.tanh(self.to_image(x)[:, :, :height, :width])


@saveable
class DCCritic(nn.Module):
    """From images (B, C, H, W), and labels, to logits (B,)."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        width: int = 128,
        largest: int = 1024,
    ) -> None:
        super().__init__()
        doublings, height, wide = doubled(image_shape)
        channels = widths(width, doublings - 1, largest)[::-1]
        self.multiple = 2**doublings
        self.from_image = nn.Conv2d(image_shape[0], channels[0], 4, stride=2, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, wider, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for c, wider in pairwise(channels)
        )
        c = channels[-1]
        self.label = label_vector(c, classes, attributes)
        self.join = None if self.label is None else nn.Conv2d(2 * c, c, 1)
        self.project = nn.Linear(c * height * wide, 1)
        narrow(self)

    def parts(self) -> list[nn.Module]:
        """Those that can be frozen, from the image on."""
        last = [m for m in (self.label, self.join, self.project) if m is not None]
        return [self.from_image, *self.stages, nn.ModuleList(last)]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """image (B, C, H, W) in [-1, 1], label (B,) int64 or (B, K)."""
        x = self.from_image(padded(image, self.multiple))
        x = F.leaky_relu(x, 0.2)
        for stage in self.stages:
            x = stage(x)
        if self.label is not None and self.join is not None:
            told = self.label(label, x.shape[0])[:, :, None, None].expand_as(x)
            x = F.leaky_relu(self.join(torch.cat([x, told], 1)), 0.2)
        with full_precision(x):
            return self.project(at_least_float32(x).flatten(1)).squeeze(1)  # type: ignore[no-any-return]


def narrow(network: nn.Module) -> None:
    """Weights of deviation 0.02 around 0, or around 1 for batch norms (section 4); biases at zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
