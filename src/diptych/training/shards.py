"""A step's batch in shards, and one step made of what they compute.

A shard is what goes through the networks at once. Each draws its own random numbers, a function of (seed,
images seen, phase, first row), and finds the networks' buffers as the step found them; gradients, logs and
changed buffers are averaged over all shards. So it does not matter which process computes which of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from diptych.errors import WrongUse
from diptych.system import parallel


def count_shards(batch: int, microbatch: int, processes: int, recorded: int = 0) -> int:
    """Into how many shards a batch falls: as many as microbatches, as before if that was recorded, and at
    least one for each process, alike many for all.

    Raises WrongUse where there are more processes than images.
    """
    if batch < 1:
        raise WrongUse(f"a batch has at least 1 image, not {batch}", "--batch 64, say")
    if processes > batch:
        raise WrongUse(
            f"a batch of {batch} images cannot be shared by {processes} processes",
            f"a larger --batch, or {batch} processes at most",
        )
    if recorded >= processes:
        return min(recorded, batch)
    wanted = -(-batch // microbatch) if microbatch else 1
    return min(batch, -(-wanted // processes) * processes)


def compared(network: nn.Module, batch: int) -> int:
    """How many images of a batch modules compare with each other: those that do say so as `at_once`."""
    return min(batch, max(getattr(module, "at_once", 1) for module in network.modules()))


def fewest(network: nn.Module, batch: int, processes: int) -> int:
    """The smallest microbatch that leaves together what is compared; 0 where no shard of a process could."""
    least = compared(network, batch)
    shards = batch // least // processes * processes
    return 1 if least == 1 else -(-batch // shards) if shards else 0


def caveats(network: nn.Module, batch: int, shards: int, begun: bool) -> list[str]:
    """What so many shards change of a training in one, each as a sentence.

    Raises WrongUse where shards are too small for a module that compares images, unless the run has begun:
    that goes on in any number of processes.
    """
    least, smallest = compared(network, batch), batch // shards
    found = []
    if smallest < least:
        found.append(
            f"the critic compares {least} images at a time, and a batch of {batch} in {shards} shards "
            f"shows it {smallest}"
        )
        processes = parallel.world()
        size = fewest(network, batch, processes)
        way = f"--microbatch {size} or more" if size else f"--batch {processes * least}, fewer processes"
        if not begun:
            raise WrongUse(found[0], f"{way}, or a smaller --group")
    if shards > 1 and any(isinstance(module, _BatchNorm) for module in network.modules()):
        found.append(
            f"batch norms see the {smallest} images of a shard, not the {batch} of a batch: without "
            "--microbatch, and in one process, they would learn from other means and variances"
        )
    return found


@contextmanager
def noting(network: nn.Module, batch: int) -> Iterator[None]:
    """Around a shard's work: errors say as `fewest` how small a microbatch can be (see shortage.py)."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        vars(error)["fewest"] = fewest(network, batch, parallel.world())
        raise


def split(batch: int, shards: int) -> list[slice]:
    """Rows of each shard, as even as can be.

    >>> split(8, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """
    size, longer = divmod(batch, shards)
    starts = [i * size + min(i, longer) for i in range(shards + 1)]
    return [slice(*ends) for ends in pairwise(starts)]


def reseed(*key: int) -> None:
    """torch's generators are to be a function of these numbers."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def running_statistics(network: nn.Module) -> set[str]:
    """Names of the buffers of batch norms: torch does not count these changes in a tensor's version."""
    norms = [(name, m) for name, m in network.named_modules() if isinstance(m, _NormBase) and m.training]
    return {f"{name}.{buffer}" for name, norm in norms for buffer, _ in norm.named_buffers()}


@dataclass
class Together:
    """What the shards of one phase leave, brought together."""

    network: nn.Module
    shards: int  # of all processes
    logs: dict[str, Tensor] = field(default_factory=dict)  # sums, each shard's by its share of the batch
    moved: dict[str, Tensor] = field(default_factory=dict)  # the same, of buffers that were changed

    @contextmanager
    def shard(self, share: float) -> Iterator[None]:
        """Around one shard's work: buffers are as they were before, and what becomes of them is noted."""
        if self.shards == 1:
            yield
            return
        before = {name: (b, b._version, b.clone()) for name, b in self.network.named_buffers()}
        silent = running_statistics(self.network)
        yield
        for name, now in self.network.named_buffers():
            old, version, value = before[name]
            if now is old and now._version == version and name not in silent:
                continue
            if not now.is_floating_point():  # a counter: it counts alike in all shards
                self.moved[name] = now.clone()
            else:
                part = now.float() * share
                self.moved[name] = self.moved[name] + part if name in self.moved else part
            with torch.no_grad():
                now.copy_(value)

    def add(self, logs: Mapping[str, Tensor], share: float) -> None:
        """Takes a shard's scalars into the means."""
        for name, value in logs.items():
            part = value.detach().float().reshape(()) * share
            self.logs[name] = self.logs[name] + part if name in self.logs else part

    def finish(self, gradients: Sequence[Tensor]) -> None:
        """Gradients, logs and buffers become those of the whole batch, in every process."""
        floats = {name: value for name, value in self.moved.items() if value.is_floating_point()}
        parallel.add_up([*gradients, *self.logs.values(), *floats.values()])
        if self.moved:
            buffers = dict(self.network.named_buffers())
            with torch.no_grad():
                for name, value in self.moved.items():
                    buffers[name].copy_(value)
