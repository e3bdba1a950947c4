"""A pickle read as data: its opcodes are followed, and nothing that it names is imported, called or set.

An ordinary unpickler calls what a file tells it to call. Here a name stays a name, a call stays a note of
what would have been called with what, and only names that are needed may appear at all. The one call that is
made is that of bytes, which protocol 2 writes as text to be encoded.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from typing import IO, Any

from diptych.unpickler.machine import ENCODE, ConvertError, Machine, Made, Name, Stored
from diptych.unpickler.opcodes import STEPS

__all__ = ["ENCODE", "ConvertError", "Made", "Name", "Stored", "read_pickle"]
MOST_OPCODES = 2_000_000


def read_pickle(source: IO[bytes], allowed: Callable[[Name], bool], stored: bool = False) -> Any:
    """The next pickle of `source` as plain values, `Made`, `Name` and, where `stored`, `Stored`.

    source lies in memory or is mapped to it, so that no length in it can ask for more than there is.

    Raises ConvertError where it is damaged, too long, or names what is not allowed.
    """
    machine = Machine(allowed, stored)
    try:
        for code, argument, position in limited(pickletools.genops(source)):
            machine.position = position or 0
            step = STEPS.get(code)
            if step is None:
                raise ConvertError(f"it holds the instruction {code}, which is not needed here")
            step(machine, argument)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, RecursionError) as error:
        raise ConvertError(f"it is damaged at byte {machine.position:,}: {reason(error)}") from error
    return machine.result


def limited(steps: Iterator[tuple[Any, Any, int | None]]) -> Iterator[tuple[str, Any, int | None]]:
    """The opcodes' names, with an end to their number."""
    for count, (opcode, argument, position) in enumerate(steps):
        if count >= MOST_OPCODES:
            raise ConvertError(f"it is longer than {MOST_OPCODES:,} instructions")
        yield opcode.name, argument, position


def reason(error: Exception) -> str:
    """What went wrong in a few words: messages may quote the file."""
    text = str(error).split("\n")[0][:100]
    return text if text and text.isprintable() else type(error).__name__
