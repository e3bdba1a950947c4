"""Memory that does not suffice, said in a sentence."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from diptych.errors import RunError

# how torch's allocator for the CPU says it: there is no type for that
SAID = ("not enough memory", "can't allocate memory", "out of memory", "cannot allocate memory")


def remedy(description: Mapping[str, Any]) -> Callable[[int | None], str]:
    """What helps a training that is described as in recipe.json: fewer images at once, down to so many.

    None: it is not known how many; 0: no fewer are possible.
    """
    at_once = description["settings"]["microbatch"] or description["arguments"].get("batch", 0)
    known = f"than {at_once} " if at_once else ""  # 0 is as many as the recipe takes

    def hint(fewest: int | None) -> str:
        if fewest == 0 or 0 < at_once <= (fewest or 1):
            return "no fewer images can go through at once: a smaller --width or --size takes less"
        fewer = f": {max(fewest, at_once // 2 or 4)}, say" if fewest else ""
        begun = "where the run has begun, with --force"
        return f"--microbatch lets fewer {known}images through at once{fewer}; {begun}"

    return hint


@contextmanager
def enough_memory(work: str, hint: str | Callable[[int | None], str]) -> Iterator[None]:
    """Around work that may take more memory than there is.

    Raises RunError with the hint where it does; one that is computed is told the smallest microbatch, which
    an error out of a training has as `fewest`.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_shortage(error):
            raise
        first = str(error).partition("\n")[0] or "no more is to be had"
        said = hint if isinstance(hint, str) else hint(getattr(error, "fewest", None))
        raise RunError(f"{work} needs more memory than there is: {first}", said) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, of a GPU or of the machine."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or (isinstance(error, RuntimeError) and any(text in str(error).lower() for text in SAID))
