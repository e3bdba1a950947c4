"""Work that several processes share: each does its part, and all end with the whole.

Started by torchrun; without it there is one process and all of this is free.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from diptych.errors import RunError, WrongUse

MESSAGE = 1 << 24  # numbers in one: of float32, 64 MiB
AGAIN = "unless it said why, the same command again goes on from the last checkpoint"


@contextmanager
def joined() -> Iterator[int]:
    """Joins the processes that torchrun started, gives this one's rank, and leaves them at the end."""
    if started() < 2 or several():
        yield rank()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(own_gpu())
    store, own_rank, processes = next(rendezvous("env://"))
    # torchrun starts anew with the store of those that have ended, who left their addresses there
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=processes)
    try:
        yield rank()
    except RuntimeError as error:
        raise _lost(error) from error
    finally:
        dist.destroy_process_group()


def started() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_gpu() -> int:
    """The number of this process's GPU on its machine. Raises WrongUse where there are not that many."""
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise WrongUse(
            f"process {number} of this machine has no GPU: there are {there}", f"--nproc-per-node {there}"
        )
    return number


def refuse(what: str, hint: str) -> None:
    """Raises WrongUse where torchrun has started several processes of something that is for one."""
    if started() > 1:
        raise WrongUse(f"{what} is done by one process, and torchrun has started {started()}", hint)


def _lost(error: RuntimeError) -> Exception:
    """What a process says that waited in vain for another."""
    known = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    return RunError("another process of this run has ended", AGAIN) if known else error


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
    dist.all_reduce(rows)
    return rows


def anywhere(here: bool) -> bool:
    """Whether it is so in any process, so that all decide alike."""
    return everywhere([here])[0]


def everywhere(here: Sequence[bool]) -> list[bool]:
    """Of each of several questions, whether it is so in any process. No device waits for it."""
    if not several():
        return list(here)
    answers = torch.tensor(here, dtype=torch.int32)
    dist.all_reduce(answers, dist.ReduceOp.MAX)
    return [bool(answer) for answer in answers.tolist()]


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors on one device by their sums over all processes: in few, large messages."""
    if not several():
        return
    for part in _messages(tensors):
        flat = torch.cat([tensor.reshape(-1).float() for tensor in part])
        dist.all_reduce(flat)
        sizes = [tensor.numel() for tensor in part]
        sums = [s.view(t.shape) for s, t in zip(torch.split(flat, sizes), part, strict=True)]
        torch._foreach_copy_(part, sums)


def _messages(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """In order, as many at once as fit a message."""
    part: list[Tensor] = []
    for tensor in tensors:
        if part and sum(t.numel() for t in part) + tensor.numel() > MESSAGE:
            yield part
            part = []
        part.append(tensor)
    if part:
        yield part


def of_first(tree: Any) -> Any:
    """What the first process has, in all of them: numbers, strings, lists and dicts, as JSON takes them."""
    if not several():
        return tree
    text = torch.frombuffer(bytearray(json.dumps(tree).encode()), dtype=torch.uint8)
    size = torch.tensor([len(text) if rank() == 0 else 0])
    dist.broadcast(size, 0)
    text = text if rank() == 0 else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(text, 0)
    return json.loads(bytes(text.tolist()))
