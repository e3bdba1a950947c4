"""Files that may be images, in a folder or a zip: what there is, and how it is read."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diptych.data.decode import MAX_FILE_BYTES, Unreadable
from diptych.data.images import Incident
from diptych.data.layout import File, Listing, arranged, printable
from diptych.errors import DataError
from diptych.system.files import unpacked_at_most

__all__ = ["File", "Listing", "list_folder", "list_zip", "printable", "read_file"]

# What this package leaves in a folder: a run, a saved model, a duel. Its sheets are no images to learn from.
_RESULTS = ({"recipe.json"}, {"model.json"}, {"report.json", "report.md"})


def list_folder(root: Path) -> Listing:
    """Every regular file below `root`, hidden ones, __MACOSX and runs aside."""
    files, incidents = list[File](), list[Incident]()
    for path in _walk(root, incidents):
        parts = path.relative_to(root).parts
        try:
            files.append(_file(path, parts))
        except (OSError, Unreadable) as error:
            incidents.append(Incident(printable("/".join(parts)), _sentence(error), "left out"))
    return arranged(files, incidents)


def _file(path: Path, parts: tuple[str, ...]) -> File:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
        raise Unreadable("neither a file nor a folder")
    return File(parts, status.st_size, status.st_mtime_ns, _reader(path))


def _walk(root: Path, incidents: list[Incident]) -> Iterator[Path]:
    """The files below `root`, and an incident for each folder that is not entered."""

    def name(folder: str | Path) -> str:
        return printable(Path(folder).relative_to(root).as_posix()) + "/"

    def unreadable(error: OSError) -> None:
        incidents.append(Incident(name(error.filename), _sentence(error), "left out"))

    seen = dict[tuple[int, int], str]()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=unreadable):
        status = os.stat(folder)
        first = seen.setdefault((status.st_dev, status.st_ino), folder)
        why = ""
        if first != folder:  # links can form a circle
            why = f"the same folder as {name(first)}"
        elif folder != str(root) and any(mark <= {*names} for mark in _RESULTS):
            why = "a run or a model, not images"
        if why:
            incidents.append(Incident(name(folder), why, "left out"))
            folders.clear()
            continue
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
def list_zip(path: Path, tables: Iterable[Path] = ()) -> Iterator[Listing]:
    """The members of a zip; they are read in memory, so that a member's path can do no harm.

    tables: labels.csv and the like that lie beside it.
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
        files = [_file(table, (table.name,)) for table in tables]
        for info in sorted(archive.infolist(), key=lambda info: (info.filename, info.header_offset)):
            parts = tuple(p for p in info.filename.replace("\\", "/").split("/") if p not in ("", ".", ".."))
            if parts and not info.is_dir() and not any(map(_skipped, parts)):
                files.append(File(parts, info.file_size, info.CRC, _member_reader(archive, info)))
        yield arranged(files, [])


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
