"""One process at a time on a run directory. The lock is the operating system's: it goes with its owner."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from diptych.errors import RunError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory, which is made where it is not there.

    Raises RunError that names the owner where another process holds it, or where it cannot be written to.
    """
    file = directory / NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+", encoding="utf-8")
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
        sign(handle)
        yield


def sign(handle: IO[str]) -> None:
    """Says in the file who holds it."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    handle.seek(0)
    handle.truncate()
    json.dump({"process": os.getpid(), "machine": platform.node(), "since": now}, handle)
    handle.flush()


def owner(handle: IO[str]) -> str:
    """Who holds it, in words.

    The file may be read while it is being signed.
    """
    handle.seek(0)
    try:
        told = json.loads(handle.read())
        return f"process {told['process']} on {told['machine']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
