"""Damage planted in images with a known strength, to see whether a measure notices it and grows with it.

Strength runs from 0 (the very same bytes) to 1. With one seed the damage is nested: the noise is one
pattern, scaled; the blocks swapped at 0.2 are among those swapped at 0.4. Transparency is moved where
pixels move, and left alone where only colours change.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, pad

from diptych.errors import DataError, WrongUse

NOISE = 64.0  # standard deviation at strength 1, of 255
BLUR = 1 / 16  # standard deviation at strength 1, of the shorter side, but at least a pixel
WORST_JPEG = 0.05  # quality at strength 1, of 100
BLOCKS = 8  # blocks along the shorter side
SHIFT = 80.0  # how far colours move at strength 1, of 255

UInt8 = npt.NDArray[np.uint8]
Damage = Callable[[Tensor, float, int], Tensor]


def noise(images: Tensor, strength: float, seed: int) -> Tensor:
    """Gaussian noise of standard deviation 64 * strength on the colours of uint8 (N, C, H, W)."""
    if _none(images, strength):
        return images.clone()
    colour, alpha = _split(images)
    # drawn by NumPy image after image, so that the first of many images are damaged as they are alone
    pattern = np.random.default_rng([seed, 0x4015E]).standard_normal(tuple(colour.shape), np.float32)
    values = colour.float() + NOISE * strength * torch.from_numpy(pattern).to(images.device)
    return torch.cat([_bytes(values), alpha], 1)


def blur(images: Tensor, strength: float, seed: int) -> Tensor:
    """Gaussian blur whose variance grows as strength, to (1/16 of the shorter side)^2; `seed` is not used."""
    if _none(images, strength):
        return images.clone()
    n, channels, height, width = images.shape
    sigma = strength**0.5 * max(1.0, BLUR * min(height, width))
    margin = max(1, int(np.ceil(3 * sigma)))
    # integrated over each pixel: a narrow Gaussian sampled at pixel centres would do nothing at all
    edge = torch.arange(-margin, margin + 2, dtype=torch.float32, device=images.device) - 0.5
    kernel = torch.erf(edge / (2**0.5 * sigma)).diff()
    kernel /= kernel.sum()
    values = images.reshape(n * channels, 1, height, width).float()
    values = conv2d(pad(values, (0, 0, margin, margin), mode="replicate"), kernel.view(1, 1, -1, 1))
    values = conv2d(pad(values, (margin, margin, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return _bytes(values).reshape(images.shape)


def jpeg(images: Tensor, strength: float, seed: int) -> Tensor:
    """JPEG without chroma subsampling, of quality 100 * 0.05^strength; `seed` is not used."""
    if _none(images, strength):
        return images.clone()
    colour, alpha = _split(images)
    quality = max(1, round(100 * WORST_JPEG**strength))
    pixels = colour.permute(0, 2, 3, 1).cpu().numpy()
    coded = np.stack([_through_jpeg(image, quality) for image in pixels])
    return torch.cat([torch.from_numpy(coded).permute(0, 3, 1, 2).to(images.device), alpha], 1)


def block_swap(images: Tensor, strength: float, seed: int) -> Tensor:
    """A share `strength` of square blocks, each of 1/8 of the shorter side, trades places in its image."""
    if _none(images, strength):
        return images.clone()
    n, channels, height, width = images.shape
    size = max(2, min(height, width) // BLOCKS)
    rows, columns = height // size, width // size
    pairs = rows * columns // 2
    if not pairs:
        return images.clone()
    inside = images[:, :, : rows * size, : columns * size]
    blocks = inside.reshape(n, channels, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
    blocks = blocks.reshape(n, rows * columns, -1)
    order = _swaps(n, rows * columns, strength, seed).to(images.device)
    blocks = blocks.gather(1, order[:, :, None].expand_as(blocks))
    blocks = blocks.reshape(n, rows, columns, channels, size, size).permute(0, 3, 1, 4, 2, 5)
    swapped = images.clone()
    swapped[:, :, : rows * size, : columns * size] = blocks.reshape(inside.shape)
    return swapped


def colour_shift(images: Tensor, strength: float, seed: int) -> Tensor:
    """Colours move by 80 * strength towards one hue; grey images lose contrast and get lighter or darker."""
    if _none(images, strength):
        return images.clone()
    colour, alpha = _split(images)
    rng = np.random.default_rng([seed, 0xC0105])
    values = colour.float()
    if colour.shape[1] == 1:
        towards = 127.5 + float(rng.choice([-1, 1])) * SHIFT / 2
        values = values + 0.5 * strength * (towards - values)
    else:
        angle = rng.random() * 2 * np.pi + np.arange(3) * 2 * np.pi / 3
        hue = torch.tensor(np.cos(angle), dtype=torch.float32, device=images.device)
        values = values + SHIFT * strength * hue[:, None, None]
    return torch.cat([_bytes(values), alpha], 1)


DAMAGES: Mapping[str, Damage] = {
    "noise": noise,
    "blur": blur,
    "jpeg": jpeg,
    "block_swap": block_swap,
    "colour_shift": colour_shift,
}


def drop_modes(images: Tensor, labels: Tensor, strength: float, seed: int) -> Tensor:
    """Images (N, C, H, W) without a share `strength` of their classes: others of those that stay stand in.

    One class always stays; what is dropped at a lower strength is dropped at a higher one too.
    """
    if _none(images, strength):
        return images.clone()
    if len(labels) != len(images):
        raise WrongUse(f"there are {len(images)} images but {len(labels)} labels", "one label an image")
    rng = np.random.default_rng([seed, 0xD409])
    kinds = rng.permutation(np.unique(labels.cpu().numpy()))
    gone = kinds[: min(round(strength * len(kinds)), len(kinds) - 1)]
    lost = np.isin(labels.cpu().numpy(), gone)
    # each place walks one shuffled list from its own start to the first image whose class stays
    shuffled, start = rng.permutation(len(images)), rng.permutation(len(images))
    staying = np.flatnonzero(~lost[shuffled])
    found = shuffled[staying[np.searchsorted(staying, start) % len(staying)]]
    place = np.where(lost, found, np.arange(len(images)))
    return images[torch.from_numpy(place).to(images.device)]


def invent_modes(images: Tensor, strength: float, seed: int, strangers: Tensor) -> Tensor:
    """Images (N, C, H, W), a share `strength` of which gives way to `strangers` (M, C, H, W)."""
    if images.shape[1:] != strangers.shape[1:]:
        raise WrongUse(
            f"the images are {tuple(images.shape[1:])} but the strangers {tuple(strangers.shape[1:])}",
            "both have the same channels, height and width",
        )
    if _none(images, strength):
        return images.clone()
    if not len(strangers):
        raise DataError("there are no strangers to invent modes with", "give at least one image")
    rng = np.random.default_rng([seed, 0x14E7])
    order, guests = rng.permutation(len(images)), rng.permutation(len(strangers))
    places = torch.from_numpy(order[: round(strength * len(images))]).to(images.device)
    chosen = torch.from_numpy(np.resize(guests, len(images))[: len(places)]).to(strangers.device)
    changed = images.clone()
    changed[places] = strangers[chosen].to(images.device)
    return changed


def _none(images: Tensor, strength: float) -> bool:
    """Whether there is nothing to do. Raises WrongUse where strength or images cannot be meant."""
    if not 0 <= strength <= 1:
        raise WrongUse(f"strength is {strength}", "0 leaves images as they are, 1 is the worst damage")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise WrongUse(
            f"images are {images.dtype} {tuple(images.shape)}", "uint8 (N, C, H, W) with C = 1, 3 or 4"
        )
    return strength == 0 or not len(images)


def _split(images: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (N, 1 or 3, H, W) and transparency (N, 0 or 1, H, W)."""
    colours = 1 if images.shape[1] == 1 else 3
    return images[:, :colours], images[:, colours:]


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _through_jpeg(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], quality: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """One image (H, W, 1 or 3), coded and decoded."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        file, "JPEG", quality=quality, subsampling=0
    )
    return np.asarray(Image.open(file)).reshape(pixels.shape)


def _swaps(n: int, blocks: int, strength: float, seed: int) -> Tensor:
    """For each of n images, which block (n, blocks) lies where once its first pairs have traded places."""
    rng = np.random.default_rng([seed, 0xB10C])
    draws = rng.random((n, blocks + 1))  # a row an image, so that images do not depend on each other
    pairs = draws[:, 1:].argsort(1)[:, : blocks // 2 * 2].reshape(n, -1, 2)
    # rounded up or down by a coin that is fixed for the image: the mean count follows the strength exactly
    count = (strength * pairs.shape[1] + draws[:, 0]).astype(np.int64)
    traded = (np.arange(pairs.shape[1]) < count[:, None])[:, :, None]
    order = np.tile(np.arange(blocks), (n, 1))
    np.put_along_axis(
        order,
        pairs.reshape(n, -1),
        np.where(traded, pairs[:, :, ::-1], pairs).reshape(n, -1),
        axis=1,
    )
    return torch.from_numpy(order)
