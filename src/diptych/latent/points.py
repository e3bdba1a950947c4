"""Points of a generator's latent space: drawn by seed, rendered, described, kept in files."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.adversarial.latent import GeneratorModel
from diptych.errors import RunError, WrongUse
from diptych.model import Condition, Model, Noise, evaluating, to_uint8
from diptych.system.files import unpacked_at_most, write

log = logging.getLogger("diptych")
LIMITS = ("truncation", "cutoff", "threshold")  # options that keep latents near the mean
FIRST = 2**41  # seeds for statistics, which nobody samples with


@dataclass(frozen=True, eq=False)
class Points:
    """Latents on the CPU, with the labels that their images are made with."""

    latents: Tensor  # (N, L, D)
    label: Tensor | None = None  # (N,) classes or (N, K) attributes
    names: tuple[str, ...] = ()  # seeds or files that they come from

    def __len__(self) -> int:
        return self.latents.shape[0]

    def __getitem__(self, rows: slice) -> Points:
        return Points(self.latents[rows], None if self.label is None else self.label[rows], self.names[rows])


def generator_of(model: Model) -> GeneratorModel:
    """The model, if it has a latent space. Raises WrongUse where it has none."""
    if not isinstance(model, GeneratorModel):
        raise WrongUse(
            f"{type(model).__name__} has no latent space",
            "a GAN has one: a run of r3gan or stylegan2, say; diptych edit vary and interpolate do others",
        )
    return model


def labels(model: Model, seeds: Iterable[int], label: Tensor | None = None) -> Tensor | None:
    """One label () or (K,) for all of these seeds; None: those that the model takes for them."""
    seeds = list(seeds)
    if label is None:
        return model.labels_for(seeds)
    told = label.expand(len(seeds), *label.shape)
    model.check(Condition(label=told), len(seeds))
    return told


@torch.no_grad()
def drawn(model: Model, seeds: Iterable[int], label: Tensor | None = None, batch: int = 256) -> Points:
    """The points that `model.sample` renders for these seeds. label: one, () or (K,), for all of them."""
    generator, seeds = generator_of(model), list(seeds)
    told, device = labels(model, seeds, label), model.device
    parts = []
    for start in range(0, len(seeds), batch):
        rows = slice(start, start + batch)
        condition = Condition(label=told)[rows].to(device)
        parts.append(generator.latents(Noise(seeds[rows], device), condition).float().cpu())
    if not parts:
        raise WrongUse("there are no seeds", "one or more are needed: 0-7")
    return Points(torch.cat(parts), told, tuple(map(str, seeds)))


@torch.inference_mode()
def rendered(model: Model, points: Points, batch: int = 64) -> Tensor:
    """Images of points, uint8 (N, C, H, W) on the CPU; noise inputs of layers are the constant ones."""
    generator, device = generator_of(model), model.device
    parts = [torch.empty(0, *generator.image_shape, dtype=torch.uint8)]
    with evaluating(generator):
        for start in range(0, len(points), batch):
            rows = slice(start, start + batch)
            condition = Condition(label=points.label)[rows].to(device)
            parts.append(to_uint8(generator.render(points.latents[rows].to(device), condition)).cpu())
    return torch.cat(parts)


def layout(model: Model) -> tuple[int, int]:
    """(L, D): how many latents an image has, and how long each is."""
    layers, width = drawn(model, [0]).latents.shape[1:]
    return layers, width


def styled(model: Model) -> bool:
    """Whether latents are styles: they lie in a flat space, and their label is in them."""
    return hasattr(generator_of(model).network, "mapping")


def styles_of(model: Model, what: str) -> int:
    """How many styles an image of the model has. Raises WrongUse where there is one latent for all layers."""
    layers, width = layout(model)
    if not styled(model) or layers == 1:
        raise WrongUse(
            f"{what} needs a style for each layer, but here one latent of {width} numbers makes an image",
            "stylegan2 and stylegan3 have styles",
        )
    return layers


def moments(model: Model, n: int = 4096, label: Tensor | None = None) -> tuple[Tensor, float]:
    """The mean latent (L, D) without truncation, and the root mean square of the deviation from it."""
    latents = sampled(model, n, label).latents
    mean = latents.mean(0)
    return mean, float((latents - mean).square().mean().sqrt())


def sampled(model: Model, n: int, label: Tensor | None = None) -> Points:
    """Points for statistics, without truncation; the same ones each time."""
    return drawn(untruncated(model), range(FIRST, FIRST + n), label)


def untruncated(model: Model) -> GeneratorModel:
    """The same weights, with latents drawn from all of their distribution."""
    generator = generator_of(model)
    changes = {f.name: f.default for f in fields(generator.options) if f.name in LIMITS}
    return generator.using(**changes)


def check_noise(options: Mapping[str, Any]) -> None:
    """Raises WrongUse where layers are asked to have noise by seed, which `rendered` leaves out."""
    if options.get("noise") == "random":
        raise WrongUse(
            "--noise random means nothing to points of latent space, which have no seeds",
            "--noise const, which it is without this option, or --noise none",
        )


def chosen_layers(layers: Iterable[int], count: int) -> list[int]:
    """These layers, or all where none are named. Raises WrongUse where there are fewer."""
    wanted = sorted(set(layers)) or list(range(count))
    if wanted[0] < 0 or wanted[-1] >= count:
        raise WrongUse(
            f"there is no layer {wanted[-1]}",
            f"the layers of this model are 0 to {count - 1}, coarse to fine",
        )
    return wanted


def fingerprint(model: Model) -> str:
    """Of the weights that make images of latents, whatever the model's options are."""
    digest = hashlib.sha256()
    for name, weight in sorted(generator_of(model).network.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_points(path: Path, points: Points, model: Model | None = None, **more: Any) -> None:
    """latents, label where there is one, names, and more arrays: an .npz file, atomically.

    model: that they are of, so that `read_points` can tell another one.
    """
    arrays: dict[str, Any] = {"latents": points.latents.numpy(), "names": np.array(points.names), **more}
    if model is not None:
        arrays["of"] = np.array(fingerprint(model))
    if points.label is not None:
        arrays["label"] = points.label.numpy()
    write_arrays(path, arrays)


def read_points(path: Path, model: Model) -> Points:
    """What `write_points` left. Raises WrongUse where the latents cannot be this model's; where they are of
    other weights, as of the same run some time ago, that is said."""
    arrays = read_arrays(path, "latents")
    latents = torch.from_numpy(arrays["latents"]).float()
    layers, width = layout(model)
    if latents.ndim != 3 or tuple(latents.shape[1:]) != (layers, width) or not len(latents):
        raise WrongUse(
            f"{path} holds latents of shape {tuple(latents.shape)}, but (N, {layers}, {width}) is needed",
            "latents belong to the model that they were made with",
        )
    if not latents.isfinite().all():
        raise WrongUse(f"{path} holds latents that are not finite")
    if "of" in arrays and str(arrays["of"]) != fingerprint(model):
        log.warning("%s was made with other weights than these: their images may be quite others", path)
    label = torch.from_numpy(arrays["label"]) if "label" in arrays else None
    if label is not None:
        model.check(Condition(label=label), len(latents))
    names = tuple(map(str, arrays["names"])) if "names" in arrays else ()
    return Points(latents, label, names)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """An .npz file, atomically."""

    def produce(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write(path, produce)


def read_arrays(path: Path, needed: str) -> dict[str, Any]:
    """The arrays of an .npz file; nothing in it executes. Raises RunError where `needed` is not there."""
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(info.file_size for info in archive.infolist())
        if declared > unpacked_at_most(path):
            raise ValueError(f"it declares {declared:,} bytes, too many for its size")
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {n: array for n in file.files if isinstance(array := file[n], np.ndarray)}
    except FileNotFoundError as error:
        raise RunError(f"there is no {path}") from error
    except Exception as error:  # NumPy, zipfile and zlib raise what they like for a damaged file
        raise RunError(f"{path} cannot be read as an .npz file: {error}") from error
    if needed not in arrays:
        raise RunError(f"{path} holds no {needed}", f"it holds: {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays
