"""Inversion: the latents whose image is nearest to a given one (Abdal et al., 2019, arXiv:1904.03189), sought
as StyleGAN2's projector seeks them (Karras et al., 2020, arXiv:1912.04958, appendix D)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diptych.adversarial.latent import GeneratorModel
from diptych.errors import WrongUse, did_you_mean
from diptych.features._perceptual import Perceptual
from diptych.latent.points import (
    Points,
    labels,
    layout,
    moments,
    rendered,
    sampled,
    styled,
    untruncated,
)
from diptych.model import Condition, Model, Noise, from_uint8

Space = Literal["auto", "w", "w+", "z"]
Watch = Callable[[int], None]  # is told how many images times steps are done


@dataclass(frozen=True)
class InversionOptions:
    """How latents are sought."""

    space: Space = (
        "auto"  # w: one style for all layers; w+: one for each; z: what mapping or network begins at
    )
    steps: int = 500  # of Adam
    lr: float = 0.1  # in standard deviations of the latents
    start: Literal["best", "mean"] = "best"  # the nearest of so many candidates, or the mean latent
    candidates: int = 512
    pixels: float = 1.0  # weight of the pixels' MSE beside the perceptual distance
    jitter: float = 0.05  # noise on latents, times their norm, at the start; it is gone at three quarters
    batch: int = 16  # images at once

    def __post_init__(self) -> None:
        for name, choices in (("space", get_args(Space)), ("start", ("best", "mean"))):
            if getattr(self, name) not in choices:
                raise WrongUse(
                    f"{name} cannot be {getattr(self, name)!r}",
                    did_you_mean(getattr(self, name), list(choices)),
                )
        for name, least, says in (
            ("steps", 1, "at least 1"),
            ("candidates", 1, "at least 1"),
            ("batch", 1, "at least 1"),
            ("lr", math.nextafter(0, 1), "above 0 and finite"),
            ("pixels", 0, "at least 0 and finite"),
            ("jitter", 0, "at least 0 and finite"),
        ):
            value, usual = getattr(self, name), getattr(InversionOptions, name)
            if not least <= value < math.inf:
                raise WrongUse(f"{name} must be {says}, not {value}", f"{usual} is usual")


@dataclass(frozen=True, eq=False)
class Inversion:
    """What was found for N images."""

    space: str  # w, w+ or z
    points: Points
    image: Tensor  # uint8 (N, C, H, W)
    distance: Tensor  # (N,) perceptual, with the weighted pixels
    begin: Tensor  # (N,) the same of the image that the search began at
    mse: Tensor  # (N,) of pixels in [-1, 1]

    @property
    def psnr(self) -> Tensor:
        """(N,) dB."""
        return 10 * (4 / self.mse.clamp(min=1e-12)).log10()

    def facts(self) -> list[dict[str, Any]]:
        """For each image its name and the distances, of the start too."""
        numbers = {"distance": self.distance, "start": self.begin, "mse": self.mse, "psnr": self.psnr}
        rows = zip(self.points.names, *(part.tolist() for part in numbers.values()), strict=True)
        return [dict(zip(("image", *numbers), row, strict=True)) for row in rows]


def invert(
    model: Model,
    image: Tensor,
    *,
    label: Tensor | None = None,
    options: InversionOptions = InversionOptions(),
    names: tuple[str, ...] = (),
    watch: Watch = lambda done: None,
) -> Inversion:
    """The points of latent space whose images are nearest to these, uint8 (N, C, H, W).

    label: () or (K,), of all images; else the one under which a candidate comes nearest. Noise inputs of
    layers stay the constant ones. An image's latents do not depend on the other images.
    """
    generator = untruncated(model).eval()
    if image.dtype != torch.uint8 or tuple(image.shape[1:]) != tuple(generator.image_shape):
        raise WrongUse(
            f"images to invert are uint8 (N, {', '.join(map(str, generator.image_shape))}), "
            f"not {image.dtype} {tuple(image.shape)}",
        )
    chart = Chart(generator, options.space, label)
    eye = Perceptual(options.pixels, generator.device)
    candidates = chart.candidates(options.candidates) if options.start == "best" else chart.middle()
    parts = []
    for begin in range(0, len(image), options.batch):
        target = from_uint8(image[begin : begin + options.batch]).to(generator.device)
        parts.append(found(chart, eye, target, candidates, options, watch, begin * options.steps))
    latents, told, distance, started = zip(*parts, strict=True)
    known = [label for label in told if label is not None]
    points = Points(
        torch.cat(latents), torch.cat(known) if known else None, names or tuple(map(str, range(len(image))))
    )
    shown = rendered(generator, points, options.batch)
    mse = (from_uint8(shown) - from_uint8(image)).square().mean((1, 2, 3))
    return Inversion(chart.space, points, shown, torch.cat(distance), torch.cat(started), mse)


class Chart:
    """Coordinates u (B, l, d) of a latent space, in which latents have mean 0 and about unit variance."""

    def __init__(self, generator: GeneratorModel, space: Space, label: Tensor | None) -> None:
        self.generator, self.label = generator, label
        self.layers, self.width = layout(generator)
        self.styled = styled(generator)
        self.space = space if space != "auto" else "w" if self.styled else "z"
        if self.space != "z" and not self.styled:
            raise WrongUse(f"a model without styles has no space {space}", "its latents are z: --space z")
        if self.space != "z":
            mean, self.deviation = moments(generator, label=label)
            self.mean = mean.to(generator.device)

    def latents(self, u: Tensor, condition: Condition) -> Tensor:
        """(B, L, D), differentiable."""
        if self.space == "z":
            return self.generator.latents(Noise.given([u[:, 0]]), condition)
        return (self.mean + self.deviation * u).expand(-1, self.layers, -1)

    def candidates(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Coordinates (n, l, d) of points that the model draws, and their labels."""
        points = sampled(self.generator, n, self.label)
        if self.space == "z":
            z = Noise(map(int, points.names)).normal(self.generator.network.latent)
            return z[:, None], points.label
        u = ((points.latents.to(self.mean) - self.mean) / self.deviation).cpu()
        return (u[:, :1] if self.space == "w" else u), points.label

    def middle(self) -> tuple[Tensor, Tensor | None]:
        """The mean (n, l, d); of z, once for each class that the images might have."""
        if self.space != "z":
            return torch.zeros(1, 1 if self.space == "w" else self.layers, self.width), None
        n = max(1, self.generator.classes) if self.label is None else 1
        return torch.zeros(n, 1, self.generator.network.latent), labels(self.generator, range(n), self.label)


