"""Two views of an image: cropped, mirrored, recoloured; one of them perhaps damaged with a known strength."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from ruler_data import Source, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from diptych.measuring.planted import DAMAGES

KINDS = tuple(DAMAGES)
# canvas: how often it is drawn, images in a batch
CANVASES = {32: (0.62, 64), 48: (0.14, 32), 64: (0.14, 20), 96: (0.06, 10), 128: (0.04, 8)}
# how often a set is drawn on the canvas of 32, and on larger ones; no set makes more than a third
SMALL = {"fashion_mnist": 0.2, "mnist": 0.14, "noto_emoji": 0.14, "lpc_sprites": 0.08, "fsdd": 0.05,
         "flowers": 0.16, "dreambooth_subjects": 0.04, "caltech_photos": 0.15, "shapes": 0.04}  # fmt: skip
LARGE = {"noto_emoji": 0.2, "lpc_sprites": 0.12, "fsdd": 0.05, "flowers": 0.28, "dreambooth_subjects": 0.06,
         "caltech_photos": 0.24, "shapes": 0.05}  # fmt: skip


class Views(NamedTuple):
    """A batch: B images, two views of each, what they show, and what was done to the second view."""

    image: Tensor  # (2B, 3, H, W) in [-1, 1], first all first views
    label: Tensor  # (B,) joint class
    damage: Tensor  # (B,) 0 = none, else 1 + the number of the kind
    strength: Tensor  # (B,) in [0, 1]


class Sampler:
    """Draws batches of views, each a pure function of (seed, step)."""

    def __init__(self, sources: list[Source], seed: int) -> None:
        self.sources, self.seed = {source.name: source for source in sources}, seed
        counts = [len(source.classes) for source in sources]
        self.first = dict(zip(self.sources, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))

    def batch(self, step: int, canvas: int = 0) -> Views:
        """The batch of this step, of a canvas drawn by chance unless one is given."""
        rng = np.random.default_rng([self.seed, step])
        sizes = list(CANVASES)
        drawn = int(rng.choice(sizes, p=[CANVASES[size][0] for size in sizes]))
        size = canvas or drawn
        shares = SMALL if size == 32 else LARGE
        views: list[list[Tensor]] = [[], []]
        labels, damages, strengths = [], [], []
        for name in rng.choice(list(shares), CANVASES[size][1], p=list(shares.values())):
            source = self.sources[str(name)]
            at = int(rng.integers(len(source.train.images)))
            image = source.train.images[at]
            # a small picture is made smaller by chance: that is what enlarging to the canvas meets
            native = int(rng.integers(8, 29)) if size == 32 and rng.random() < 0.15 else 0
            kind = int(rng.integers(len(KINDS) + 1)) if rng.random() < 0.5 else 0
            strength = float(rng.random() ** 2) * 0.97 + 0.03 if kind else 0.0
            views[0].append(view(image, size, native, source.mirrors, rng))
            views[1].append(view(image, size, native, source.mirrors, rng, kind, strength))
            labels.append(self.first[str(name)] + source.train.labels[at])
            damages.append(kind)
            strengths.append(strength)
        both = torch.cat(views[0] + views[1]).float() / 127.5 - 1
        return Views(both, torch.tensor(labels), torch.tensor(damages), torch.tensor(strengths))


def view(
    image: UInt8,
    size: int,
    native: int,
    mirrors: bool,
    rng: np.random.Generator,
    kind: int = 0,
    strength: float = 0.0,
) -> Tensor:
    """One view, uint8 (1, 3, size, size), of an image (H, W, C)."""
    value = torch.from_numpy(laid_on_a_ground(image, rng)).permute(2, 0, 1)[None]
    value = cropped(value, rng)
    if mirrors and rng.random() < 0.5:
        value = value.flip(3)
    # a picture smaller than the canvas is damaged before it is enlarged, as a user's would be
    side = native or min(size, max(value.shape[2:]) + 4)
    side = side if side < size else size
    value = resized(value, side)
    value = recoloured(value, rng)
    if kind:
        grey = bool((value == value[:, :1]).all())
        value = value[:, :1] if grey else value
        value = DAMAGES[KINDS[kind - 1]](value, strength, int(rng.integers(2**31)))
    return resized(value, size).expand(1, 3, size, size)


def laid_on_a_ground(image: UInt8, rng: np.random.Generator) -> UInt8:
    """An image (H, W, C) without transparency: on white, as the ruler lays it, or on a colour."""
    if image.shape[2] != 4:
        return image
    ground = np.full(3, 255.0) if rng.random() < 0.6 else rng.uniform(0, 255, 3)
    opacity = image[..., 3:] / 255.0
    return np.rint(image[..., :3] * opacity + ground * (1 - opacity)).astype(np.uint8)


def cropped(value: Tensor, rng: np.random.Generator) -> Tensor:
    """A part of at least 60 % of the area, nearly square, or now and then the whole."""
    if rng.random() < 0.25:
        return value
    height, width = value.shape[2:]
    scale, aspect = rng.uniform(0.6, 1.0) ** 0.5, rng.uniform(0.87, 1.15) ** 0.5
    h, w = min(height, round(height * scale * aspect)), min(width, round(width * scale / aspect))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return value[:, :, top : top + h, left : left + w]


def recoloured(value: Tensor, rng: np.random.Generator) -> Tensor:
    """Mild changes of brightness, contrast and saturation; grey images may be inverted or tinted."""
    if rng.random() < 0.4:
        return value
    pixels = value.float()
    if value.shape[1] == 1:
        if rng.random() < 0.15:
            pixels = 255 - pixels
        if rng.random() < 0.25:
            ends = torch.from_numpy(rng.uniform(0, 255, (2, 1, 3, 1, 1))).float()
            pixels = ends[0] + (ends[1] - ends[0]) * pixels / 255
    else:
        grey = pixels.mean(1, keepdim=True)
        amount = 0.0 if rng.random() < 0.1 else float(rng.uniform(0.75, 1.25))
        pixels = grey + amount * (pixels - grey)
    pixels = (pixels - 127.5) * float(rng.uniform(0.85, 1.15)) + 127.5 + float(rng.uniform(-15, 15))
    return pixels.round().clamp(0, 255).to(torch.uint8)


def resized(value: Tensor, size: int) -> Tensor:
    """uint8 (1, C, size, size), bilinear, antialiased where it shrinks."""
    if value.shape[2:] == (size, size):
        return value
    return interpolate(value, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
