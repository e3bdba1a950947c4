"""Files that may be images, in a folder or a zip: what there is, which class, which side of a given split."""

from __future__ import annotations

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diptych.data.decode import MAX_FILE_BYTES, Unreadable
from diptych.data.images import Incident
from diptych.errors import DataError
from diptych.files import unpacked_at_most

TABLES = ("labels.csv", "metadata.csv")
TRAIN, HELD_OUT = "train", ("test", "val", "valid", "validation")  # the first that is there is held out

# Known not to be images, so that they are not opened and do not take part in finding classes.
_SIDE_FILES = {
    *(
        ".txt",
        ".md",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".xml",
        ".html",
        ".htm",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
    ),
    *(
        ".cfg",
        ".log",
        ".db",
        ".sqlite",
        ".py",
        ".ipynb",
        ".sh",
        ".pdf",
        ".doc",
        ".docx",
        ".zip",
        ".tar",
        ".gz",
    ),
    *(".tgz", ".7z", ".rar", ".npy", ".npz", ".pt", ".pth", ".pkl", ".mat", ".h5", ".hdf5", ".parquet", ".m"),
    *(".safetensors", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mp3", ".wav", ".flac"),
}


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


def list_folder(root: Path) -> Listing:
    """Every regular file below `root`, hidden ones and __MACOSX aside."""
    files, incidents = [], []
    for path in _walk(root):
        parts = path.relative_to(root).parts
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
                raise Unreadable("neither a file nor a folder")
            files.append(File(parts, status.st_size, status.st_mtime_ns, _reader(path)))
        except (OSError, Unreadable) as error:
            incidents.append(Incident(printable("/".join(parts)), _sentence(error), "left out"))
    return _arrange(files, incidents)


def _walk(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # links can form a circle
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _skipped(name))
        yield from (Path(folder, name) for name in sorted(names) if not _skipped(name))


def _skipped(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as file:
            return _bounded(file.read(MAX_FILE_BYTES + 1))

    return read


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise Unreadable(f"more than {MAX_FILE_BYTES:,} bytes")
    return data


@contextmanager
def list_zip(path: Path) -> Iterator[Listing]:
    """The members of a zip; they are read in memory, so that a member's path can do no harm.

    Raises DataError where it is none, or declares more than 512 MiB and 50 times its own size.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is not a zip that can be read: {error}") from error
    with archive:
        declared = sum(info.file_size for info in archive.infolist())
        if declared > unpacked_at_most(path):
            raise DataError(
                f"{path} declares {declared:,} bytes, too many for its size", "unpack it yourself"
            )
        files = []
        for info in sorted(archive.infolist(), key=lambda info: (info.filename, info.header_offset)):
            parts = tuple(p for p in info.filename.replace("\\", "/").split("/") if p not in ("", ".", ".."))
            if parts and not info.is_dir() and not any(map(_skipped, parts)):
                files.append(File(parts, info.file_size, info.CRC, _member_reader(archive, info)))
        yield _arrange(files, [])


def _member_reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        if info.file_size > MAX_FILE_BYTES:
            raise Unreadable(f"{info.file_size:,} bytes declared in the zip")
        with archive.open(info) as member:  # the size that is declared is not believed
            return _bounded(member.read(MAX_FILE_BYTES + 1))

    return read


def read_file(file: File) -> bytes:
    """The file's bytes; raises Unreadable with a reason, and nothing else."""
    try:
        return file.read()
    except Unreadable:
        raise
    except Exception as error:  # broken zip members raise zlib.error, RuntimeError, NotImplementedError ...
        raise Unreadable(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    # without the path that OSError adds: the incident has it already
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _arrange(files: list[File], incidents: list[Incident]) -> Listing:
    """Finds the given split and the classes, and names what is left out."""
    total = len(files) + len(incidents)
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
    sides = None if held_out is None else tuple(f.parts[depth - 1].lower() == held_out for f in files)
    return Listing(tuple(files), labels, sides, tuple(incidents), total, tables)


def _of_the_split(files: list[File], depth: int, held_out: str, incidents: list[Incident]) -> list[File]:
    """The files of the two folders that are used."""
    kept, unused = list[File](), Counter[str]()
    for file in files:
        if len(file.parts) <= depth + 1:
            incidents.append(Incident(file.name, "lies beside the folders of the split", "left out"))
        elif file.parts[depth].lower() in (TRAIN, held_out):
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
    """The folder that is held out, where all first folders are names of splits."""
    tops = {f.parts[depth].lower() for f in files if len(f.parts) > depth + 1}
    if TRAIN not in tops or not tops <= {TRAIN, *HELD_OUT}:
        return None
    return next((name for name in HELD_OUT if name in tops), None)
