"""Directions of latent space that raise a label: linear boundaries in it (InterFaceGAN, Shen et al., 2020,
arXiv:2005.09635), between points whose images a classifier of the ruler's features has labelled.

Styles do not move along the boundary's normal, which leans to what varies least, but along covariance times
normal: as the model's own styles change with the label (Haufe et al., 2014, NeuroImage 87, theorem 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.images import Images
from diptych.errors import WrongUse, did_you_mean
from diptych.features.extractor import extractor
from diptych.features.store import seen
from diptych.latent.directions import Directions, described
from diptych.latent.points import (
    chosen_layers,
    generator_of,
    rendered,
    sampled,
    styled,
    untruncated,
)
from diptych.metrics.classifier import fit
from diptych.model import Model

FEWEST = 8  # points on either side of a boundary
ALPHAS = np.logspace(-3, 4, 15)  # of ridge regression; the best in leave-one-out is taken


def from_labels(
    model: Model,
    data: Images,
    which: Iterable[str] = (),
    layers: Iterable[int] = (),
    *,
    label: Tensor | None = None,
    n: int = 2048,
    batch: int = 64,
) -> Directions:
    """A direction for each class of the data, or each of its attributes, found in n points of the model.

    which: names or numbers of some of them. layers: those that are moved; all: (). label: that the n images
    are asked for. strength: on a fifth of the points kept apart, of a class how often a point with it lies
    further along than one without (AUC, 0.5 is chance); of an attribute the correlation.
    """
    names = data.class_names if data.classes else data.attribute_names if data.told else ()
    if not names:
        raise WrongUse("these images have no labels", "a folder for each class, or a table of labels")
    if data.shape != tuple(model.image_shape):
        raise WrongUse(
            f"the labelled images are {data.shape}, the model's {tuple(model.image_shape)} (C, H, W)",
            "--size and --channels bring them there",
        )
    wanted = [place(one, names) for one in which] or list(range(len(names)))
    points = sampled(generator_of(model), n, label)
    chosen = chosen_layers(layers, points.latents.shape[1])
    images = rendered(untruncated(model), points, batch)
    features = look(lambda rows: images[rows], n, "", model.device)
    told = teach(data, model.device)(features)  # (n, K): does it look like class k; what attribute has it
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))  # labels go in turn with the seeds
    latents, told = points.latents.mean(1)[order], told[order]  # styles are the same in all layers
    kept = torch.arange(n) % 5 == 0
    found = (boundaries if data.classes else slopes)(latents[~kept], told[~kept])
    for k in wanted:
        if data.classes and not FEWEST <= int(told[:, k].sum()) <= n - FEWEST:
            raise WrongUse(
                f"{int(told[:, k].sum())} of {n} images look like {names[k]}: there is no boundary to find",
                "more images (--samples), another --label for them, or none",
            )
    measure = auc if data.classes else correlation
    strength = torch.tensor([measure(latents[kept] @ found[k], told[kept, k]) for k in wanted])
    if styled(model):
        found = found @ torch.cov(latents.T)
    return described(model, found[wanted], tuple(names[k] for k in wanted), strength, chosen)


def place(one: str, names: Sequence[str]) -> int:
    """Where a label stands, by its name or its number."""
    if one in names:
        return list(names).index(one)
    if one.isdecimal() and int(one) < len(names):
        return int(one)
    raise WrongUse(f"there is no label {one!r}", did_you_mean(one, list(names)))


def look(
    block: Callable[[Any], Tensor], n: int, sha256: str, device: torch.device | str, what: str = "given"
) -> Tensor:
    """float32 (n, D) on the CPU: the built-in ruler's features, kept on disk where there is a sha256."""
    ruler = extractor("builtin", device)
    return seen(ruler, block, n, sha256, device=device, what=what, views=["pooled"], keep=bool(sha256))[
        "pooled"
    ]


def teach(data: Images, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    """What tells the labels of images by their features (N, D): (N, K), 0 and 1 for classes, else values."""
    features = look(data.tensor, len(data), f"{data.sha256} labelled", device, "labelled")
    if data.classes and data.labels is not None:
        if data.classes < 2:
            raise WrongUse("these images have one class only", "a boundary lies between two")
        known = fit(features, torch.from_numpy(np.ascontiguousarray(data.labels)), data.classes)
        return lambda x: torch.nn.functional.one_hot(known.logits(x).argmax(1), data.classes).double()
    values = torch.from_numpy(np.ascontiguousarray(data.attributes)).double()
    whole = ~values.isnan().any(1)
    if int(whole.sum()) < FEWEST:
        raise WrongUse(f"{int(whole.sum())} images have all of their attributes: too few to learn from")
    slope, level = ridge(features[whole], values[whole])
    return lambda x: x.double() @ slope + level


def boundaries(latents: Tensor, told: Tensor) -> Tensor:
    """(K, D): the normals of logistic regression's boundaries between classes, told as 0 and 1 (N, K)."""
    known = fit(latents, told.argmax(1), told.shape[1])
    normals = (known.weight / known.scale[:, None]).T
    return normals - normals.mean(0)  # logits have a common part that means nothing


def slopes(latents: Tensor, told: Tensor) -> Tensor:
    """(K, D): the slopes of ridge regressions of values (N, K)."""
    return ridge(latents, told)[0].T.float()


def ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope (D, K) and level (K,) of ridge regressions of y (N, K) on standardised x (N, D), float64."""
    from sklearn.linear_model import RidgeCV

    x = x.double()
    mean, scale = x.mean(0), x.std(0).clamp(min=1e-12)
    slope, level = [], []
    for column in y.T:
        known = RidgeCV(ALPHAS).fit(((x - mean) / scale).numpy(), column.numpy())
        slope.append(torch.from_numpy(known.coef_) / scale)
        level.append(float(known.intercept_) - float(mean @ slope[-1]))
    return torch.stack(slope, 1), torch.tensor(level, dtype=torch.float64)


def auc(along: Tensor, has: Tensor) -> float:
    """How often a point that has the label lies further along than one that has not, ties as a half."""
    with_it, without = along[has > 0.5], along[has <= 0.5]
    if not len(with_it) or not len(without):
        return float("nan")
    ahead = (with_it[:, None] > without).double() + (with_it[:, None] == without).double() / 2
    return float(ahead.mean())


def correlation(along: Tensor, value: Tensor) -> float:
    """Pearson's."""
    return float(torch.corrcoef(torch.stack([along.double(), value.double()]))[0, 1])
