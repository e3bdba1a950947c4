"""Directions of latent space along which images change: from weights alone (SeFa, Shen and Zhou, 2021,
arXiv:2007.06600), or from the Jacobian (Wang and Ponce, 2021, arXiv:2101.06006) where weights say nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diptych.errors import DiptychError, WrongUse
from diptych.latent.points import (
    Points,
    chosen_layers,
    generator_of,
    layout,
    read_arrays,
    rendered,
    sampled,
    write_arrays,
)
from diptych.model import Condition, Model

SUFFIX = ".directions.npz"  # of what is kept beside a picture
FARTHEST = 1e6  # standard deviations of the latents; far beyond it they are no longer finite


@dataclass(frozen=True, eq=False)
class Directions:
    """K directions, what each is called, and how far latents reach along it."""

    vectors: Tensor  # (K, D) of length 1
    deviation: Tensor  # (K,) standard deviation of the model's latents along each
    names: tuple[str, ...]
    strength: Tensor  # (K,) eigenvalues, or how well labels were told from latents
    layers: tuple[int, ...]  # that are moved

    def __len__(self) -> int:
        return len(self.names)

    def only(self, which: Sequence[int]) -> Directions:
        """Some of them, in this order. Raises WrongUse where there are fewer."""
        if not which or not all(0 <= i < len(self) for i in which):
            raise WrongUse(
                f"there are directions 0 to {len(self) - 1}, not {', '.join(map(str, which))}",
                "diptych edit direction --sefa or --jacobian finds more of them",
            )
        rows = list(which)
        return Directions(
            self.vectors[rows],
            self.deviation[rows],
            tuple(self.names[i] for i in rows),
            self.strength[rows],
            self.layers,
        )


def sefa(model: Model, k: int = 3, layers: Iterable[int] = ()) -> Directions:
    """The k directions along which the weights that read the latents stretch them most.

    The network says which weights those are: `reads_latents()`, (out, D) for each of its L latents. Where it
    does not, `principal` finds directions by looking at images. layers: those that are moved; all: ().
    """
    generator = generator_of(model)
    reads: Callable[[], list[Tensor]] | None = getattr(generator.network, "reads_latents", None)
    if reads is None:
        return principal(model, k, layers)
    count, _ = layout(model)
    chosen = chosen_layers(layers, count)
    weights = torch.cat([matrix.detach().cpu().double() for i, matrix in enumerate(reads()) if i in chosen])
    return from_gram(model, weights.T @ weights, k, chosen, "sefa")


@torch.inference_mode()
def principal(
    model: Model, k: int = 3, layers: Iterable[int] = (), *, n: int = 16, batch: int = 64, step: float = 0.05
) -> Directions:
    """The k directions that change pixels most, on average over n points: of sum J^T J, by differences.

    step: of the differences, in standard deviations of the latents. It costs 2 D images a point.
    """
    generator, (count, width) = generator_of(model), layout(model)
    chosen, device = chosen_layers(layers, count), model.device
    points = sampled(generator, n)
    size = step * float(points.latents.std(0).square().mean().sqrt())
    gram = torch.zeros(width, width, dtype=torch.float64)
    for i in range(n):
        columns = []
        for start in range(0, width, batch):
            steps = size * torch.eye(width)[start : start + batch, None]  # (b, 1, D)
            told = None if points.label is None else points.label[[i] * len(steps)].to(device)
            images = [
                generator.render(
                    shifted(points.latents[i : i + 1], sign * steps, chosen).to(device),
                    Condition(label=told),
                )
                for sign in (1, -1)
            ]
            columns.append(((images[0] - images[1]) / (2 * size)).flatten(1).cpu().double())
        jacobian = torch.cat(columns)  # (D, pixels)
        gram += jacobian @ jacobian.T / n
    return from_gram(model, gram, k, chosen, "jacobian")


def from_gram(model: Model, gram: Tensor, k: int, layers: Sequence[int], name: str) -> Directions:
    """The first k eigenvectors of a symmetric (D, D), strongest first."""
    if not 1 <= k <= len(gram):
        raise WrongUse(f"there are 1 to {len(gram)} directions, not {k}", "as many as a latent has numbers")
    value, vector = torch.linalg.eigh(gram)
    names = tuple(f"{name} {i}" for i in range(k))
    return described(model, vector.T.flip(0)[:k], names, value.flip(0)[:k].clamp(min=0), layers)


def described(
    model: Model, vectors: Tensor, names: tuple[str, ...], strength: Tensor, layers: Sequence[int]
) -> Directions:
    """Directions of length 1, with how far the model's latents reach along them."""
    vectors = (vectors / vectors.norm(dim=1, keepdim=True)).float()
    latents = sampled(model, 4096).latents[:, list(layers)]
    return Directions(vectors, (latents @ vectors.T).std(0).mean(0), names, strength.float(), tuple(layers))


def shifted(latents: Tensor, by: Tensor, layers: Sequence[int]) -> Tensor:
    """Latents (..., L, D) moved by (..., 1, D) in some layers; the two are broadcast."""
    where = torch.zeros(latents.shape[-2], 1)
    where[list(layers)] = 1
    return latents + by * where


def traverse(
    model: Model,
    points: Points,
    directions: Directions,
    scale: float = 2.0,
    columns: int = 5,
    batch: int = 64,
) -> Tensor:
    """Images of points moved along each direction, uint8 (K, N, columns, C, H, W).

    scale: how far to each side, in standard deviations of the model's latents along the direction.
    """
    count, width = layout(model)
    if directions.vectors.shape[1] != width or max(directions.layers) >= count:
        raise WrongUse(
            f"these directions are of {directions.vectors.shape[1]} numbers and layers up to "
            f"{max(directions.layers)}, but the model's latents are {count} x {width}",
            "directions belong to the model that they were found in",
        )
    if columns < 2:
        raise WrongUse(f"from one side to the other there are at least 2 columns, not {columns}", "5, say")
    if not abs(scale) <= FARTHEST:
        raise WrongUse(
            f"scale must be finite and at most {FARTHEST:g}, not {scale}",
            "2, say: standard deviations to each side",
        )
    amounts = torch.linspace(-scale, scale, columns)
    reach = directions.vectors * directions.deviation[:, None]
    by = (reach[:, None, None] * amounts[:, None]).unsqueeze(-2)  # (K, 1, columns, 1, D)
    moved = shifted(points.latents[None, :, None], by, directions.layers)  # (K, N, columns, L, D)
    label = None
    if points.label is not None:
        rows = torch.arange(len(points)).repeat_interleave(columns).repeat(len(directions))
        label = points.label[rows]
    images = rendered(model, replace(points, latents=moved.flatten(0, 2), label=label), batch)
    return images.view(len(directions), len(points), columns, *images.shape[1:])


def write_directions(path: Path, directions: Directions) -> None:
    """An .npz file, atomically."""
    arrays = {
        "vectors": directions.vectors.numpy(),
        "deviation": directions.deviation.numpy(),
        "strength": directions.strength.numpy(),
        "names": np.array(directions.names),
        "layers": np.array(directions.layers),
    }
    write_arrays(path, arrays)


def check_place(path: Path) -> None:
    """Raises WrongUse where a file lies there that holds something else than directions: it may be data."""
    try:
        if path.exists():
            read_directions(path)
    except DiptychError as error:
        raise WrongUse(
            f"directions would be written to {path}, which holds something else", "another name for --out"
        ) from error


def read_directions(path: Path, layers: Sequence[int] = ()) -> Directions:
    """What `write_directions` left, for its layers or others. Raises WrongUse where it is something else."""
    arrays = read_arrays(path, "vectors")
    k = len(arrays["vectors"]) if arrays["vectors"].ndim == 2 else 0
    fits = all(name in arrays and arrays[name].shape == (k,) for name in ("deviation", "strength", "names"))
    whole = "layers" in arrays and arrays["layers"].ndim == 1 and arrays["layers"].dtype.kind == "i"
    if not k or not fits or not whole or not len(arrays["layers"]) or arrays["layers"].min() < 0:
        raise WrongUse(f"{path} holds no directions", f"diptych edit direction --out x.png leaves x{SUFFIX}")
    vectors, deviation, strength = (
        torch.from_numpy(arrays[name]).float() for name in ("vectors", "deviation", "strength")
    )
    moved = tuple(layers or map(int, arrays["layers"]))
    return Directions(vectors, deviation, tuple(map(str, arrays["names"])), strength, moved)
