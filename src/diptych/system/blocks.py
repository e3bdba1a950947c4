"""Which images go through the networks together: as many as there is room for, or blocks of one size.

Kernels are chosen by the number of rows, and may treat the last of them differently: an image is the same
bit for bit only where its block is of the same size and it lies in the same row.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from diptych.system.shortage import is_shortage

log = logging.getLogger("diptych")

Block = tuple[dict[int, int], Sequence[int]]  # which image is read from which row; the image of each row


def while_it_fits(draw: Callable[[range], Tensor], n: int, batch: int) -> Iterator[tuple[range, Tensor]]:
    """n images in order, `batch` at a time; from where memory does not suffice for them, half as many.

    Raises what the allocator raises where there is no room for one.
    """
    start = 0
    while start < n:
        rows = range(start, min(n, start + batch))
        try:
            found = draw(rows)
        except (MemoryError, RuntimeError) as error:
            if len(rows) == 1 or not is_shortage(error):
                raise
            found = None  # what failed keeps its memory for as long as its error is known
        if found is None:
            batch = len(rows) // 2
            log.warning("no memory for %d images at once: %d at a time from here on", len(rows), batch)
            continue
        yield rows, found
        start = rows.stop


def exact_blocks(seeds: Sequence[int], size: int) -> Iterator[Block]:
    """Blocks of one size with each seed in its own row, seed modulo size: neighbours without a gap fill them.

    Rows that are left over draw an image of the block again.
    """
    blocks: list[dict[int, int]] = []
    used = [0] * size  # blocks that have an image in this row
    for image, seed in enumerate(seeds):
        row = seed % size
        if used[row] == len(blocks):
            blocks.append({})
        blocks[used[row]][row] = image
        used[row] += 1
    for block in blocks:
        spare = next(iter(block.values()))
        places = {image: row for row, image in block.items()}
        yield places, [block.get(row, spare) for row in range(size)]


def block_size(device: torch.device) -> int:
    """Images in a block of exact sampling. A processor pays for each of them, a GPU hardly."""
    return 4 if device.type == "cpu" else 16


_LOCK = threading.Lock()
_ASKING: list[int] = []  # the number of threads that each caller of `one_thread` found


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums on the CPU depend on the number of threads, to the last bit: one, as long as this lasts.

    The number is the process's: with several callers at once it is one until the last of them is done.
    """
    with _LOCK:
        _ASKING.append(_ASKING[0] if _ASKING else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            before = _ASKING.pop()
            if not _ASKING:
                torch.set_num_threads(before)
