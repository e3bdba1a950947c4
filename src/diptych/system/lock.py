"""One process at a time on a run directory. The lock is the operating system's: it goes with its owner."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from diptych.errors import RunError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


def check_writable(directory: Path) -> None:
    """Raises RunError where a directory could not be made or written to, before work was done for it."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        said = "cannot be written to" if there.is_dir() else "is a file"
        raise RunError(f"{there} {said}", "choose another --out")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory, which is made where it is not there.

    Raises RunError that names the owner where another process holds it, where it cannot be written to, or
    where a link in it leads out of it.
    """
    file = directory / NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        no_links(directory)
        handle = file.open("ab+", buffering=0)
    except OSError as error:
        raise RunError(f"{directory} cannot be written to: {error.strerror or error}") from error
    with handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"{directory} is being written by {owner(handle)}",
                    "wait until it is done, stop it, or choose another --out",
                ) from error
            except OSError:  # a file system without locks is no reason not to train
                pass
        with suppress(OSError):  # on a full disk it holds unsigned
            sign(handle)
        try:
            yield
        finally:  # the machine is named only while this may help someone who waits
            with suppress(OSError):
                handle.truncate(0)


def no_links(directory: Path) -> None:
    """Raises RunError where something in a directory is a link: what is written there could be anyone's."""
    links = sorted(entry.name for entry in os.scandir(directory) if entry.is_symlink())
    if links:
        raise RunError(
            f"{directory / links[0]} is a link, and a run writes nothing outside its directory",
            "remove it, or put the file itself there; the run's directory may be a link as a whole",
        )


def sign(handle: FileIO) -> None:
    """Says in the file who holds it."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    handle.truncate(0)
    told = {"process": os.getpid(), "machine": platform.node(), "since": now}
    handle.write(json.dumps(told).encode())


def owner(handle: FileIO) -> str:
    """Who holds it, in words.

    The file may be read while it is being signed.
    """
    handle.seek(0)
    try:
        told = json.loads(handle.read())
        return f"process {told['process']} on {told['machine']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
