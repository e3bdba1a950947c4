"""What is in a source, before anything is trained on it: odd files, sizes, classes, copies."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diptych.data.arrays import Stack
from diptych.data.cache import workspace
from diptych.data.decode import Unreadable, open_image, recolour, strict_pillow
from diptych.data.files import read_file
from diptych.data.images import Incident, UInt8
from diptych.data.layout import File, Listing, ordered
from diptych.data.near import METHOD, SMALLEST, fingerprints, near_groups
from diptych.data.prepare import brightest, in_threads, summary, too_dark
from diptych.data.sources import find, named
from diptych.system.files import cache_folder


@dataclass(frozen=True)
class Inspection:
    """What `diptych data inspect` shows. Groups are of names of files, or of places in an array."""

    source: str
    kind: str  # "image folder", "zip of images", ".npz arrays" ...
    files: int  # all that are there, odd ones included; 0 for arrays
    images: int  # that could be read
    incidents: tuple[Incident, ...]  # every odd file
    sizes: Mapping[str, int]  # "640x480" and how many, the most frequent first
    modes: Mapping[str, int]  # as stored: L, RGB, RGBA, P, I;16, CMYK ...
    channels: Mapping[int, int]  # 1, 3 or 4 and how many
    class_counts: Mapping[str, int]
    split: Mapping[str, int]  # of the source itself, where it has one
    exact: tuple[tuple[str, ...], ...]  # the same pixels
    near: tuple[tuple[str, ...], ...]  # nearly the same; one of each exact group stands for it
    conflicts: int  # groups of exact copies with different classes
    shared: int  # groups of exact copies on both sides of the source's own split
    uniform: int  # images too flat to be compared
    method: str  # how near duplicates were looked for

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        return asdict(self)

    def lines(self, most: int = 20) -> list[str]:
        """A page of text, with at most so many lines for each part."""
        of = f" of {self.files:,} files" if self.files else ""
        out = [f"{self.source}: {self.kind}, {self.images:,} images{of}"]
        out += _table("sizes", self.sizes, most)
        out += _table("stored as", self.modes, most)
        out += _table("channels", {str(key): n for key, n in self.channels.items()}, most)
        out += _table("classes", self.class_counts, most)
        out += _table("split of the source", self.split, most)
        out += _groups("exact duplicates", self.exact, most)
        if self.conflicts:
            out.append(f"  {self.conflicts:,} of these groups have different classes")
        if self.shared:
            out.append(f"  {self.shared:,} of these groups lie on both sides of the split")
        out += _groups("near duplicates", self.near, most)
        out.append(f"  {self.method}" + (f" ({self.uniform:,} uniform)" if self.uniform else ""))
        odd = summary(self.incidents)
        out.append(f"odd files: {len(self.incidents):,}" if odd else "odd files: none")
        out += [f"  {i.file}: {i.what} -> {i.done}" for i in odd[:most]]
        return out + _more(len(odd), most)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _table(title: str, counts: Mapping[str, int], most: int) -> list[str]:
    if not counts:
        return []
    width = max(len(key) for key in list(counts)[:most])
    rows = [f"  {key:<{width}}  {n:>9,}" for key, n in list(counts.items())[:most]]
    return [title, *rows, *_more(len(counts), most)]


def _groups(title: str, groups: Sequence[Sequence[str]], most: int) -> list[str]:
    if not groups:
        return [f"{title}: none"]
    rows = [f"  {' = '.join(group[:6])}{' = ...' if len(group) > 6 else ''}" for group in groups[:most]]
    count = sum(len(group) for group in groups)
    return [f"{title}: {len(groups):,} groups, {count:,} images", *rows, *_more(len(groups), most)]


def _more(n: int, most: int) -> list[str]:
    return [f"  ... and {n - most:,} more"] if n > most else []


class _Seen(NamedTuple):
    """One readable image."""

    name: str
    size: tuple[int, int]  # (width, height)
    mode: str
    channels: int
    brightest: int  # of its pixels, 0 to 255
    sha256: bytes  # of shape and pixels, before any resizing
    code: np.uint64  # the perceptual hash
    thumb: UInt8  # (16, 16, 3)


def inspect(source: str | Path) -> Inspection:
    """Reads every image of a source at its own size and reports what is odd; nothing is changed or cached."""
    with find(source) as found, workspace(cache_folder()) as allocate:
        if found.listing is not None:
            seen, kept, incidents = _look_at_files(found.listing)
            labels = None if found.listing.labels is None else [found.listing.labels[i] for i in kept]
            sides = None if found.listing.held_out is None else [found.listing.held_out[i] for i in kept]
            files = found.listing.total
        else:
            assert found.load is not None
            stack = found.load(None, allocate)
            seen, incidents = _look_at_arrays(stack), list(stack.incidents)
            labels = None if stack.labels is None else [stack.class_names[i] for i in stack.labels]
            sides = None if stack.held_out is None else stack.held_out.tolist()
            files = 0
        incidents += too_dark(found.name, max((image.brightest for image in seen), default=255))
        return _report(named(source), found.kind, files, seen, labels, sides, incidents)


def _look_at_files(listing: Listing) -> tuple[list[_Seen], list[int], list[Incident]]:
    def work(file: File) -> tuple[_Seen | None, list[Incident]]:
        try:
            opened = open_image(read_file(file))
        except Unreadable as reason:
            return None, [Incident(file.name, str(reason), "left out")]
        pixels = np.asarray(opened.image)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        notes = [Incident(file.name, what, done) for what, done in opened.notes]
        if pixels.shape[-1] == 4:
            notes.append(
                Incident(file.name, "transparency", "composited on white unless 4 channels are asked for")
            )
        codes, thumbs = fingerprints([_opaque(pixels)])
        return _seen(file.name, opened.mode, pixels, codes[0], thumbs[0]), notes

    with strict_pillow():
        looks = in_threads(work, listing.files, "files")
    incidents = [*listing.incidents, *(incident for _, notes in looks for incident in notes)]
    kept = [i for i, (seen, _) in enumerate(looks) if seen is not None]
    return [seen for seen, _ in looks if seen is not None], kept, sorted(incidents, key=lambda i: i.file)


def _look_at_arrays(stack: Stack) -> list[_Seen]:
    mode, out = {1: "L", 3: "RGB", 4: "RGBA"}[stack.pixels.shape[-1]], []
    for start in range(0, len(stack.pixels), 1024):
        part = stack.pixels[start : start + 1024]
        codes, thumbs = fingerprints([_opaque(image) for image in part])
        rows = zip(stack.names[start : start + 1024], part, codes, thumbs, strict=True)
        out += [_seen(name, mode, pixels, code, thumb) for name, pixels, code, thumb in rows]
    return out


def _opaque(pixels: UInt8) -> Image.Image:
    solid = recolour(pixels, 3) if pixels.shape[-1] == 4 else pixels
    return Image.fromarray(solid[..., 0] if solid.shape[-1] == 1 else solid)


def _seen(name: str, mode: str, pixels: UInt8, code: np.uint64, thumb: UInt8) -> _Seen:
    height, width, channels = pixels.shape
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    return _Seen(name, (width, height), mode, channels, brightest(pixels), digest, code, thumb)


def _report(
    source: str,
    kind: str,
    files: int,
    seen: Sequence[_Seen],
    labels: Sequence[str] | None,
    sides: Sequence[bool] | None,
    incidents: Sequence[Incident],
) -> Inspection:
    copies: dict[bytes, list[int]] = {}
    for i, image in enumerate(seen):
        copies.setdefault(image.sha256, []).append(i)
    exact = [group for group in copies.values() if len(group) > 1]
    first = [seen[group[0]] for group in copies.values() if min(seen[group[0]].size) >= SMALLEST]
    near, uniform = list[list[int]](), 0
    if first:
        codes, thumbs = np.array([image.code for image in first]), np.stack([image.thumb for image in first])
        near, uniform = near_groups(codes, thumbs, np.array([min(image.size) for image in first]))
    of_class = Counter(labels or ())
    sizes = Counter(f"{image.size[0]}x{image.size[1]}" for image in seen)
    return Inspection(
        source=source,
        kind=kind,
        files=files,
        images=len(seen),
        incidents=tuple(incidents),
        sizes=dict(sizes.most_common()),
        modes=dict(Counter(image.mode for image in seen).most_common()),
        channels=dict(sorted(Counter(image.channels for image in seen).items())),
        class_counts={name: of_class[name] for name in ordered(of_class)},
        split={} if sides is None else {"train": len(sides) - sum(sides), "held out": sum(sides)},
        exact=tuple(tuple(seen[i].name for i in group) for group in exact),
        near=tuple(tuple(first[i].name for i in group) for group in near),
        conflicts=0 if labels is None else sum(len({labels[i] for i in group}) > 1 for group in exact),
        shared=0 if sides is None else sum(len({sides[i] for i in group}) > 1 for group in exact),
        uniform=uniform,
        method=METHOD,
    )
