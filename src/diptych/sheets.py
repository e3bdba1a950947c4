"""A duel's sheets for people: samples, held-out images of the same labels, nearest training images."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL.Image import Image

from diptych import pictures
from diptych.data.images import DataSet
from diptych.exam import nearest_training_images
from diptych.model import Model


def grid(model: Model, data: DataSet) -> Image:
    """Samples for people: the same seeds and labels for every contender, one class a column."""
    columns, rows = layout(data)
    return pictures.sheet(model.sample(range(columns * rows)), columns)


def layout(data: DataSet) -> tuple[int, int]:
    """Columns and rows of a sample sheet: classes side by side where there are 4 to 12."""
    classes = data.train.classes
    return (classes, 4) if 4 <= classes <= 12 else (8, 5)


def real_sheet(data: DataSet, out: Path) -> str:
    """Held-out images with the labels of the sample sheets."""
    columns, rows = layout(data)
    held_out, wanted = data.held_out, []
    for i in range(columns * rows):
        if held_out.labels is not None and held_out.classes:
            of_class = [int(k) for k in (held_out.labels == i % held_out.classes).nonzero()[0]]
            wanted.append(of_class[i // held_out.classes % len(of_class)] if of_class else i % len(held_out))
        else:
            wanted.append(i % len(held_out))
    pictures.save(
        pictures.sheet(torch.cat([held_out.tensor(slice(i, i + 1)) for i in wanted]), columns),
        out / "real.png",
    )
    return "real.png"


def neighbour_sheet(model: Model, data: DataSet, rows: int = 6, near: int = 7) -> Image:
    """Each row: a sample, then the training images nearest to it in the ruler's features."""
    fakes = model.sample(range(rows))
    found = nearest_training_images(fakes, data, near)
    tiles = [torch.cat([fakes[i : i + 1], data.train.tensor(found[i])]) for i in range(rows)]
    return pictures.sheet(torch.cat(tiles), near + 1)
