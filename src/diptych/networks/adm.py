"""ADM, the ablated diffusion model's U-Net (Dhariwal and Nichol, 2021, arXiv:2105.05233, section 3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from diptych.networks.blocks import Decoder, Encoder, Levels, Style, norm, zeroed
from diptych.networks.embedding import TimeEmbedding
from diptych.networks.labels import LabelEmbedding
from diptych.networks.shapes import padded
from diptych.saveable import saveable


@saveable
class ADM(nn.Module):
    """Reads (B, C, H, W), a time and a label; returns (B, out_channels, H, W). The defaults are for 64x64.

    Any H and W: pads and crops inside. attention: at these resolutions; 32 means 17 to 32 pixels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        out_channels: int = 0,  # 0: the image's; twice as many where variances are learned
        width: int = 192,
        multipliers: tuple[float, ...] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: tuple[int, ...] = (32, 16, 8),
        dropout: float = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        levels = Levels.of(image_shape, width, multipliers, attention, blocks)
        style = Style(4 * width, dropout, checkpointing=checkpointing)
        self.time = TimeEmbedding(width, style.embedding)
        self.label = LabelEmbedding(style.embedding, classes=classes, attributes=attributes)
        self.encoder = Encoder(image_shape[0], levels.channels[0], levels, style)
        self.decoder = Decoder(self.encoder.skips, levels, style, often=True)
        c = levels.channels[0]
        last = zeroed(nn.Conv2d(c, out_channels or image_shape[0], 3, padding=1))
        self.head, self.multiple = nn.Sequential(norm(c), nn.SiLU(), last), levels.multiple

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); time (B,) or (1,), about 0 to 1000; label as in LabelEmbedding."""
        _, height, width = self.image_shape
        embedding, labelled = self.time(time), self.label(label, x.device)
        embedding = F.silu(embedding if labelled is None else embedding + labelled)
        x, skips = self.encoder(padded(x, self.multiple), embedding)
        x = self.decoder(x, skips, embedding)[-1]
        return self.head(x)[:, :, :height, :width]  # type: ignore[no-any-return]


def multipliers_for(shortest: int) -> tuple[int, ...]:
    """Multipliers by an image's shorter side: ADM's from 64 on; the coarsest level has 4 to 8 pixels."""
    sizes: dict[int, tuple[int, ...]] = {
        192: (1, 1, 2, 2, 4, 4),
        96: (1, 1, 2, 3, 4),
        48: (1, 2, 3, 4),
        16: (1, 2, 2),
        8: (1, 2),
    }
    return next((found for least, found in sizes.items() if shortest >= least), (1,))
