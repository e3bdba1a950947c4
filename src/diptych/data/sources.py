"""What a source is: a built-in name, a folder, a zip, arrays; and what its content is recognised by."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from diptych.data import builtin
from diptych.data.arrays import Stack, beside_npy, load_npz
from diptych.data.builtin import Allocate
from diptych.data.cifar import find_cifar, load_cifar
from diptych.data.files import list_folder, list_zip
from diptych.data.idx import find_idx, load_idx, with_test
from diptych.data.images import Incident
from diptych.data.layout import TABLES, Listing, printable
from diptych.errors import DataError, did_you_mean
from diptych.system.files import expanded

log = logging.getLogger("diptych")
DRAWN_AT = 32  # pixels, where no size is asked for


@dataclass(frozen=True)
class Found:
    """A source that exists, not read yet: a listing of files, or a way to load arrays."""

    name: str
    kind: str
    stamp: str  # changes when the content does
    listing: Listing | None = None
    load: Callable[[int | None, Allocate], Stack] | None = None  # takes the size, for scenes that are drawn

    @property
    def drawn(self) -> bool:
        """Whether the pictures are made at any size, so that they need no resizing."""
        return self.kind == "drawn scenes"


def named(source: str | Path) -> str:
    """The source as it is written down: opened again, it is what it was. A path is never a built-in set."""
    built_in = isinstance(source, Path) and str(source).partition(":")[0] in builtin.NAMES
    return f"./{source}" if built_in else str(source)


@contextmanager
def find(source: str | Path) -> Iterator[Found]:
    """Finds out what `source` is; what it opens stays open inside. Raises DataError where nothing is."""
    if isinstance(source, str) and source.partition(":")[0] in builtin.NAMES:
        if Path(source).exists():
            log.warning("%s is the built-in set; write ./%s for what lies here by that name", source, source)
        yield _built_in(source)
        return
    path = expanded(source)
    if not path.exists():
        hint = did_you_mean(str(source), list(builtin.NAMES))
        raise DataError(f"there is no file, folder or built-in set called {str(source)!r}", hint)
    tables = list[Path]()
    if path.is_dir() and (archive := _only_archive(path)):
        tables = sorted(p for p in path.iterdir() if p.name.lower() in TABLES and p.is_file())
        path = archive
    if path.is_dir():
        yield _folder(path)
    elif path.suffix.lower() == ".zip":
        with list_zip(path, tables) as listing:
            yield Found(printable(path.stem), "zip of images", _stamp([path, *tables]), listing)
    else:
        yield _array_file(path, tables)


def _built_in(source: str) -> Found:
    if source.startswith("shapes"):
        n = builtin.count_of(source)
        load: Callable[[int | None, Allocate], Stack]
        load = lambda size, allocate: builtin.shapes(n, size or DRAWN_AT, allocate)  # noqa: E731
        return Found("shapes", "drawn scenes", f"shapes {n}", load=load)
    if source != "digits":
        raise DataError(f"there is no built-in set called {source!r}", "digits has a fixed number of images")
    return Found("digits", "built-in arrays", "digits", load=lambda size, allocate: builtin.digits())


def _folder(path: Path) -> Found:
    name = printable(path.resolve().name)
    if batches := find_cifar(path):
        files = sorted(p for p in batches.iterdir() if p.is_file())
        return Found(name, "CIFAR-10 batches", _stamp(files), load=lambda size, allocate: load_cifar(batches))
    if images := find_idx(path):
        files = sorted(p for p in path.iterdir() if p.is_file())
        return Found(name, "idx files", _stamp(files), load=lambda size, allocate: load_idx(images))
    listing = list_folder(path)
    looked_at = (*listing.files, *listing.tables)
    lines = [str(path.resolve()), *(f"{f.parts} {f.size} {f.stamp}" for f in looked_at)]
    lines += map(str, listing.incidents)
    return Found(name, "image folder", _digest(lines), listing)


def _only_archive(folder: Path) -> Path | None:
    """The one .npz or .zip of a folder that holds nothing else to look at (a README may lie beside it)."""
    try:
        beside = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
    archives = [p for p in beside if p.suffix.lower() in (".npz", ".zip") and p.is_file()]
    others = [
        p for p in beside if p not in archives and p.suffix.lower() not in (".md", ".txt", ".json", ".csv")
    ]
    return archives[0] if len(archives) == 1 and not others else None


def _array_file(path: Path, tables: list[Path]) -> Found:
    name, ending = printable(path.name.removesuffix(".gz").removesuffix(path.suffix)), path.suffix.lower()
    if ending in (".npz", ".npy"):
        notes = tuple(Incident(p.name, f"{path.name} has no names of files", "not used") for p in tables)

        def load(size: int | None, allocate: Allocate) -> Stack:
            stack = load_npz(path)
            return replace(stack, incidents=(*stack.incidents, *notes))

        files = [path, *beside_npy(path).values(), *tables]
        return Found(printable(path.stem), f"{ending} arrays", _stamp(files), load=load)
    if "idx" in path.name or "ubyte" in path.name:
        files = [p for p in sorted(path.parent.iterdir()) if "idx" in p.name and p.is_file()]
        images = with_test(path)
        return Found(name, "idx files", _stamp([path, *files]), load=lambda size, allocate: load_idx(images))
    raise DataError(
        f"{path} is one file, and none that holds many images",
        "give a folder or a zip of images, an .npz, an idx file, a CIFAR-10 folder, or: digits, shapes",
    )


def _stamp(paths: list[Path]) -> str:
    lines = []
    for path in paths:
        status = path.stat()
        lines.append(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}")
    return _digest(lines)


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
