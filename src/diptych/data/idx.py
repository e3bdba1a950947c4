"""MNIST-style idx files (LeCun and Cortes, 1998), packed or not."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diptych.data.arrays import Stack, check_count, check_declared, joined, to_uint8_nhwc
from diptych.data.images import UInt8
from diptych.errors import DataError


def find_idx(folder: Path) -> list[Path]:
    """The image files of an MNIST-style folder, the train part first; empty where there are none.

    Raises DataError where there are several sets, as EMNIST has them.
    """
    images = sorted(p for p in folder.iterdir() if p.is_file() and "images" in p.name and "idx3" in p.name)
    plain = {p.name.removesuffix(".gz"): p for p in reversed(images)}  # unpacked beside packed: one of them
    test = [p for name, p in sorted(plain.items()) if "t10k" in name or "test" in name]
    train = [p for p in sorted(plain.values()) if p not in test]
    if max(len(train), len(test)) > 1:
        raise DataError(
            f"{folder} holds several sets of idx files: {', '.join(p.name for p in train + test)}",
            f"name the file of one: {(train or test)[0]}",
        )
    return train + test


def with_test(path: Path) -> list[Path]:
    """This file of images and, where it is a train part, the test part beside it."""
    names = {path.name.replace("train", test).removesuffix(".gz") for test in ("t10k", "test")}
    found = (path.with_name(name + ending) for name in sorted(names) for ending in ("", ".gz"))
    return [path, *(p for p in found if "train" in path.name and p.is_file())][:2]


def load_idx(images: Sequence[Path]) -> Stack:
    """One idx file of images, or a train and a test one; labels are taken from the files beside them."""
    parts = [_read_idx(path) for path in images]
    for path, part in zip(images, parts, strict=True):
        if part.ndim not in (3, 4):
            raise DataError(f"{path} holds {part.ndim}-dimensional data, not images")
    labels = [_read_idx(beside) if (beside := _labels_beside(path)) else None for path in images]
    pixels, notes = to_uint8_nhwc(parts, images[0])
    return joined(images[0], [path.name for path in images], pixels, labels, None, notes)


def _labels_beside(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    found = (path.with_name(name + ending) for ending in ("", ".gz"))
    return next((p for p in found if p != path and p.is_file()), None)


def _read_idx(path: Path) -> UInt8:
    """Two zero bytes, the type (8 = uint8), the number of dimensions, big-endian sizes (LeCun's page)."""
    try:
        with path.open("rb") as raw, gzip.open(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
                raise DataError(f"{path} is not an idx file: it starts with {magic.hex(' ') or 'nothing'}")
            if magic[2] != 0x08:
                raise DataError(
                    f"{path} holds type 0x{magic[2]:02x}", "only unsigned bytes (0x08) are images"
                )
            header = file.read(4 * magic[3])
            shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(0, 4 * magic[3], 4))
            expected = math.prod(shape)
            check_declared(path, expected)
            check_count(path, shape[0])
            data = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(data) != expected:
        size = "more" if len(data) > expected else f"only {len(data):,}"
        raise DataError(f"{path} should hold {expected:,} bytes for shape {shape}, but holds {size}")
    return np.frombuffer(data, np.uint8).reshape(shape)
