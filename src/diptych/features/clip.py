"""CLIP (Radford et al., 2021, arXiv:2103.00020), the features of CMMD.

Jayasumana et al., 2024, arXiv:2401.09603. As in its code: ViT-L/14 at 336x336, the centre square by Pillow's
bicubic, CLIP's mean and deviation, the image embedding projected to the space that it shares with texts, at
unit length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from diptych.features._hub import folder_of, network, normalized
from diptych.features.extractor import Extractor

PUBLISHED = "openai/clip-vit-large-patch14-336"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build(where: str = "") -> Extractor:
    """The extractor from a folder or a name on the hub; PUBLISHED where none is given.

    Raises WrongUse or RunError where it is not there, of another network, or damaged.
    """
    folder = folder_of(where or PUBLISHED, "clip")
    net, sha256 = network("CLIPVisionModelWithProjection", folder, ["clip", "clip_vision_model"])
    return CLIP(net, sha256)


class CLIP(Extractor):
    """Image embeddings of unit length."""

    name = "clip"
    block = 16
    views: Mapping[str, int]

    def __init__(self, net: Any, sha256: str) -> None:
        super().__init__()
        self.sha256 = sha256
        self.size = int(net.config.image_size)
        self.dim = int(net.config.projection_dim)
        self.views = {"pooled": self.dim}
        self.resize = f"centre square, Pillow's bicubic (antialiased, 8 bits) to {self.size}x{self.size}"
        self.net = net

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        pixels = normalized(image, self.size, MEAN, DEVIATION, crop=True)
        return {"pooled": normalize(self.net(pixels).image_embeds, dim=-1)}
