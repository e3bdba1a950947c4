"""CIFAR-10's python batches (Krizhevsky, 2009): pickles, read here without running anything in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.arrays import Array, Stack, joined
from diptych.data.images import UInt8
from diptych.errors import DataError

_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
_MAX_BYTES = 1 << 30


class _Parts:
    """Stands in for numpy's classes: keeps what the pickle says, so that not even numpy runs on it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """What Python 3 writes for bytes in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes something that is not latin1 text")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Parts,
    ("numpy._core.multiarray", "_reconstruct"): _Parts,
    ("numpy", "ndarray"): _Parts,
    ("numpy", "dtype"): _Parts,
    ("_codecs", "encode"): _latin1,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs") from None


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
    data, labels = _entry(path, tree, "data", _Parts), _entry(path, tree, "labels", list)
    rows = _array(path, data)
    if any(type(label) is not int or not 0 <= label < 256 for label in labels) or len(labels) != len(rows):
        raise DataError(
            f"{path} does not have one whole number as the label of each of its {len(rows)} images"
        )
    image = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return image, np.array(labels, np.int64)


def _array(path: Path, parts: _Parts) -> UInt8:
    """Rebuilds the one kind of array that CIFAR has: uint8, (N, 3072), in C order."""
    try:
        _, shape, dtype, fortran, raw = parts.state
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
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is too large for a CIFAR-10 batch")
        with path.open("rb") as file:
            tree = _Restricted(file, encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise DataError(f"{path} is not a CIFAR-10 batch: {error}", "nothing in it was run") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path} is not a CIFAR-10 batch: it holds a {type(tree).__name__}")
    return tree


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
