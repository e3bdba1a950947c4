"""From a listing of files, or from arrays, to pictures of one shape, and what was odd on the way."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from diptych.data.arrays import Stack
from diptych.data.builtin import Allocate
from diptych.data.decode import (
    FORMATS,
    Opened,
    Policy,
    Unreadable,
    fitted,
    header_size,
    open_image,
    recolour,
    strict_pillow,
)
from diptych.data.files import read_file
from diptych.data.images import Incident, UInt8
from diptych.data.layout import File, Listing, ordered
from diptych.data.tables import from_tables
from diptych.errors import DataError

log = logging.getLogger("diptych")
SAY_EVERY = 10.0  # seconds
DARK = 32  # of 255
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_T = TypeVar("_T")
_R = TypeVar("_R")


class MixedSizes(DataError):
    """Images of different sizes, and no size that all are brought to."""

    def __init__(self, message: str, hint: str, sizes: Counter[tuple[int, int]]) -> None:
        super().__init__(message, hint)
        self.sizes = sizes  # (width, height) -> how many


class Row(NamedTuple):
    """What became of one file."""

    size: tuple[int, int] | None = None  # (width, height) upright; None: left out
    mode: str = ""
    notes: Sequence[tuple[str, str]] = ()
    failure: str = ""


def in_threads(work: Callable[[_T], _R], items: Sequence[_T], of: str = "") -> list[_R]:
    """`work` on every item, in order, on as many threads as there are cores (Pillow lets go of the lock).

    of: what the items are, where it is worth a line in the log every ten seconds how many are done.
    """
    threads = min(16, os.cpu_count() or 1)
    step = min(256, 1 + len(items) // (8 * threads))  # a million futures would take more than a gigabyte
    pool, done, said = ThreadPoolExecutor(threads), list[_R](), time.monotonic()

    def some(start: int) -> list[_R]:
        return [work(item) for item in items[start : start + step]]

    try:
        for part in pool.map(some, range(0, len(items), step)):
            done += part
            if of and time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                log.info("%s of %s %s are decoded", f"{len(done):,}", f"{len(items):,}", of)
        return done
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_files(listing: Listing, policy: Policy, allocate: Allocate, source: str) -> Stack:
    """Decodes every file; those that cannot be read are named and left out."""
    if not listing.files:
        raise DataError(f"{source} holds no images", _instead(listing))
    with strict_pillow():
        pixels, rows = _decode_all(listing.files, policy, allocate, source)
    good = np.array([i for i, row in enumerate(rows) if row.size is not None])
    incidents = [*listing.incidents, *_incidents(listing.files, rows, policy)]
    for place, i in enumerate(good):  # in place: the pixels may be larger than memory
        if place != i:
            pixels[place] = pixels[i]
    attributes, attribute_names, notes = from_tables(listing.tables, listing.files)
    incidents += notes
    labels = None if listing.labels is None else [listing.labels[i] for i in good]
    names = ordered(labels or ())
    index = {name: i for i, name in enumerate(names)}
    stack = Stack(
        pixels[: len(good)],
        [listing.files[i].name for i in good],
        labels=None if labels is None else np.array([index[label] for label in labels], np.int64),
        class_names=tuple(names),
        held_out=None if listing.held_out is None else np.array(listing.held_out)[good],
        attributes=None if attributes is None else attributes[good],
        attribute_names=attribute_names,
        incidents=tuple(sorted(incidents, key=lambda incident: incident.file)),
    )
    return _grey_if_all_grey(stack, policy)


def _instead(listing: Listing) -> str:
    """What to do about a folder without images."""
    archives = [i.file for i in listing.incidents if i.file.lower().endswith((".zip", ".npz", ".npy"))]
    if archives:
        return f"name the file itself: {', '.join(archives[:5])}"
    return f"these formats are read: {', '.join(FORMATS)}"


def _decode_all(
    files: Sequence[File], policy: Policy, allocate: Allocate, source: str
) -> tuple[UInt8, list[Row]]:
    rows, first = [], None
    for file in files:  # the first that can be read sets the shape
        try:
            first, _ = _decode(file, policy)
            break
        except Unreadable as reason:
            rows.append(Row(failure=str(reason)))
    if first is None:
        raise DataError(
            f"none of the {len(files):,} files in {source} could be read as an image",
            "; ".join(f"{file.name}: {row.failure}" for file, row in zip(files[:3], rows, strict=False)),
        )
    pixels = allocate((len(files), *first.shape[:2], policy.channels or 3))
    mixed = threading.Event()

    def work(i: int) -> Row:
        try:
            if mixed.is_set():  # it will end in an error that lists the sizes
                return Row(header_size(read_file(files[i])))
            row, opened = _decode(files[i], policy)
        except Unreadable as reason:
            return Row(failure=str(reason))
        if row.shape[:2] != pixels.shape[1:3]:
            mixed.set()
        else:
            pixels[i] = row
        return Row(opened.size, opened.mode, _notes(opened, policy))

    rows += in_threads(work, range(len(rows), len(files)), "files")
    if mixed.is_set():
        raise _mixed_sizes(Counter(row.size for row in rows if row.size is not None), source)
    return pixels, rows


def _decode(file: File, policy: Policy) -> tuple[UInt8, Opened]:
    opened = open_image(read_file(file), policy.size)
    pixels = np.asarray(opened.image)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if policy.channels is not None or pixels.shape[-1] == 4:
        pixels = recolour(pixels, policy.channels or 3)
    return fitted(pixels, policy), opened


def on_white(policy: Policy) -> str:
    """What becomes of transparency where it is not kept."""
    return "composited on white" + ("" if policy.channels else "; --channels 4 keeps it")


def _notes(opened: Opened, policy: Policy) -> list[tuple[str, str]]:
    notes = list(opened.notes)
    if opened.image.mode == "RGBA" and policy.channels != 4:
        notes.append(("transparency", on_white(policy)))
    side = max(opened.size) if policy.fit == "pad" else min(opened.size)
    if policy.size is not None and side < policy.size:
        notes.append((f"smaller than {policy.size} px", "enlarged"))
    return notes


def _incidents(files: Sequence[File], rows: Sequence[Row], policy: Policy) -> list[Incident]:
    grey = [row.mode.startswith("I;16") or row.mode in _GREY_MODES for row in rows]
    colour = any(row.size is not None and not g for row, g in zip(rows, grey, strict=True))
    found = []
    for file, row, is_grey in zip(files, rows, grey, strict=True):
        if row.size is None:
            found.append(Incident(file.name, row.failure, "left out"))
        found += [Incident(file.name, what, done) for what, done in row.notes]
        if is_grey and colour and row.size is not None and policy.channels != 1:
            found.append(Incident(file.name, "grey among colour images", "given three equal channels"))
    return found


def _mixed_sizes(sizes: Counter[tuple[int, int]], source: str) -> MixedSizes:
    common = ", ".join(f"{w}x{h} ({n:,})" for (w, h), n in sizes.most_common(4))
    shorter = sorted(min(size) for size in sizes.elements())
    usual = shorter[len(shorter) // 2]
    sensible = max((s for s in (8, 16, 32, 64, 128, 256) if s <= usual), default=8)
    return MixedSizes(
        f"the images in {source} have {len(sizes):,} different sizes: {common}{' ...' * (len(sizes) > 4)}",
        f"give one that all are brought to; --size {sensible} suits these",
        sizes,
    )


def prepare_stack(stack: Stack, policy: Policy, allocate: Allocate, name: str) -> Stack:
    """Brings pictures that are arrays already to the size and channels asked for."""
    n, height, width, have = stack.pixels.shape
    channels = policy.channels or (3 if have == 4 else have)
    size = (height, width) if policy.size is None else (policy.size, policy.size)
    notes = list(stack.incidents)
    if have == 4 and channels != 4:
        transparent = sum(int((stack.pixels[i, ..., 3] < 255).any()) for i in range(n))
        if transparent:
            notes.append(Incident(name, f"transparency in {transparent:,} images", on_white(policy)))
    if policy.size is not None and min(height, width) < policy.size:
        notes.append(Incident(name, f"{width}x{height} images, smaller than {policy.size} px", "enlarged"))
    pixels = stack.pixels
    if (height, width, have) != (*size, channels):
        pixels = allocate((n, *size, channels))

        def work(start: int) -> None:
            part = recolour(stack.pixels[start : start + 256], channels)
            for i, image in enumerate(part):
                pixels[start + i] = fitted(image, policy)

        in_threads(work, range(0, n, 256))
    return _grey_if_all_grey(replace(stack, pixels=pixels, incidents=tuple(notes)), policy)


def _grey_if_all_grey(stack: Stack, policy: Policy) -> Stack:
    pixels = stack.pixels
    if policy.channels is not None or pixels.shape[-1] != 3:
        return stack
    for start in range(0, len(pixels), 256):
        part = pixels[start : start + 256]
        if not ((part[..., 0] == part[..., 1]).all() and (part[..., 0] == part[..., 2]).all()):
            return stack
    return replace(stack, pixels=pixels[..., :1])


def brightest(pixels: UInt8) -> int:
    """The largest value of (..., C) pixels, transparency composited on white."""
    return int((recolour(pixels, 3) if pixels.shape[-1] == 4 else pixels).max())


def too_dark(name: str, most: int) -> list[Incident]:
    """What is said of a set without a bright pixel: values of 0 and 1, or 12 bits saved as 16."""
    what = f"the brightest pixel of all is {most} of 255: a wrong range?"
    return [Incident(name, what, "kept as it is")] if most <= DARK else []


def summary(incidents: Sequence[Incident], most: int = 8) -> tuple[Incident, ...]:
    """One incident for all files with the same reason and the same remedy, where they are many."""
    kinds: dict[tuple[str, str], list[Incident]] = {}
    for incident in incidents:
        kinds.setdefault((incident.what, incident.done), []).append(incident)
    short = []
    for (what, done), group in kinds.items():
        if len(group) <= most:
            short += group
        else:
            short.append(Incident(f"{group[0].file} and {len(group) - 1:,} more", what, done))
    return tuple(short)
