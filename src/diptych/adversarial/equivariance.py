"""How well images follow when what they are made from is moved or turned: EQ-T and EQ-R (StyleGAN3, Karras et
al., 2021, arXiv:2106.12423, section 3 and appendix E)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.adversarial.latent import GeneratorModel
from diptych.errors import NotMeasurable
from diptych.model import Condition, Noise
from diptych.networks.bands import square
from diptych.networks.filters import filter2d, upfirdn2d, upsample2d

LOBES = 3  # of Lanczos windows, on each side
FINE = 4  # samples to a pixel where an image is turned


@torch.inference_mode()
def transform_errors(
    model: GeneratorModel,
    n: int = 64,
    *,
    batch: int = 8,
    seed: int = 0,
    most: float = 0.125,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Over n images, a transform for each batch: translations of up to `most` of the side, all rotations.

    {"eq_t": by whole pixels, "eq_t_frac": by parts of pixels as well, "eq_r": by any angle}: sums of squared
    errors of images whose values span 2, and how many values, float64 (transforms, 2). Raises NotMeasurable
    for a generator that does not begin with something that can be moved.
    """
    model, side = model.eval(), max(model.image_shape[1:])
    stream = torch.Generator().manual_seed(seed)
    errors: dict[str, list[Tensor]] = {"eq_t": [], "eq_t_frac": [], "eq_r": []}
    for start in range(0, n, batch):
        seeds = range(seed + start, seed + min(n, start + batch))
        noise, condition = Noise(seeds, device), Condition(label=model.labels_for(seeds)).to(device)
        latents = model.latents(noise, condition)
        still = model.render(latents, condition)
        x, y = ((2 * torch.rand(2, generator=stream) - 1) * most * side).tolist()
        angle = float((2 * torch.rand((), generator=stream) - 1) * math.pi)
        for name, shift, by in (
            ("eq_t", shifted, (round(x), round(y))),
            ("eq_t_frac", lanczos_shifted, (x, y)),
        ):
            with transformed(model.network, translation(*by)):
                moved = model.render(latents, condition)
            errors[name].append(masked_error(moved, *shift(still, *by)))
        with transformed(model.network, rotation(angle)):
            moved = model.render(latents, condition)
        turned, seen = rotated(still, angle)
        band, inside = pseudo_rotated(moved, angle)
        errors["eq_r"].append(masked_error(band, turned, seen * inside))
    return {name: torch.stack(rows) for name, rows in errors.items()}


def masked_error(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Sum of squared differences where the mask (H, W) is 1, and the number of values, float64 (2,)."""
    mask = mask.expand_as(x).cpu().double()  # not every device has float64
    return torch.stack([((x.cpu().double() - y.cpu().double()).square() * mask).sum(), mask.sum()])


def translation(dx: float, dy: float) -> Tensor:
    """(3, 3), in pixels, to the right and down."""
    return torch.tensor([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])


def rotation(angle: float) -> Tensor:
    """(3, 3), around the middle of the image, clockwise on a screen."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@contextmanager
def transformed(network: nn.Module, matrix: Tensor) -> Iterator[None]:
    """While it lasts, what the network begins with is moved so (3, 3), in pixels from the image's middle.

    Fourier features take it as it is; a learned constant is taken for a periodic signal.
    """
    synthesis = getattr(network, "synthesis", None)
    inverse = torch.linalg.inv(matrix)
    place: Tensor | None = getattr(getattr(synthesis, "input", None), "transform", None)
    if place is not None:
        inverse[:2, 2] /= square(network.image_shape)  # type: ignore[arg-type]
    else:
        blocks = getattr(synthesis, "blocks", None)
        place = getattr(blocks[0], "start", None) if blocks else None
        if place is None:
            raise NotMeasurable(
                f"{type(network).__name__} begins with nothing that could be moved",
                "stylegan2 and stylegan3 begin with a constant and with Fourier features",
            )
        cell = 2 ** (len(blocks) - 1)  # type: ignore[arg-type]
        inverse = periodic(place, inverse, cell, network.image_shape)  # type: ignore[arg-type]
    before = place.detach().clone()
    place.data.copy_(inverse)
    try:
        yield
    finally:
        place.data.copy_(before)


def periodic(constant: Tensor, inverse: Tensor, cell: int, image_shape: tuple[int, int, int]) -> Tensor:
    """A constant (C, h, w), of cells of so many pixels, sampled at transformed places as the trigonometric
    polynomial through its values."""
    _, h, w = constant.shape
    y, x = (
        (torch.arange(n) + 0.5) * cell - size / 2 for n, size in zip((h, w), image_shape[1:], strict=True)
    )
    grid = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(h, w)])  # (3, h, w)
    places = torch.einsum("ij,jhw->ihw", inverse, grid)
    columns, rows = ((places[i] + image_shape[2 - i] / 2) / cell - 0.5 for i in (0, 1))
    weight = dirichlet(rows[..., None] - torch.arange(h), h)[..., :, None]
    weight = weight * dirichlet(columns[..., None] - torch.arange(w), w)[..., None, :]
    return torch.einsum("crs,hwrs->chw", constant.detach().float().cpu(), weight)


