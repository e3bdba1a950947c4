"""Which images go through the networks together: as many as there is room for, or blocks of one size.

Kernels are chosen by the number of rows, and may treat the last of them differently: an image is the same
bit for bit only where its block is of the same size and it lies in the same row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

Block = tuple[dict[int, int], Sequence[int]]  # which image is read from which row; the image of each row


def plain_blocks(n: int, batch: int) -> Iterator[Block]:
    """n images, `batch` at a time, in order."""
    for start in range(0, n, batch):
        rows = range(start, min(n, start + batch))
        yield {image: row for row, image in enumerate(rows)}, rows


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums on the CPU depend on the number of threads, to the last bit: one, as long as this lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
