"""Where alarms meet an exam: the reference of a data set, the statistics of an exam, the worst copies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.alarms.cells import cells_of
from diptych.alarms.statistics import Reference
from diptych.data.images import DataSet, Images
from diptych.exam import Exam, shuffle
from diptych.features.extractor import extractor
from diptych.features.store import seen
from diptych.method import Batch, Clock, Method
from diptych.metrics.fid import frechet_distance
from diptych.metrics.manifolds import found
from diptych.metrics.neighbours import nearest
from diptych.metrics.vendi import vendi_score
from diptych.model import evaluating, from_uint8

WORST = 32  # copies that a sheet shows
SCORED = 256  # training images, and held-out ones, whose scores tell whether a network knows them by heart
AT_ONCE = 64
MORE = 512  # held-out images, where there are as many, that tell how far such are from training images
HEART = 0x4EA27  # seed of the noise under which they are scored: the same at every exam


def rows_of(data: DataSet, most: int) -> npt.NDArray[np.int64]:
    """Which training images are compared with: the first of a shuffle that never changes."""
    return shuffle(len(data.train))[:most]


def reference_of(exam: Exam, most: int) -> Reference:
    """The reference for this exam's held-out images and at most so many training images; made once."""
    return _reference(exam.data, exam.n, exam.extractor.name, most, str(exam.device))


@lru_cache(maxsize=2)
def _reference(data: DataSet, n: int, name: str, most: int, device: str) -> Reference:
    rows = rows_of(data, most)
    places = shuffle(len(data.held_out))[: max(n, MORE)]
    held_out = _features(data.held_out, places, name, f"held out {len(places)}", device)
    train = _features(data.train, rows, name, f"first {most}", device)
    labels = None if data.train.labels is None else torch.from_numpy(data.train.labels[rows])
    return Reference(held_out[:n], train, cells_of(train, labels, n), held_out)


def _features(images: Images, rows: npt.NDArray[np.int64], name: str, which: str, device: str) -> Tensor:
    found = seen(
        extractor(name, device),
        lambda share: images.tensor(rows[share]),
        len(rows),
        f"{images.sha256} {which}",
        device=device,
        what=which,
        views=["pooled"],
    )
    return found["pooled"].to(device if torch.device(device).type == "cuda" else "cpu")


def statistics(exam: Exam, reference: Reference) -> dict[str, float]:
    """Every statistic of the exam's fakes."""
    return reference.of(exam.features("fake"), found(exam).shares)


def rehearsed(exam: Exam, train: int) -> None:
    """As much work as `statistics` will be beside so many training images, before there is a reference."""
    fake = exam.features("fake")
    standing_in = exam.features("real").repeat(-(-train // exam.n), 1)[:train]
    nearest(fake, standing_in + torch.randn_like(standing_in))
    cells_of(fake, torch.arange(len(fake)) % 2, exam.n)
    vendi_score(fake)
    frechet_distance(exam.features("real"), fake)


def worst_copies(exam: Exam, reference: Reference, most: int) -> Tensor:
    """The fakes nearest to a training image, each followed by it: uint8 (2 K, C, H, W), K at most 32."""
    near = nearest(exam.features("fake"), reference.train)
    order = near.squared[:, 0].argsort(stable=True)[:WORST].cpu()
    originals = exam.data.train.tensor(rows_of(exam.data, most)[near.number.cpu()[order].numpy()])
    return torch.stack([exam.fake[order], originals], 1).flatten(0, 1)


@torch.no_grad()
def known_scores(method: Method, data: DataSet, clock: Clock, most: int = SCORED) -> Mapping[str, Tensor]:
    """What the trained networks make of training and of held-out images, by `Method.memory`: (B,) each.

    most: of either. Nothing of the method changes.
    """
    n = min(SCORED, most, len(data.train), len(data.held_out))
    device = next(method.parameters()).device
    places = [shuffle(len(images))[:n] for images in (data.train, data.held_out)]
    torch.manual_seed(HEART)  # a step seeds anew
    parts: dict[str, list[Tensor]] = {}
    with evaluating(method):  # statistics of batch norms stay what they are
        for start in range(0, n, AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            train, held_out = (
                _batch(images, place[rows], device)
                for images, place in zip((data.train, data.held_out), places, strict=True)
            )
            for name, value in method.memory(train, held_out, clock).items():
                parts.setdefault(name, []).append(value)
    return {name: torch.cat(each) for name, each in parts.items()}


def _batch(images: Images, rows: npt.NDArray[np.int64], device: torch.device) -> Batch:
    return Batch(from_uint8(images.tensor(rows).to(device)), images.condition(rows, device))