def found(
    chart: Chart,
    eye: Perceptual,
    target: Tensor,
    candidates: tuple[Tensor, Tensor | None],
    options: InversionOptions,
    watch: Watch,
    done: int = 0,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Latents (B, L, D) and labels for images (B, C, H, W), their distance, and that of the beginning."""
    wanted = eye(target)
    start, label, begin = nearest(chart, eye, wanted, candidates)
    condition = Condition(label=label)
    u = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([u], lr=options.lr)
    noise = Noise([0] * len(target), target.device)  # the same for each image: no matter what is beside it
    for step in range(options.steps):
        t = step / options.steps
        optimizer.param_groups[0]["lr"] = options.lr * rate(t)
        away = options.jitter * u.shape[2] ** 0.5 * max(0.0, 1 - t / 0.75) ** 2
        moved = u + away * noise.normal(*u.shape[1:]) if away else u
        (u.grad,) = torch.autograd.grad(distances(chart, eye, moved, condition, wanted).sum(), u)
        optimizer.step()
        watch(done + (step + 1) * len(target))
    with torch.no_grad():
        end = distances(chart, eye, u, condition, wanted)
        u = torch.where((end < begin)[:, None, None], u, start)
        latents = chart.latents(u, condition).float().cpu()
    told = label.cpu() if label is not None and not chart.styled else None
    return latents, told, torch.minimum(end, begin).cpu(), begin.cpu()


def rate(t: float) -> float:
    """The learning rate's share at a share t of the steps: up over 5 %, down over the last quarter."""
    falling = (1 - math.cos(math.pi * min(1.0, (1 - t) / 0.25))) / 2
    return falling * min(1.0, t / 0.05)


def distances(chart: Chart, eye: Perceptual, u: Tensor, condition: Condition, wanted: Tensor) -> Tensor:
    """(B,) of the images at coordinates u to those that the eye saw."""
    image = chart.generator.render(chart.latents(u, condition), condition)
    return (eye(image) - wanted).square().sum(1)  # type: ignore[no-any-return]


@torch.no_grad()
def nearest(
    chart: Chart, eye: Perceptual, wanted: Tensor, candidates: tuple[Tensor, Tensor | None], batch: int = 64
) -> tuple[Tensor, Tensor | None, Tensor]:
    """For each image the candidate whose image is nearest: its coordinates, its label, its distance."""
    u, label = candidates
    u = u.to(wanted)
    label = None if label is None else label.to(wanted.device)
    best = torch.full((len(wanted),), math.inf, device=wanted.device)
    place = torch.zeros(len(wanted), dtype=torch.int64, device=wanted.device)
    for start in range(0, len(u), batch):
        rows = slice(start, start + batch)
        condition = Condition(label=label)[rows]
        seen = eye(chart.generator.render(chart.latents(u[rows], condition), condition))
        value, index = torch.cdist(wanted, seen).square().min(1)
        place = torch.where(value < best, index + start, place)
        best = torch.minimum(value, best)
    return u[place], None if label is None else label[place], best
