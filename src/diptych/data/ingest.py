"""open_data and open_whole: from whatever a person has to a DataSet, the same every time."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL

from diptych.data import cache as caching
from diptych.data.arrays import Stack
from diptych.data.attributes import told, what_is_told
from diptych.data.builtin import Allocate
from diptych.data.decode import Channels, Fit, Policy
from diptych.data.images import DataCard, DataSet, Images, Incident, Int64, UInt8
from diptych.data.prepare import brightest, prepare_files, prepare_stack, summary, too_dark
from diptych.data.sources import DRAWN_AT, Found, find, named
from diptych.data.split import given, made_here, pixel_groups, untaught, wanted
from diptych.errors import DataError
from diptych.system.files import cache_folder

log = logging.getLogger("diptych")
SLOW = 60.0  # seconds; what took longer is kept
Keep = Literal["no", "may", "must"]  # whether pixels that fit into memory go to the cache
HeldOut = float | int | Literal["all"] | None


def open_data(
    source: str | Path,
    *,
    size: int | None = None,
    fit: Fit = "crop",
    channels: Channels | None = None,
    held_out: float | int | None = None,
    flip: bool = False,
    attributes: str | Sequence[str] | None = None,
    cache: Path | None = None,
) -> DataSet:
    """Images from a folder, a zip, .npz, idx files, CIFAR-10 batches, or "digits", "shapes", "shapes:5000".

    size: pixels on a side that all images are brought to by `fit`; None keeps the one that they share.
    channels: 1, 3 or 4; by default 1 where everything is grey, else 3, with transparency composited on white.
    held_out: how many images to measure against, as a fraction or a count; by default the test split that
    comes with the source, else a fifth, at most 10,000. Chosen by the images' hashes.
    flip: mirror half of the training images, at random.
    attributes: names of the continuous labels that models are told in the place of classes, "none" for
    neither; by default all that come with the images where there are no classes: columns of numbers in
    labels.csv or metadata.csv, "attributes" or labels that are floats in an .npz.
    cache: where prepared pixels are kept. Without it those of decoded files are kept in $DIPTYCH_CACHE; where
    that is not set, those above 2 GiB or that took more than a minute, in ~/.cache/diptych.
    Raises DataError where there are too few images, or they cannot be read, and WrongUse for bad arguments.
    """
    data = _opened(source, Policy(size, fit, channels), held_out, cache, attributes)
    arguments: dict[str, Any]
    arguments = {"size": size, "fit": fit, "channels": channels, "held_out": held_out, "flip": flip}
    if attributes is not None:
        arguments["attributes"] = attributes if isinstance(attributes, str) else ",".join(attributes)
    return replace(data, train=replace(data.train, flip=flip), card=replace(data.card, arguments=arguments))


def open_whole(
    source: str | Path,
    *,
    size: int | None = None,
    fit: Fit = "crop",
    channels: Channels | None = None,
    attributes: str | Sequence[str] | None = None,
    cache: Path | None = None,
) -> DataSet:
    """Every image of a source, in its own order, on the held-out side; the training side is empty.

    For samples that are to be measured, and for reference sets that count whole. Arguments as in `open_data`.
    """
    data = _opened(source, Policy(size, fit, channels), "all", cache, attributes)
    arguments = {"size": size, "fit": fit, "channels": channels}
    return replace(data, card=replace(data.card, name=f"{data.card.name}, all images", arguments=arguments))


def _told(data: DataSet, attributes: str | Sequence[str] | None) -> DataSet:
    """The data set with these continuous labels; None leaves it as it is."""
    train, held_out, card = data.train, data.held_out, data.card
    if attributes is not None:
        listed = attributes.split(",") if isinstance(attributes, str) else attributes
        names = [] if attributes == "none" else [name.strip() for name in listed]
        train, held_out = told(train, names), told(held_out, names)
        card = replace(card, class_counts={}, train_sha256=train.sha256, held_out_sha256=held_out.sha256)
    return DataSet(
        train, held_out, replace(card, incidents=tuple(what_is_told(i, train) for i in card.incidents))
    )


def _opened(
    source: str | Path,
    policy: Policy,
    held_out: HeldOut,
    cache: Path | None,
    attributes: str | Sequence[str] | None,
) -> DataSet:
    place = Path(cache) if cache is not None else cache_folder()
    with find(source) as found:
        if found.drawn:
            policy = replace(policy, size=policy.size or DRAWN_AT)
        made_of = {
            "stamp": found.stamp,
            "policy": repr(policy),
            "held_out": held_out,
            "pillow": PIL.__version__,
        }
        final = caching.entry(place, found.name, made_of)
        data = caching.load(final)
        if data is None:
            with caching.workspace(place) as allocate:
                begin = time.monotonic()
                stack = prepared(found, policy, allocate, str(source))
                slow = time.monotonic() - begin > SLOW
                wished = slow or (found.listing is not None and caching.asked_for())
                keep: Keep = "must" if cache is not None else "may" if wished else "no"
                data = _split(stack, found, policy, held_out, str(source), final, keep)
        data = _told(data, attributes)
        if found.listing is not None and data.train.labels is not None:
            names = data.train.class_names
            log.info(
                "%s classes, from the subfolders: %s%s",
                f"{len(names):,}",
                _some(names),
                "" if held_out == "all" else " (--attributes none takes none)",
            )
        return replace(data, card=replace(data.card, name=found.name, source=named(source)))


def prepared(found: Found, policy: Policy, allocate: Allocate, source: str) -> Stack:
    """All images of a source in one shape."""
    if found.listing is not None:
        log.info("decoding %s files of %s", f"{len(found.listing.files):,}", source)
        stack = prepare_files(found.listing, policy, allocate, source)
    else:
        assert found.load is not None
        stack = prepare_stack(found.load(policy.size, allocate), policy, allocate, found.name)
    notes, (height, width) = list(stack.incidents), stack.pixels.shape[1:3]
    if policy.size is None and policy.fit != "crop" and height != width:
        why = f"fit {policy.fit} without a size: they stay {width}x{height}"
        notes.append(Incident(found.name, why, f"not used; --size {min(height, width)} makes them square"))
    if stack.pixels.size:
        blocks = range(0, len(stack.pixels), 1024)
        notes += too_dark(found.name, max(brightest(stack.pixels[i : i + 1024]) for i in blocks))
    return replace(stack, incidents=tuple(notes))


def _split(
    stack: Stack,
    found: Found,
    policy: Policy,
    held_out: HeldOut,
    source: str,
    final: Path,
    keep: Keep,
) -> DataSet:
    *rows, notes = _sides(stack, found, held_out, source)
    fit = f"drawn at {policy.size} px" if found.drawn else str(policy)
    stack = replace(stack, incidents=(*stack.incidents, *notes))
    small = stack.pixels.nbytes <= caching.IN_MEMORY
    if keep != "no" or not small:
        try:
            with caching.writing(final) as writing:
                parts = [
                    writing.pixels(name, stack.pixels, r)
                    for name, r in zip(("train", "held_out"), rows, strict=True)
                ]
                data = _data_set(stack, rows, parts, fit)
                writing.about(data)
            return caching.load(final) or data
        except DataError as error:
            if keep == "must" or not small:
                raise
            log.warning("%s: it will be decoded again the next time", error.message)
    parts = [np.ascontiguousarray(stack.pixels[r]) for r in rows]
    for part in parts:
        part.flags.writeable = False
    return _data_set(stack, rows, parts, fit)


def _sides(stack: Stack, found: Found, held_out: HeldOut, source: str) -> tuple[Int64, Int64, list[Incident]]:
    """Which images are trained on, which are held out, and what there is to say about that."""
    n = len(stack.pixels)
    if held_out == "all":
        if n == 0:
            raise DataError(f"{source} holds no images")
        return np.arange(0), np.arange(n), []
    groups, notes = pixel_groups(stack.pixels), list[Incident]()
    if stack.held_out is not None:
        count = None if held_out is None else wanted(held_out, n)
        train, held, notes = given(groups, stack.held_out, count, found.name)
    else:
        held = made_here(groups, wanted(held_out, n) if n >= 4 else 0, source, stack.labels)
        train = ~held
    if stack.labels is not None and len(lost := untaught(stack.labels, train)):
        names = _some([stack.class_names[k] for k in lost])
        how_many = f"{len(lost):,} of {len(stack.class_names):,}"
        what = f"{how_many} classes have no image in the training split: {names}"
        notes.append(Incident(found.name, what, "left as it is"))
    return np.flatnonzero(train), np.flatnonzero(held), notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + ", ..." * (len(names) > 6)


def _data_set(stack: Stack, rows: Sequence[Int64], parts: list[UInt8], fit: str) -> DataSet:
    train, held_out = (_images(stack, r, part) for r, part in zip(rows, parts, strict=True))
    used = np.concatenate(rows)
    counts: dict[str, int] = {}
    if stack.labels is not None:
        numbers = np.bincount(stack.labels[used], minlength=len(stack.class_names)).tolist()
        counts = dict(zip(stack.class_names, numbers, strict=True))
    card = DataCard(
        name="",
        source="",
        n_train=len(train),
        n_held_out=len(held_out),
        shape=train.shape,
        fit=fit,
        train_sha256=train.sha256,
        held_out_sha256=held_out.sha256,
        class_counts=counts,
        incidents=summary(stack.incidents),
        licence=stack.licence,
    )
    return DataSet(train, held_out, card)


def _images(stack: Stack, rows: Int64, pixels: UInt8) -> Images:
    return Images(
        pixels,
        labels=None if stack.labels is None else stack.labels[rows],
        class_names=stack.class_names,
        captions=None if stack.captions is None else tuple(stack.captions[i] for i in rows),
        factors={name: values[rows] for name, values in stack.factors.items()},
        attributes=None if stack.attributes is None else stack.attributes[rows],
        attribute_names=stack.attribute_names,
    )
