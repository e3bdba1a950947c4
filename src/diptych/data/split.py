"""Which images are held out: by the hash of their pixels, so that names, order and copies do not matter."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import numpy.typing as npt

from diptych.data.images import Incident, Int64, UInt8
from diptych.errors import DataError, WrongUse

SALT = b"diptych held-out split 1"
SHARE, MOST = 0.2, 10_000
Mask = npt.NDArray[np.bool_]


def pixel_groups(pixels: UInt8) -> Int64:
    """(N,) equal numbers for equal images; the numbers rank the images by their salted sha256."""
    salted = hashlib.sha256(SALT)
    words = bytearray()
    for image in pixels:
        digest = salted.copy()
        digest.update(image.tobytes())
        words += digest.digest()
    rows = np.frombuffer(bytes(words), ">u8").reshape(-1, 4)
    order = np.lexsort(rows.T[::-1])
    new = np.any(rows[order[1:]] != rows[order[:-1]], axis=1)
    groups = np.empty(len(rows), np.int64)
    groups[order] = np.concatenate([[0], np.cumsum(new)])[: len(rows)]
    return groups


def wanted(held_out: float | int | None, n: int) -> int:
    """How many of n images to hold out: a count, a fraction, or by default a fifth, at most 10,000."""
    if held_out is None:
        return max(2, min(round(SHARE * n), MOST))
    if isinstance(held_out, float) and held_out >= 2 and held_out.is_integer():
        held_out = int(held_out)  # a count, as command lines read it
    if isinstance(held_out, bool) or not (held_out >= 2 if isinstance(held_out, int) else 0 < held_out < 1):
        raise WrongUse(
            f"held_out = {held_out} is neither a fraction nor a count", "0.2, or 1000; at least 2 images"
        )
    count = held_out if isinstance(held_out, int) else max(2, round(held_out * n))
    if count > n - 2:
        raise WrongUse(f"{count:,} of {n:,} images cannot be held out", "at least 2 must remain to train on")
    return count


def made_here(groups: Int64, count: int, source: str, labels: Int64 | None = None) -> Mask:
    """(N,) True for `count` images, or for fewer where copies, which stay together, do not fit exactly.

    Each class keeps an image to learn from, unless that would leave less than half of the count.
    """
    n = len(groups)
    if n < 4:
        raise DataError(
            f"{source} holds {n} image{'s' * (n != 1)}",
            "at least 4 are needed: 2 to learn from, 2 to measure",
        )
    mask = _take(groups, count)
    if labels is not None and len(untaught(labels, ~mask)):
        fair = _take(groups, count, labels)
        mask = fair if fair.sum() >= max(2, count / 2) else mask
    if mask.sum() < 2 or n - mask.sum() < 2:
        kinds = len(np.unique(groups))
        raise DataError(
            f"the {n:,} images in {source} are copies of {kinds} image{'s' * (kinds != 1)}",
            "copies stay on one side of the split, and each side needs at least 2 images",
        )
    return mask


def untaught(labels: Int64, train: Mask) -> Int64:
    """The classes that have images, but none to learn from."""
    return np.setdiff1d(labels, labels[train])


def _take(groups: Int64, count: int, labels: Int64 | None = None) -> Mask:
    """The groups of copies in the order of their hash, each where it still fits and is no class's last."""
    sizes = np.bincount(groups)
    if sizes.max() == 1 and labels is None:
        return groups < count
    members, ends = np.argsort(groups, kind="stable"), np.cumsum(sizes)
    of_class = Counter(() if labels is None else labels.tolist())  # not held out yet
    chosen, left = np.zeros(len(sizes), np.bool_), count
    for group, (size, end) in enumerate(zip(sizes.tolist(), ends.tolist(), strict=True)):
        theirs = Counter(() if labels is None else labels[members[end - size : end]].tolist())
        if size <= left and all(of_class[label] > n for label, n in theirs.items()):
            chosen[group], left = True, left - size
            of_class -= theirs
    return chosen[groups]


def given(groups: Int64, held_out: Mask, count: int | None, source: str) -> tuple[Mask, Mask, list[Incident]]:
    """(train, held out, what there is to say): the source's own split, at most `count` images held out."""
    n, notes = int(held_out.sum()), []
    for side, name in ((n, "test"), (len(groups) - n, "training")):
        if side < 2:
            raise DataError(
                f"the {name} split of {source} holds {side} image{'s' * (side != 1)}", "at least 2 are needed"
            )
    kept = held_out
    if count is not None and count > n:
        raise WrongUse(f"{count:,} images cannot be held out: the test split of {source} holds {n:,}")
    if count is not None and count < n:
        rank = np.argsort(groups[held_out], kind="stable")[:count]
        kept = np.zeros_like(held_out)
        kept[np.flatnonzero(held_out)[rank]] = True
        notes.append(
            Incident(source, f"test split of {n:,} images", f"{count:,} held out, the others not used")
        )
    shared = int(np.isin(groups[kept], groups[~held_out]).sum())
    if shared:
        notes.append(
            Incident(source, f"{shared:,} held-out images are also in the training split", "kept as given")
        )
    return ~held_out, kept, notes
