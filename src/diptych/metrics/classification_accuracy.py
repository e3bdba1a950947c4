"""Classification accuracy score, CAS (Ravuri and Vinyals, 2019, arXiv:1905.10887): from fakes to reals.

The classifier is a small convolutional network of one recipe: at most 32x32 pixels, 400 steps of 64 images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.features.extractor import resized, to_rgb
from diptych.metric import metric
from diptych.metrics.intervals import enough, from_influence, wilson
from diptych.scores import Estimate

ENOUGH = 32
SIDE = 32
WIDTH = 24
STEPS, BATCH, RATE = 400, 64, 3e-3
SEED = 0


@metric({"cas": "higher", "cas_real": "neither"}, asked_only=True)
def classification_accuracy(exam: Exam) -> Mapping[str, Estimate]:
    """CAS: accuracy on held-out reals after training on fakes; and, beside it, after training on reals."""
    labels, asked = exam.labels("real"), exam.labels("fake")
    if labels is None or not exam.classes:
        raise NotMeasurable("the data has no labels: CAS trains a classifier of them")
    if asked is None:
        raise NotMeasurable(
            "the fakes have no labels: CAS trains a classifier on the classes that were asked for",
            "a conditional model has them; for others there is `classes`",
        )
    enough("CAS", ENOUGH, labels, asked)
    images, classes = exam.images("real"), len(exam.classes)
    trained = {"cas": (exam.images("fake"), asked)}
    floor = exam.against_real()
    train_labels = floor.labels("fake")
    if train_labels is not None:
        trained["cas_real"] = floor.images("fake"), train_labels
    return {
        name: _score(
            right(fitted(*known, classes, exam.device), images, labels, exam.device),
            f"trained on {len(known[1])} {'fakes' if name == 'cas' else 'real training images'}, "
            f"{classes} classes",
            "higher" if name == "cas" else "neither",
        )
        for name, known in trained.items()
    }


def fitted(images: Tensor, labels: Tensor, classes: int, device: torch.device | str = "cpu") -> nn.Module:
    """A classifier trained on uint8 images (N, C, H, W) and labels (N,); the first weights are fixed."""
    x, y = prepared(images, device), labels.to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = network(x.shape[1], classes)
    net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    order = torch.Generator().manual_seed(SEED)
    batch = min(BATCH, len(x))
    with torch.enable_grad():
        for _ in range(STEPS):
            rows = torch.randperm(len(x), generator=order)[:batch].to(device)
            optimizer.zero_grad()
            cross_entropy(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
    net.eval()
    return net


@torch.no_grad()
def right(net: nn.Module, images: Tensor, labels: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Whether (N,) bool the classifier finds the labels (N,) of uint8 images (N, C, H, W)."""
    found = [net(prepared(part, device)).argmax(1).cpu() for part in torch.split(images, 512)]
    return torch.cat(found) == labels


def network(channels: int, classes: int) -> nn.Module:
    """Three convolutions of 3x3, each with a batch norm and a halving; averages of the last one decide."""
    layers: list[nn.Module] = []
    for i, width in enumerate((WIDTH, 2 * WIDTH, 4 * WIDTH)):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i < 2 else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        channels = width
    return nn.Sequential(*layers, nn.Linear(channels, classes))


def prepared(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (N, C, H, W) as float (N, 1 or 3, H', W') in [-1, 1], of 32x32 at most, channels-last."""
    parts = []
    for part in torch.split(images, 512):
        grey = part.shape[1] == 1
        image = to_rgb(part.to(device))
        image = image[:, :1] if grey else image
        parts.append(resized(image, SIDE) if max(image.shape[2:]) > SIDE else image)
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _score(correct: Tensor, note: str, better: str) -> Estimate:
    share, n = float(correct.double().mean()), len(correct)
    spread = from_influence(correct.double(), None)
    note += ", one fixed seed. Interval: Wilson, over the held-out images; a new training is not in it"
    return Estimate(
        share,
        *wilson(share, n),
        n,
        "higher" if better == "higher" else "neither",
        "",
        note,
        replicates=spread.replicates,
    )
