"""DDPM++ and NCSN++, the U-Nets of score-based models (Song et al., 2021, arXiv:2011.13456, appendix H),
as EDM trains them (Karras et al., 2022, arXiv:2206.00364, appendix F.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diptych.errors import WrongUse, did_you_mean
from diptych.networks.blocks import Attention, Block, Decoder, Encoder, Levels, Resample, Style, norm
from diptych.networks.embedding import Sinusoids
from diptych.networks.labels import LabelEmbedding
from diptych.networks.shapes import padded
from diptych.saveable import saveable

DDPMPP = {"embedding": "positional", "encoder": "standard", "taps": (1, 1)}
NCSNPP = {"embedding": "fourier", "encoder": "residual", "taps": (1, 3, 3, 1)}


@saveable
class NCSNpp(nn.Module):
    """Reads (B, C, H, W), a level or time and a label; returns (B, out_channels, H, W). By default DDPM++.

    `NCSNpp(shape, **NCSNPP)` is NCSN++. Any H and W: pads and crops inside. embedding "positional" wants
    times of about 0 to 1000 or, as EDM, logarithms of levels, "fourier" the latter; decoder "skip" adds up an
    image from all levels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        classes: int = 0,
        attributes: int = 0,
        out_channels: int = 0,  # 0: the image's
        width: int = 128,
        multipliers: tuple[float, ...] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: tuple[int, ...] = (16,),
        dropout: float = 0.1,
        embedding: str = "positional",
        encoder: str = "standard",
        decoder: str = "standard",
        taps: tuple[int, ...] = (1, 1),
        scale: float = math.sqrt(0.5),  # of each sum with a skip connection
        adaptive: bool = False,
        checkpointing: bool = False,
        augments: int = 0,  # numbers that say how an image was augmented; at sampling there are none
    ) -> None:
        super().__init__()
        if width % 2:
            raise WrongUse(f"width must be even, not {width}", "noise levels are read as cosines and sines")
        for what, name, known in (
            ("embedding", embedding, ["positional", "fourier"]),
            ("encoder", encoder, ["standard", "residual"]),
            ("decoder", decoder, ["standard", "skip"]),
        ):
            if name not in known:
                raise WrongUse(f"there is no {what} called {name}", did_you_mean(name, known))
        self.image_shape, self.classes, self.attributes = image_shape, classes, attributes
        levels = Levels.of(image_shape, width, multipliers, attention, blocks)
        style = Style(
            4 * width, dropout, 0, adaptive, scale, tuple(taps), True, eps=1e-6, checkpointing=checkpointing
        )
        fourier = embedding == "fourier"
        inner, told = (2 * width if fourier else width), style.embedding
        self.level = Fourier(inner) if fourier else Sinusoids(inner, endpoint=True)
        self.label = LabelEmbedding(inner, classes=classes, attributes=attributes)
        self.augment = nn.Linear(augments, inner, bias=False) if augments else None
        self.mapping = nn.Sequential(nn.Linear(inner, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.encoder = Encoder(image_shape[0], width, levels, style, pyramid=encoder == "residual")
        self.decoder = Decoder(self.encoder.skips, levels, style, often=False)
        out = out_channels or image_shape[0]
        ends = levels.channels if decoder == "skip" else levels.channels[:1]
        self.heads = nn.ModuleList(
            nn.Sequential(norm(c, 1e-6), nn.SiLU(), nn.Conv2d(c, out, 3, padding=1)) for c in reversed(ends)
        )
        self.grow, self.multiple = Resample(out, "up", taps), levels.multiple
        self.apply(begin)
        for head in self.heads:
            begin_small(head[-1])  # type: ignore[index]

    def forward(
        self, x: Tensor, level: Tensor, label: Tensor | None = None, done: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W); level (B,) or (1,); label as in LabelEmbedding.

        done (B, augments): how each image was augmented; None: not at all.
        """
        _, height, width = self.image_shape
        embedding, labelled = self.level(level), self.label(label, x.device)
        if self.augment is not None and done is not None:
            embedding = embedding + self.augment(done)
        embedding = self.mapping(embedding if labelled is None else embedding + labelled)
        x, skips = self.encoder(padded(x, self.multiple), embedding)
        found = self.decoder(x, skips, embedding)[-len(self.heads) :]
        image = self.heads[0](found[0])
        for head, features in zip(list(self.heads)[1:], found[1:], strict=True):
            image = self.grow(image) + head(features)
        return image[:, :, :height, :width]  # type: ignore[no-any-return]


class Fourier(nn.Module):
    """A number as cosines and sines of random frequencies (Tancik et al., 2020, arXiv:2006.10739)."""

    frequencies: Tensor

    def __init__(self, width: int, deviation: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width // 2) * (2 * math.pi * deviation))

    def forward(self, level: Tensor) -> Tensor:
        """(B,) to (B, width)."""
        angle = level.float()[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)


def begin(module: nn.Module) -> None:
    """Glorot's uniform weights, no biases; what ends a branch begins next to zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Block):
        begin_small(module.conv2)
    elif isinstance(module, Attention):
        with torch.no_grad():
            module.qkv.weight.mul_(math.sqrt(0.2))
        begin_small(module.out)


def begin_small(layer: nn.Module) -> None:
    """Glorot's uniform weights, times 1e-5."""
    with torch.no_grad():
        nn.init.xavier_uniform_(layer.weight).mul_(1e-5)  # type: ignore[arg-type]