def dirichlet(x: Tensor, n: int) -> Tensor:
    """The periodic sinc of n samples: 1 at 0, 0 at the other samples, real for even n as well."""
    frequency = torch.arange(n) - (n - 1) // 2
    share = torch.ones(n)
    if n % 2 == 0:
        frequency, share = torch.arange(n + 1) - n // 2, torch.ones(n + 1)
        share[0] = share[-1] = 0.5  # the highest frequency, half of it at each end
    return (share * torch.cos(2 * math.pi / n * x[..., None] * frequency)).sum(-1) / n


def shifted(image: Tensor, dx: int, dy: int) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) moved by whole pixels, and where (H, W) there is something (appendix E.1)."""
    edges = (dx, -dx, dy, -dy)
    return F.pad(image, edges), F.pad(torch.ones_like(image[0, 0]), edges)


def lanczos_shifted(image: Tensor, dx: float, dy: float) -> tuple[Tensor, Tensor]:
    """Images moved by parts of pixels, by a Lanczos filter, and where it saw pixels only (appendix E.2)."""
    k = torch.arange(1 - LOBES, 1 + LOBES, device=image.device)
    down, right = (lanczos(k - (d - math.floor(d))) for d in (dy, dx))
    moved = upfirdn2d(
        image, (down / down.sum()).outer(right / right.sum()), padding=(LOBES, LOBES - 1, LOBES, LOBES - 1)
    )
    edges = (math.floor(dx), -math.floor(dx), math.floor(dy), -math.floor(dy))
    return F.pad(moved, edges), F.pad(inner(image, LOBES, LOBES - 1), edges)


def rotated(image: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Images turned around their middle, without what would alias, and where (appendix E.3)."""
    b, _, h, w = image.shape
    taps = common_band(angle, FINE).to(image)
    p = taps.shape[0] // 2
    fine = upsample2d(image, taps, FINE, padding=p)
    back = torch.linalg.inv(rotation(angle)).to(image)
    y, x = (torch.arange(n, device=image.device) - (n - 1) / 2 for n in (h, w))
    places = torch.einsum("ij,jhw->ihw", back[:2, :2], torch.stack(torch.meshgrid(x, y, indexing="xy")))
    size = fine.shape[3], fine.shape[2]
    index = [FINE * (places[i] + (n - 1) / 2) + FINE // 2 + p for i, n in enumerate((w, h))]
    grid = torch.stack([(2 * at + 1) / n - 1 for at, n in zip(index, size, strict=True)], -1)
    turned = F.grid_sample(fine, grid.expand(b, -1, -1, -1), align_corners=False)
    inside = [(at.round() > 2 * p) & (at.round() < n - 2 * p - 1) for at, n in zip(index, size, strict=True)]
    return turned, (inside[0] & inside[1]).float()


def pseudo_rotated(image: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Images without the frequencies that turning them back would have lost, and where (appendix E.3)."""
    taps = common_band(-angle, 1).to(image)
    return filter2d(image, taps), inner(image, taps.shape[0] // 2, taps.shape[0] // 2)


def inner(image: Tensor, before: int, after: int) -> Tensor:
    """(H, W), 0 for so many pixels at each edge and 1 between them."""
    mask = torch.zeros_like(image[0, 0])
    mask[before : mask.shape[0] - after, before : mask.shape[1] - after] = 1
    return mask


def common_band(angle: float, up: int, reach: int = 2 * LOBES, period: int = 64) -> Tensor:
    """A filter of what the pixels of an image and those of the turned one can both show.

    The convolution of two sincs, one turned, under the convolution of two Lanczos windows; up samples to a
    pixel, `reach` pixels to each side. Each of its up^2 phases sums to 1 / up^2.
    """
    n = 2 * period * up - 1
    x = (torch.arange(n) - n // 2) / up
    straight = torch.meshgrid(x, x, indexing="xy")
    c, s = math.cos(angle), math.sin(angle)
    turned = c * straight[0] - s * straight[1], s * straight[0] + c * straight[1]
    parts = []
    for function in (torch.sinc, lanczos_window):
        spectra = [
            torch.fft.fft2(torch.fft.ifftshift(function(u) * function(v))) for u, v in (straight, turned)
        ]
        parts.append(torch.fft.fftshift(torch.fft.ifft2(spectra[0] * spectra[1]).real))
    cut = (period - reach) * up
    found = F.pad((parts[0] * parts[1])[cut:-cut, cut:-cut], (0, 1, 0, 1))
    phases = found.view(2 * reach, up, 2 * reach, up)
    phases = phases / (phases.sum((0, 2), keepdim=True) * up**2)
    return phases.reshape(found.shape)[:-1, :-1]


def lanczos(x: Tensor) -> Tensor:
    """sinc(x) sinc(x / a) within a lobes, 0 beyond."""
    return torch.sinc(x) * lanczos_window(x)


def lanczos_window(x: Tensor) -> Tensor:
    """sinc(x / a) within a lobes, 0 beyond."""
    return torch.sinc(x / LOBES) * (x.abs() < LOBES)
