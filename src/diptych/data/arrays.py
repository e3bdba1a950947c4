"""Images that are arrays already: .npz and .npy files. Nothing here unpickles."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.data.attributes import TAKEN, named, stacked
from diptych.data.images import Float32, Incident, Int64, UInt8
from diptych.data.layout import HELD_OUT, printable
from diptych.errors import DataError
from diptych.system.files import unpacked_at_most

Array = npt.NDArray[Any]
MAX_ARRAY_BYTES = 64 << 30
ALLOWED_IMAGES = 1 << 20  # and one more for each byte: images are not smaller
_LABELS_OF = {"x_train": "y_train", "images": "labels", "arr_0": "arr_1"}
_NAMES = ("class_names", "classes")
_BESIDE = {"arr_1": "labels", "attributes": "attributes"}  # of set.npy: set.labels.npy and set.attributes.npy
_SHAPES = "(N, H, W), (N, H, W, C) or (N, C, H, W)"


@dataclass(frozen=True, eq=False)
class Stack:
    """Pictures of one size, with what is known of each."""

    pixels: UInt8  # (N, H, W, C), C = 1, 3 or 4
    names: Sequence[str]  # (N,), for people
    labels: Int64 | None = None
    class_names: tuple[str, ...] = ()
    held_out: npt.NDArray[np.bool_] | None = None  # a split that came with the source
    captions: tuple[str, ...] | None = None
    factors: Mapping[str, Array] = field(default_factory=dict)
    attributes: Float32 | None = None  # (N, K)
    attribute_names: tuple[str, ...] = ()
    incidents: tuple[Incident, ...] = ()
    licence: str = ""


def load_npz(path: Path) -> Stack:
    """x_train, y_train, x_test, y_test; or images and labels; or arr_0. A .npy file counts as arr_0.

    x_val and y_val are held out where there is no x_test. Labels that are floats are continuous, (N,) or
    (N, K), as are "attributes" (a_train and a_test beside x_train), whose names are "attribute_names".
    """
    arrays = _load(path)
    image_key = next((key for key in _LABELS_OF if key in arrays), None)
    if image_key is None:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}",
            "what is looked for: x_train (with y_train, x_test, y_test), or images (with labels), or arr_0",
        )
    keys, label_keys, attribute_keys = [image_key], [_LABELS_OF[image_key]], ["attributes"]
    if image_key == "x_train":
        sides = ["train", *[side for side in HELD_OUT if f"x_{side}" in arrays][:1]]
        keys, label_keys, attribute_keys = ([f"{kind}_{side}" for side in sides] for kind in "xya")
    elif image_key == "arr_0" and "arr_1" in arrays and len({a.shape[:1] for a in arrays.values()}) > 1:
        label_keys = [""]  # an array that happens to be second
    images = [arrays[key] for key in keys]
    labels, attributes = [arrays.get(key) for key in label_keys], [arrays.get(key) for key in attribute_keys]
    for array in images:
        check_count(path, len(array) if array.ndim else 0)
    parts, notes = to_uint8_nhwc(images, path, keys)
    class_names = next((arrays[key] for key in _NAMES if key in arrays), None)
    known_keys = {*keys, *label_keys, *attribute_keys, *_NAMES, "attribute_names"}
    if unused := [printable(key) for key in arrays if key not in known_keys]:
        notes.append(Incident(path.name, f"also holds {', '.join(unused)}", "not used"))
    if any(label is not None and label.dtype.kind == "f" for label in labels) and attributes[0] is None:
        notes.append(Incident(path.name, "labels are floats", TAKEN))
        labels, attributes = [None] * len(labels), labels
    stack = joined(path, keys, parts, labels, class_names, notes)
    known = stacked(path, keys, [len(part) for part in parts], attributes)
    names = () if known is None else named(arrays.get("attribute_names"), known.shape[1], path)
    return replace(stack, attributes=known, attribute_names=names)


def check_declared(path: Path, size: int) -> None:
    """Raises DataError where a file says that it unpacks to so many bytes, and is too small for that.

    Reading arrays takes about four times that at most: 2 GiB, or 200 times the file where that is more.
    """
    most = min(MAX_ARRAY_BYTES, unpacked_at_most(path))
    if size > most:
        raise DataError(
            f"{path} declares {size:,} bytes of arrays, more than {most:,}",
            "if that is meant, save them uncompressed: numpy.savez",
        )


def check_count(path: Path, n: int) -> None:
    """Raises DataError where a file says that it holds so many images, and is too small for that."""
    if n > ALLOWED_IMAGES + path.stat().st_size:
        raise DataError(f"{path} declares {n:,} images, more than a file of its size can hold")


def _load(path: Path) -> dict[str, Array]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                declared = sum(info.file_size for info in archive.infolist())
            check_declared(path, declared)
        else:
            with path.open("rb") as file:
                if file.read(6) != np.lib.format.MAGIC_PREFIX:
                    raise DataError(f"{path} is neither an .npz nor an .npy file")
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            beside = {key: np.load(p, allow_pickle=False) for key, p in beside_npy(path).items()}
            return {"arr_0": opened, **beside}
        with opened:
            arrays = {key: opened[key] for key in opened.files}
            return {key: array for key, array in arrays.items() if isinstance(array, np.ndarray)}
    except DataError:
        raise
    except Exception as error:  # zlib, lzma, zipfile and numpy each raise their own
        pickled = "pickle" in str(error).lower() or "object arrays" in str(error).lower()
        why = "it holds Python objects, which could run code" if pickled else str(error)
        raise DataError(
            f"{path} cannot be read: {why}", "save plain uint8 arrays with numpy.savez"
        ) from error


def beside_npy(path: Path) -> dict[str, Path]:
    """The files beside a .npy file that belong to it, by what they hold."""
    places = {key: path.with_name(f"{path.stem}.{name}.npy") for key, name in _BESIDE.items()}
    return {key: place for key, place in places.items() if path.suffix == ".npy" and place.is_file()}


def to_uint8_nhwc(
    images: Sequence[Array], path: Path, keys: Sequence[str] = ()
) -> tuple[list[UInt8], list[Incident]]:
    """Detects NHWC, NHW or NCHW, and uint8 or floats in 0..1 or -1..1; the splits are judged together.

    Raises DataError for values that are not finite, with the first image that has one, and for other ranges.
    """
    name, notes, parts = path.name, list[Incident](), " and ".join(keys) or "the parts"
    for array in images:
        if array.ndim not in (3, 4):
            raise DataError(
                f"{path} holds an array of shape {array.shape}", "(N, H, W), (N, H, W, C) or (N, C, H, W)"
            )
    if len({array.dtype for array in images}) > 1 or len({array.ndim for array in images}) > 1:
        raise DataError(f"{path}: {parts} differ in type or number of dimensions")
    if images[0].ndim == 4:
        last = _channels_last(images[0].shape, path)
        if not last:
            images = [np.moveaxis(array, 1, -1) for array in images]
            notes.append(Incident(name, "channels come first (NCHW)", "moved last"))
    else:
        images = [array[..., None] for array in images]
    if len({array.shape[1:] for array in images}) > 1:
        shapes = " and ".join(str(array.shape[1:]) for array in images)
        raise DataError(f"{path}: {parts} have different shapes, {shapes}")
    if any(math.prod(array.shape[1:]) == 0 for array in images):
        raise DataError(f"{path} holds an array of shape {images[0].shape}, which has no pixels")
    if images[0].dtype == np.uint8:
        return [np.ascontiguousarray(array) for array in images], notes
    if not np.issubdtype(images[0].dtype, np.floating):
        raise DataError(
            f"{path} holds pixels of type {images[0].dtype}", "uint8 in 0..255, or floats in 0..1 or -1..1"
        )
    low = min((float(array.min()) for array in images if array.size), default=0.0)
    high = max((float(array.max()) for array in images if array.size), default=0.0)
    if not math.isfinite(low + high):
        odd = _first_odd(images, keys or ["image "] * len(images))
        raise DataError(
            f"{path} holds floats from {low:g} to {high:g}: the first image that is not finite is {odd}",
            "leave such images out, or repair what wrote them",
        )
    slack = 1e-3  # what half precision and a resize that overshoots by rounding leave
    if not (-1 - slack <= low and high <= 1 + slack):
        raise DataError(
            f"{path} holds floats from {low:g} to {high:g}", "uint8 in 0..255, or floats in 0..1 or -1..1"
        )
    scale, shift, said = (255.0, 0.0, "0..1") if low >= -slack else (127.5, 127.5, "-1..1")
    notes.append(Incident(name, f"{images[0].dtype} in {said}", "scaled to 0..255"))
    if scale == 127.5:
        notes += _mixed_ranges(images, name)
    return [_scaled(array, scale, shift) for array in images], notes


def _first_odd(images: Sequence[Array], keys: Sequence[str]) -> str:
    """The first image with a value that is not finite."""
    key, array = next((k, a) for k, a in zip(keys, images, strict=True) if not np.isfinite(a).all())
    return f"{key}[{next(i for i, image in enumerate(array) if not np.isfinite(image).all())}]"


def _mixed_ranges(images: Sequence[Array], name: str) -> list[Incident]:
    """What looks like 0..1 among images in -1..1, where it is too much for chance."""
    counts = [int((array.reshape(len(array), -1).min(1) >= 0).sum()) for array in images if len(array)]
    bright, total = sum(counts), sum(map(len, images))
    if bright < total / 4:  # a picture without anything darker than middle grey is rare
        return []
    what = f"{bright:,} of {total:,} images have no value below 0, as if they were in 0..1"
    return [Incident(name, what, "taken as -1..1 like the others")]


def _channels_last(shape: tuple[int, ...], path: Path) -> bool:
    last, first = shape[3] in (1, 3, 4), shape[1] in (1, 3, 4)
    if not last and not first:
        raise DataError(f"{path} holds an array of shape {shape}", "1, 3 or 4 channels, last or first")
    # where both could be, pictures are more often square
    return last and not (first and shape[1] != shape[2] and shape[2] == shape[3])


def _scaled(array: Array, scale: float, shift: float) -> UInt8:
    out = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), 1024):
        rows = slice(start, start + 1024)
        out[rows] = np.rint(array[rows].astype(np.float64) * scale + shift).clip(0, 255)
    return out


def joined(
    path: Path,
    keys: Sequence[str],
    parts: Sequence[UInt8],
    labels: Sequence[Array | None],
    class_names: Array | None = None,
    notes: Sequence[Incident] = (),
) -> Stack:
    """One stack of a train part and, where there are two, of a test part that is held out."""
    sides = np.repeat(np.arange(len(parts)) > 0, [len(part) for part in parts])
    label, names = _labels(path, keys, parts, labels, class_names)
    return Stack(
        np.concatenate(parts) if len(parts) > 1 else parts[0],
        [f"{key}[{i}]" for key, part in zip(keys, parts, strict=True) for i in range(len(part))],
        labels=label,
        class_names=names,
        held_out=sides if len(parts) > 1 else None,
        incidents=tuple(notes),
    )


def _labels(
    path: Path,
    keys: Sequence[str],
    parts: Sequence[UInt8],
    labels: Sequence[Array | None],
    class_names: Array | None,
) -> tuple[Int64 | None, tuple[str, ...]]:
    """Labels counted from 0, and their names: those given, or the values themselves."""
    if all(label is None for label in labels):
        return None, ()
    flat = []
    for key, part, label in zip(keys, parts, labels, strict=True):
        if label is None:
            raise DataError(f"{path} has labels for one split only, none for {key}")
        label = label.reshape(-1) if label.shape == (len(part), 1) else label
        if label.shape != (len(part),):
            raise DataError(f"{path}: {key} has {len(part):,} images, its labels the shape {label.shape}")
        if label.dtype.kind not in "iubUS":
            raise DataError(
                f"{path}: labels of type {label.dtype}", "whole numbers or strings, one for each image"
            )
        flat.append(label)
    values, index = np.unique(np.concatenate(flat), return_inverse=True)
    if class_names is not None and class_names.dtype.kind in "US" and values.dtype.kind in "iu":
        if len(values) and not 0 <= int(values[0]) <= int(values[-1]) < len(class_names):
            raise DataError(f"{path} has {len(class_names)} names for labels {values[0]} to {values[-1]}")
        return np.concatenate(flat).astype(np.int64), tuple(_text(name) for name in class_names)
    return index.astype(np.int64), tuple(_text(value) for value in values)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
