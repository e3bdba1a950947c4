"""A folder that goes with its process: at its end or, after a kill -9, when the next one is made there."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PREFIX, MARK = ".diptych-", ".aside"


@contextmanager
def aside(place: Path) -> Iterator[Path]:
    """A new folder in `place`, removed again; what dead processes of this machine left there goes too."""
    clear(place)
    made = tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True)
    with made as name, Path(name, MARK).open("wb") as mark:
        if fcntl is not None:
            with suppress(OSError):  # without a lock nobody can tell that it is dead: it stays unsigned
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mark.write(platform.node().encode())
                mark.flush()
        yield Path(name)


def clear(place: Path) -> None:
    """Removes folders of `aside` that this machine made and no process holds any more."""
    for folder in place.glob(f"{PREFIX}*") if fcntl is not None else ():
        with suppress(OSError), (folder / MARK).open("rb") as mark:
            if folder.is_symlink() or mark.read(1024) != platform.node().encode():
                continue
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
