"""DINOv2 (Oquab et al., 2023, arXiv:2304.07193), the features of FD-DINOv2.

Stein et al., 2023, arXiv:2306.04675. As in its dgm-eval: ViT-L/14, the normalised class token, images
stretched to 224x224 by Pillow's bicubic, ImageNet's mean and deviation. The published weights are for
518x518; their positions are shrunk to 16x16 patches as facebookresearch/dinov2 does it (bicubic, by a factor
of 16.1 / 37), which transformers does slightly otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from diptych.features._hub import folder_of, network, normalized
from diptych.features.extractor import Extractor

PUBLISHED = "facebook/dinov2-large"
SIZE = 224
OFFSET = 0.1  # added to the number of patches before the factor is taken; the published weights expect it
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(where: str = "") -> Extractor:
    """The extractor from a folder or a name on the hub; PUBLISHED where none is given.

    Raises WrongUse or RunError where it is not there, of another network, or damaged.
    """
    folder = folder_of(where or PUBLISHED, "dinov2")
    net, sha256 = network("Dinov2Model", folder, ["dinov2"])
    return DINOv2(net, sha256)


class DINOv2(Extractor):
    """The class token of a DINOv2 vision transformer after its last layer norm."""

    name = "dinov2"
    resize = "Pillow's bicubic (antialiased, 8 bits) to 224x224"
    block = 16
    views: Mapping[str, int]

    def __init__(self, net: Any, sha256: str) -> None:
        super().__init__()
        self.sha256 = sha256
        self.dim = int(net.config.hidden_size)
        self.views = {"pooled": self.dim}
        self.net = net
        positions = _positions(net.embeddings.position_embeddings.detach(), SIZE // net.config.patch_size)
        # with as many positions as patches, transformers leaves them alone
        net.embeddings.position_embeddings = nn.Parameter(positions, requires_grad=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"pooled": self.net(normalized(image, SIZE, MEAN, DEVIATION)).pooler_output}


def _positions(known: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + side^2, D) of (1, 1 + M^2, D); the first belongs to the class token."""
    before = round((known.shape[1] - 1) ** 0.5)
    if before == side:
        return known
    grid = known[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    factor = (side + OFFSET) / before
    grid = interpolate(grid, scale_factor=(factor, factor), mode="bicubic", align_corners=False)
    return torch.cat([known[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
