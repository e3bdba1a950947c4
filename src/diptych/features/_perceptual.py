"""A perceptual distance in the eyes of the built-in ruler, differentiable: unit vectors of its maps,
compared place by place, in the form of LPIPS (Zhang et al., 2018, arXiv:1801.03924) with equal weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.features.diptych_1 import Diptych1, canvas
from diptych.features.extractor import extractor, to_rgb


class Perceptual(nn.Module):
    """Images as vectors whose squared distance is a perceptual one, plus a weight times the pixels' MSE."""

    def __init__(self, pixels: float = 1.0, device: torch.device | str = "cpu") -> None:
        super().__init__()
        ruler = extractor("diptych-1", device)
        assert isinstance(ruler, Diptych1)
        self.network, self.pixels = ruler.network, pixels

    def forward(self, image: Tensor) -> Tensor:
        """(B, E) of images (B, C, H, W) in [-1, 1], C = 1, 3 or 4."""
        seen = canvas(to_rgb((image.float() + 1) * 127.5)).contiguous(memory_format=torch.channels_last)
        parts = [normalize(level, dim=1) / (level[0, 0].numel() ** 0.5) for level in self.network.maps(seen)]
        parts.append(image.float() * (self.pixels / image[0].numel()) ** 0.5)
        return torch.cat([part.flatten(1) for part in parts], 1)
