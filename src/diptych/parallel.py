"""Work that several processes share: each fills its blocks of a result, and all end with the whole.

Started by torchrun; without it there is one process and all of this is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def joined() -> Iterator[int]:
    """Joins the processes that torchrun started, gives this one's rank, and leaves them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or several():
        yield rank()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield rank()
    finally:
        dist.destroy_process_group()


def several() -> bool:
    """Whether there are others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Which process this is; 0 where there is one."""
    return dist.get_rank() if several() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if several() else 1


def wait() -> None:
    """Until all have come here."""
    if several():
        dist.barrier()


def my_blocks(n: int, size: int) -> Iterator[slice]:
    """This process's share of the blocks of `size` rows that n rows fall into."""
    for start in range(rank() * size, n, world() * size):
        yield slice(start, min(n, start + size))


def united(rows: Tensor) -> Tensor:
    """The whole result, from one that has zeros in the rows of other processes."""
    if not several():
        return rows
    # nccl moves tensors on GPUs only
    on = rows.cuda() if dist.get_backend() == "nccl" and not rows.is_cuda else rows
    dist.all_reduce(on)
    return on.to(rows.device)


def anywhere(here: bool) -> bool:
    """Whether it is so in any process, so that all decide alike."""
    return bool(united(torch.tensor([int(here)])).item())
