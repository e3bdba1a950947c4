"""CIFAR-10's python batches (Krizhevsky, 2009): pickles, read here without running anything in them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.arrays import Array, Stack, joined
from diptych.data.images import UInt8
from diptych.errors import DataError
from diptych.unpickler import ENCODE, ConvertError, Made, Name, read_pickle

_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
_MAX_BYTES = 64 << 20  # a batch of 10,000 images has 31 MB
_ALLOWED = {
    *(Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *(Name("numpy", "ndarray"), Name("numpy", "dtype"), ENCODE),
}


def find_cifar(folder: Path) -> Path | None:
    """The folder that holds the batches: this one, or the one that the archive unpacks to."""
    return next((f for f in (folder, folder / "cifar-10-batches-py") if (f / _TRAIN[0]).is_file()), None)


def load_cifar(folder: Path) -> Stack:
    """data_batch_1 to 5, test_batch and batches.meta, 32x32x3; a test batch is held out."""
    train = [_batch(folder / name) for name in _TRAIN if (folder / name).is_file()]
    parts = [np.concatenate([pixels for pixels, _ in train])]
    labels: list[Array | None] = [np.concatenate([label for _, label in train])]
    if (folder / "test_batch").is_file():
        pixels, label = _batch(folder / "test_batch")
        parts.append(pixels)
        labels.append(label)
    names = None
    if (folder / "batches.meta").is_file():
        names = np.array([_text(name) for name in _field(folder / "batches.meta", "label_names", list)])
    return joined(folder, ["train", "test"][: len(parts)], parts, labels, names)


def _batch(path: Path) -> tuple[UInt8, Array]:
    """(N, 32, 32, 3) and (N,)."""
    tree = _read(path)
    data, labels = _entry(path, tree, "data", Made), _entry(path, tree, "labels", list)
    rows = _array(path, data)
    if any(type(label) is not int or not 0 <= label < 256 for label in labels) or len(labels) != len(rows):
        raise DataError(
            f"{path} does not have one whole number as the label of each of its {len(rows)} images"
        )
    image = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return image, np.array(labels, np.int64)


def _array(path: Path, parts: Made) -> UInt8:
    """Rebuilds the one kind of array that CIFAR has: uint8, (N, 3072), in C order."""
    try:
        _, shape, dtype, fortran, raw = parts.state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2's bytes
        kind = dtype.arguments[0]
        right = kind in ("u1", b"u1") and not fortran and isinstance(raw, bytes) and len(shape) == 2
        if not right or shape[1] != 3072 or len(raw) != shape[0] * 3072:
            raise ValueError
        return np.frombuffer(raw, np.uint8).reshape(shape[0], 3072)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{path} does not hold rows of 3,072 unsigned bytes") from error


def _field(path: Path, name: str, kind: type) -> Any:
    return _entry(path, _read(path), name, kind)


def _entry(path: Path, tree: dict[Any, Any], name: str, kind: type) -> Any:
    value = tree.get(name.encode(), tree.get(name))
    if not isinstance(value, kind):
        raise DataError(f"{path} has no {name} as a CIFAR-10 batch has")
    return value


def _read(path: Path) -> dict[Any, Any]:
    """What a batch holds. No unpickler runs, whose memo could be endless."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(f"{path} is too large for a CIFAR-10 batch")
        tree = read_pickle(io.BytesIO(data), _ALLOWED.__contains__)
    except ConvertError as error:
        raise DataError(
            f"{path} is not a CIFAR-10 batch: {error.message}", "nothing in it was run"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path} is not a CIFAR-10 batch: it holds a {type(tree).__name__}")
    return tree


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
