"""Work that several processes share: each fills its blocks of a result, and all end with the whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Which process this is; 0 where there is one."""
    return dist.get_rank() if _several() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _several() else 1


def my_blocks(n: int, size: int) -> Iterator[slice]:
    """This process's share of the blocks of `size` rows that n rows fall into."""
    yield from (
        slice(start, min(n, start + size))
        for i, start in enumerate(range(0, n, size))
        if i % world() == rank()
    )


def united(rows: Tensor) -> Tensor:
    """The whole result, from one that has zeros in the rows of other processes."""
    if not _several():
        return rows
    # nccl moves tensors on GPUs only
    on = rows.cuda() if dist.get_backend() == "nccl" and not rows.is_cuda else rows
    dist.all_reduce(on)
    return on.to(rows.device)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


__all__ = ["my_blocks", "rank", "united", "world"]
