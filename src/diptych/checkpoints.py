"""The checkpoints of a run: the last few, and the one that scored best."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.checking import need
from diptych.errors import RunError
from diptych.system.files import read_state, write, write_state

FORMAT = 2  # of the state of a training: rises when one of an older version can no longer be taken up
NUMBERS = {
    **dict.fromkeys(("images", "steps", "lines", "processes"), (int, 2**53)),
    "threads": (int, 4096),
    "reactions": (int, 64),
    "seconds": (float, 1e300),
}  # of a state, and the most that they can be


@dataclass(frozen=True)
class Checkpoints:
    """RUN/checkpoints: states by the images seen, 000000012000.safetensors, and best.safetensors."""

    directory: Path

    @property
    def kept(self) -> dict[int, Path]:
        """By the images seen, the oldest first."""
        return numbered(self.directory)

    @property
    def newest(self) -> Path | None:
        """Where a run goes on from; None before the first."""
        return next(reversed(self.kept.values()), None)

    @property
    def best(self) -> Path:
        """The state of the tick that scored best, where one was scored."""
        return self.directory / "best.safetensors"

    def at(self, images: int) -> Path:
        """Where the state after so many images is kept."""
        return self.directory / f"{images:012d}.safetensors"

    def write(self, images: int, state: dict[str, Any], keep: int) -> None:
        """Writes one more; of the numbered ones the last `keep` stay."""
        write_state(self.at(images), {"format": FORMAT, **state})
        self.prune(keep)

    def prune(self, keep: int) -> None:
        """Removes all numbered ones but the last `keep`."""
        for old in list(self.kept.values())[: -max(1, keep)]:
            old.unlink(missing_ok=True)

    def mark_best(self, images: int) -> None:
        """Gives the state after so many images a second name, under which it outlives the others."""

        def produce(temporary: Path) -> None:
            try:
                os.link(self.at(images), temporary)
            except OSError:  # a file system without links
                shutil.copyfile(self.at(images), temporary)

        if self.at(images).exists() and not same_file(self.at(images), self.best):
            write(self.best, produce)

    def read(self, path: Path) -> Any:
        """The state in a file of this folder.

        Raises RunError where it is damaged, with the one before it, or where another version wrote it.
        """
        try:
            state = read_state(path, summed=True)
        except RunError as error:
            raise RunError(error.message, self.way_out(path) or error.hint) from error
        found = state.get("format", 1) if isinstance(state, dict) else None
        if found != FORMAT:
            raise RunError(
                f"{path} is a training state of format {found}; this version reads format {FORMAT}",
                "finish the run with the version that wrote it, or begin anew from its weights by --init",
            )
        try:
            return checked(state, str(path))
        except RunError as error:
            raise RunError(error.message, self.way_out(path) or error.hint) from error

    def way_out(self, path: Path) -> str:
        """What can be done where this file is damaged."""
        others = [other for other in reversed(self.kept.values()) if other != path]
        if others and path != self.best:
            return f"remove {path.name}, and the same command goes on from {others[0]}"
        best = self.directory.parent / "best"
        return f"begin a new run from the best weights: --init {best}" if best.is_dir() else ""


def checked(state: Any, what: str) -> Any:
    """The state, where the numbers in it are those of a training. Raises RunError where they are not."""
    for name, (kind, most) in NUMBERS.items():
        if name in state:  # networks alone, of official weights say, are a state too
            need(state, {name: kind}, what)
            if not 0 <= state[name] <= most:
                raise RunError(f"{what} cannot be read: {name} is {state[name]}")
    return state


def numbered(directory: Path) -> dict[int, Path]:
    """The files that are named by how many images were seen, the earliest first; others are not ours."""
    return {
        int(p.stem): p
        for p in sorted(directory.glob("*.safetensors"))
        if p.stem.isascii() and p.stem.isdecimal() and len(p.stem) == 12
    }


def same_file(one: Path, other: Path) -> bool:
    """Whether both names are there and mean one file."""
    return one.exists() and other.exists() and one.samefile(other)
