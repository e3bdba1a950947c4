"""The image sets that rulers are tried on: real ones where their folder is there, and built-in ones."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from diptych.data import open_data
from diptych.data.images import DataCard, DataSet, Images

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data"
MOST = 20_000  # images of a set that are ever needed
BUILT_IN = ("digits", "shapes")


def whole(source: str | Path, **arguments: Any) -> Images:
    """Both sides of a set as one."""
    data = open_data(source, **arguments)
    sides = data.train, data.held_out
    labels = None
    if all(side.labels is not None for side in sides):
        labels = np.concatenate([side.labels for side in sides if side.labels is not None])
    return Images(np.concatenate([side.pixels for side in sides]), labels, data.train.class_names)


def cifar10_jpeg(root: Path) -> Images:
    """20,000 of the training images, which are sorted by class."""
    file = np.load(root / "cifar10_jpeg/cifar10_jpeg.npz")
    ends, labels, stream = file["offsets_train"], file["y_train"], file["jpeg_train"].tobytes()
    rows = np.random.default_rng(0).permutation(len(labels))[:MOST]
    pixels = [np.asarray(Image.open(io.BytesIO(stream[ends[i] : ends[i + 1]]))) for i in rows]
    return Images(np.stack(pixels), labels[rows].astype(np.int64), tuple(map(str, file["classes"])))


def noto_emoji(root: Path) -> Images:
    """On white, without the variants in skin tones, which are near copies of each other."""
    file = np.load(root / "noto_emoji/noto_emoji_72.npz")
    about = json.loads((root / "noto_emoji/captions.json").read_text(encoding="utf-8"))
    kept = {part: [not entry["skin_tones"] for entry in about[part]] for part in ("train", "test")}
    pixels = np.concatenate([file[f"x_{part}"][rows] for part, rows in kept.items()])
    labels = np.concatenate([file[f"y_{part}"][rows] for part, rows in kept.items()])
    opacity = pixels[..., 3:] / 255
    colours = (pixels[..., :3] * opacity + 255 * (1 - opacity)).round().astype(np.uint8)
    return Images(colours, labels.astype(np.int64), tuple(about["groups"]))


def lpc_sprites(root: Path) -> Images:
    """One frame of each clip; the classes are the motions."""
    file = np.load(root / "lpc_sprites/lpc_sprites_video.npz")
    clips = np.concatenate([file["x_train"], file["x_test"]])
    motion = np.concatenate([file["y_train"], file["y_test"]]).astype(np.int64)
    labels = motion[:, 0] * len(file["directions"]) + motion[:, 1]
    names = tuple(f"{action} {side}" for action in file["actions"] for side in file["directions"])
    return Images(clips[np.arange(len(clips)), np.arange(len(clips)) % clips.shape[1]], labels, names)


def summer2winter(root: Path) -> Images:
    images = whole(root / "summer2winter/summer2winter_64.zip")
    winter = [int(name.endswith("B")) for name in images.class_names]
    assert images.labels is not None
    return replace(images, labels=np.array(winter, np.int64)[images.labels], class_names=("summer", "winter"))


LOADERS: Mapping[str, Callable[[Path], Images]] = {
    "digits": lambda root: whole("digits"),
    "shapes": lambda root: whole("shapes:6000"),
    "fashion_mnist": lambda root: whole(root / "fashion_mnist"),
    "mnist": lambda root: whole(root / "mnist"),
    "cifar10_jpeg": cifar10_jpeg,
    "noto_emoji": noto_emoji,
    "lpc_sprites": lpc_sprites,
    "summer2winter": summer2winter,
    "flowers_64": lambda root: whole(root / "flowers/flowers_128.zip", size=64),
    "flowers_128": lambda root: whole(root / "flowers/flowers_128.zip"),
    "caltech_photos": lambda root: whole(root / "caltech_photos/caltech_photos.zip", size=128),
    "facades": lambda root: whole(root / "facades/photos.zip"),
    "dreambooth_subjects": lambda root: whole(root / "dreambooth_subjects/dreambooth_subjects_256.zip"),
}
# whose images are strangers to each: they look as unlike as two sets do
PARTNERS = {"mnist": "fashion_mnist", "fashion_mnist": "mnist", "digits": "shapes", "shapes": "digits"}


@dataclass(frozen=True)
class Trial:
    """Images of one set in three parts that share none: reals, what is put in the fakes' place, the rest."""

    data: DataSet  # the rest as training images, the reals as held-out ones
    others: Images


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--data and --sets."""
    parser.add_argument("--data", type=Path, default=ROOT, help="the folder of real sets")
    parser.add_argument("--sets", nargs="+", choices=list(LOADERS), help="by default all that are there")


def names(given: argparse.Namespace) -> list[str]:
    """The sets that were asked for, or all that can be had."""
    if given.sets:
        return list(given.sets)
    if not given.data.is_dir():
        print(f"There is no folder {given.data}: built-in sets only.\n")
        return list(BUILT_IN)
    return [name for name in LOADERS if name in BUILT_IN or (given.data / folder_of(name)).is_dir()]


def folder_of(name: str) -> str:
    return "flowers" if name.startswith("flowers") else name


@lru_cache(maxsize=2)
def loaded(name: str, root: Path) -> Images:
    """At most 20,000 images of a set, shuffled, the same always."""
    images = LOADERS[name](root)
    return images.subset(np.random.default_rng([len(images), 0x5E7]).permutation(len(images))[:MOST])


def trial(name: str, root: Path, n: int, rest: float = 0.2) -> Trial:
    """At most n reals and as many others; a share `rest` of the set, at least, stays for training images."""
    images = loaded(name, root)
    n = min(n, int((1 - rest) * len(images) / 2))
    parts = [images.subset(slice(*ends)) for ends in ((0, n), (n, 2 * n), (2 * n, None))]
    reals, others, train = parts
    card = DataCard(name, name, len(train), n, reals.shape, "as they are", train.sha256, reals.sha256, {}, ())
    return Trial(DataSet(train, reals, card), others)


def strangers(name: str, root: Path, n: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """uint8 (n, C, H, W) of this shape from another set than the one named."""
    there = "summer2winter" if name.startswith("flowers") else "flowers_64"
    partner = PARTNERS.get(name, there)
    if partner not in BUILT_IN and not (root / folder_of(partner)).is_dir():
        partner = "shapes" if name != "shapes" else "digits"
    images = LOADERS[partner](root).subset(slice(0, n)).tensor().float()
    if images.shape[1] != shape[0]:
        images = images.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    sized = interpolate(images, shape[1:], mode="bilinear", antialias=True, align_corners=False)
    return sized.round().clamp(0, 255).to(torch.uint8)
