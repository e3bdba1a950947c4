"""Prepared pixels on disk: memory-mapped where they are large, and opened at once the second time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.builtin import Allocate
from diptych.data.images import DataCard, DataSet, Images, Incident, Int64, UInt8
from diptych.errors import DataError
from diptych.system.aside import aside

IN_MEMORY = 2 << 30  # bytes of prepared pixels; more are memory-mapped
VERSION = 3  # rises when the same source would be prepared differently
_CHUNK = 64 << 20  # bytes


def entry(place: Path, name: str, made_of: Mapping[str, Any]) -> Path:
    """The folder for these pixels: a readable name and a hash of all that they depend on."""
    text = json.dumps({"version": VERSION, **made_of}, sort_keys=True)
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:40]
    return place / f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


@contextmanager
def workspace(place: Path) -> Iterator[Allocate]:
    """Hands out arrays in memory, or, above IN_MEMORY, in temporary files that go when the work is done."""
    with ExitStack() as until:

        def allocate(shape: tuple[int, ...]) -> UInt8:
            size = int(np.prod(shape, dtype=np.int64))
            if size <= IN_MEMORY:
                return np.empty(shape, np.uint8)
            folder = _temporary(place, until)
            _check_room(place, size)
            return np.lib.format.open_memmap(folder / "0.npy", mode="w+", dtype=np.uint8, shape=shape)

        yield allocate


def asked_for() -> bool:
    """Whether a person has named the place of the cache: then what was decoded is kept there."""
    return bool(os.environ.get("DIPTYCH_CACHE"))


def _temporary(place: Path, until: ExitStack) -> Path:
    """A folder in the cache that goes with `until`, or, after a kill -9, when the next one is made."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        return until.enter_context(aside(place))
    except OSError as error:
        raise _unwritable(place, error) from error


def _unwritable(place: Path, error: OSError) -> DataError:
    return DataError(
        f"the cache {place} cannot be written: {error.strerror}", "choose another: cache=, or DIPTYCH_CACHE"
    )


def _check_room(place: Path, size: int) -> None:
    # writing to a mapped file on a full disk is a bus error, which nothing can catch
    free = shutil.disk_usage(place).free
    if size > free:
        raise DataError(
            f"the pixels take {size / 2**30:.1f} GiB, and {place} has {free / 2**30:.1f} GiB left",
            "choose another place: cache=, or DIPTYCH_CACHE; or a smaller size",
        )


class Writing:
    """A cache entry being made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pixels(self, name: str, pixels: UInt8, rows: Int64) -> UInt8:
        """Writes these rows, chunk by chunk, and maps them read-only."""
        path = self.folder / f"{name}.npy"
        shape = (len(rows), *pixels.shape[1:])
        _check_room(self.folder.parent.parent, int(np.prod(shape, dtype=np.int64)))
        step = max(1, _CHUNK // max(1, int(np.prod(shape[1:]))))
        with path.open("wb") as file:
            np.lib.format.write_array_header_2_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            for start in range(0, len(rows), step):
                file.write(np.ascontiguousarray(pixels[rows[start : start + step]]).data)
            file.flush()
            os.fsync(file.fileno())
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]

    def about(self, data: DataSet) -> None:
        """Writes all that is not pixels."""
        for name, part in (("train", data.train), ("held_out", data.held_out)):
            arrays = {f"factor.{key}": values for key, values in part.factors.items()}
            if part.labels is not None:
                arrays["label"] = part.labels
            if part.attributes is not None:
                arrays["attributes"] = part.attributes
            with (self.folder / f"{name}.npz").open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
        tree = {
            "card": asdict(data.card),
            "class_names": data.train.class_names,
            "attribute_names": data.train.attribute_names,
            "captions": {"train": data.train.captions, "held_out": data.held_out.captions},
        }
        with (self.folder / "about.json").open("w", encoding="utf-8") as text:
            json.dump(tree, text)
            text.flush()
            os.fsync(text.fileno())


@contextmanager
def writing(final: Path) -> Iterator[Writing]:
    """A temporary folder that becomes the entry at the end, whole or not at all."""
    with ExitStack() as until:
        folder = _temporary(final.parent, until) / final.name
        try:
            folder.mkdir()
            yield Writing(folder)
            if load(final) is None:  # absent or damaged; else another process was quicker
                shutil.rmtree(final, ignore_errors=True)
                os.rename(folder, final)
        except OSError as error:
            raise _unwritable(final.parent, error) from error


def load(final: Path) -> DataSet | None:
    """The data set of an entry, its pixels mapped read-only; None where there is none, or it is damaged."""
    try:
        tree = json.loads((final / "about.json").read_text(encoding="utf-8"))
        card = dict(tree["card"])
        card["shape"] = tuple(card["shape"])
        card["incidents"] = tuple(Incident(**incident) for incident in card["incidents"])
        parts = {name: _part(final, name, tree) for name in ("train", "held_out")}
        data = DataSet(parts["train"], parts["held_out"], DataCard(**card))
    except Exception:  # of a damaged file json, zipfile, zlib and numpy each raise their own
        return None
    whole = len(data.train) == data.card.n_train and len(data.held_out) == data.card.n_held_out
    return data if whole else None


def _part(final: Path, name: str, tree: Mapping[str, Any]) -> Images:
    with np.load(final / f"{name}.npz", allow_pickle=False) as arrays:
        known = {key: arrays[key] for key in arrays.files}
    captions = tree["captions"][name]
    return Images(
        np.load(final / f"{name}.npy", mmap_mode="r"),
        labels=known.pop("label", None),
        attributes=known.pop("attributes", None),
        attribute_names=tuple(tree["attribute_names"]),
        class_names=tuple(tree["class_names"]),
        captions=None if captions is None else tuple(captions),
        factors={key.removeprefix("factor."): values for key, values in known.items()},
    )
