"""What the names of a source's files say: which may be images, which class, which side of a given split."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from diptych.data.images import Incident

TABLES = ("labels.csv", "metadata.csv")
TRAIN = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation", "dev", "eval")  # the first that is there
_YEAR = re.compile(r"[-_]?(19|20)\d\d$")  # as in val2017

# Known not to be images, so that they are not opened and do not take part in finding classes.
_OTHER_ENDINGS = (
    ".txt .md .json .jsonl .csv .tsv .xml .html .htm .yaml .yml .toml .ini .cfg .log .db .sqlite .py .ipynb"
    " .sh .pdf .doc .docx .zip .tar .gz .tgz .7z .rar .npy .npz .pt .pth .pkl .mat .h5 .hdf5 .parquet .m"
    " .safetensors .mp4 .avi .mov .mkv .webm .mp3 .wav .flac"
)
_SIDE_FILES = frozenset(_OTHER_ENDINGS.split())


@dataclass(frozen=True)
class File:
    """One file that may be an image."""

    parts: tuple[str, ...]  # its path below the source
    size: int  # bytes, as declared
    stamp: int  # changes when the content does: the time of the last change, or a checksum
    read: Callable[[], bytes]  # at most MAX_FILE_BYTES; raises Unreadable or OSError

    @property
    def name(self) -> str:
        """Its path as it is safe to print."""
        return printable("/".join(self.parts))


@dataclass(frozen=True)
class Listing:
    """The files of a source in the order of their names."""

    files: tuple[File, ...]
    labels: tuple[str, ...] | None  # the class of each
    held_out: tuple[bool, ...] | None  # a split that came with the source
    incidents: tuple[Incident, ...]
    total: int  # files seen, those that are left out by name included
    tables: tuple[File, ...] = ()  # that may say something of the files


def printable(text: str) -> str:
    """Text without control characters or undecodable bytes, which names of files may hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def ordered(names: Iterable[str]) -> list[str]:
    """Names of classes as they are numbered: by the alphabet, or by size where all are whole numbers.

    >>> ordered(["10", "9", "0"]), ordered(["b10", "b9"])
    (['0', '9', '10'], ['b10', 'b9'])
    """
    kinds = sorted(set(names))
    return sorted(kinds, key=int) if all(name.isdecimal() for name in kinds) else kinds


def arranged(files: list[File], incidents: list[Incident]) -> Listing:
    """Finds the given split and the classes, and names what is left out."""
    total = len(files) + sum(not incident.file.endswith("/") for incident in incidents)
    tables = tuple(f for f in files if f.parts[-1].lower() in TABLES)
    others = [f for f in files if _beside(f) and f not in tables]
    incidents += [Incident(f.name, "not an image, by its name", "left out") for f in others]
    files = sorted((f for f in files if not _beside(f)), key=lambda f: f.parts)
    depth = _common_depth(files)
    held_out = _split_folder(files, depth)
    if held_out is not None:
        files = _of_the_split(files, depth, held_out, incidents)
        depth += 1
    files, labels = _classes(files, depth, incidents)
    sides = None if held_out is None else tuple(_split_name(f.parts[depth - 1]) == held_out for f in files)
    return Listing(tuple(files), labels, sides, tuple(incidents), total, tables)


def _split_name(folder: str) -> str:
    """The name of a split in small letters and without its year."""
    return _YEAR.sub("", folder.lower())


def _of_the_split(files: list[File], depth: int, held_out: str, incidents: list[Incident]) -> list[File]:
    """The files of the folders that are used."""
    kept, unused = list[File](), Counter[str]()
    for file in files:
        if len(file.parts) <= depth + 1:
            incidents.append(Incident(file.name, "lies beside the folders of the split", "left out"))
        elif _split_name(file.parts[depth]) in (*TRAIN, held_out):
            kept.append(file)
        else:
            unused[file.parts[depth]] += 1
    incidents += [
        Incident(f"{name}/", f"a third split, {n:,} files", "not used") for name, n in unused.items()
    ]
    return kept


def _classes(
    files: list[File], depth: int, incidents: list[Incident]
) -> tuple[list[File], tuple[str, ...] | None]:
    """The files that are used, and the class of each: its folder at this depth."""
    inside = [f for f in files if len(f.parts) > depth + 1]
    labels = tuple(printable(f.parts[depth]) for f in inside)
    if len(set(labels)) < 2:
        return files, None
    if len(inside) <= len(files) / 2:
        why = "half of the images or more lie beside the subfolders, not in them"
        incidents.append(Incident("./", why, "no classes taken"))
        return files, None
    for file in files:
        if len(file.parts) <= depth + 1:
            why = "lies beside the class folders, so it has no class"
            incidents.append(Incident(file.name, why, "left out"))
    return inside, labels


def _beside(file: File) -> bool:
    return os.path.splitext(file.parts[-1])[1].lower() in _SIDE_FILES


def _common_depth(files: list[File]) -> int:
    """How many leading folders all files share."""
    depth = 0
    while (
        files and len({f.parts[depth] for f in files}) == 1 and all(len(f.parts) > depth + 1 for f in files)
    ):
        depth += 1
    return depth


def _split_folder(files: list[File], depth: int) -> str | None:
    """The split that is held out, where all first folders are names of splits."""
    tops = {_split_name(f.parts[depth]) for f in files if len(f.parts) > depth + 1}
    if not tops & {*TRAIN} or not tops <= {*TRAIN, *HELD_OUT}:
        return None
    return next((name for name in HELD_OUT if name in tops), None)
