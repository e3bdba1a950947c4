"""A short probe before training: how fast it goes, how many FLOPs an image takes, what memory and disk."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from diptych import parallel
from diptych.budget import Budget
from diptych.device import synchronize
from diptych.training import Training, length


@dataclass(frozen=True)
class Plan:
    """What a training is expected to take."""

    images: int
    seconds: float
    images_per_s: float
    flop_per_image: float
    memory_mib: float  # peak of the process, or of the GPU
    disk_mib: float  # checkpoint, model, samples
    probe_steps: int


def count_flops(training: Training, times: int = 5) -> float:
    """FLOPs of all phases for one image, forward and backward, the mean of some moments of the schedule."""
    with FlopCounter() as counter:
        for i in range(times):
            at_progress(training, (i + 0.5) / times)
            training.step()
    mine = sum(map(length, training.mine))  # of several processes, each counts its own
    return float(counter.flops) / (times * mine)


def at_progress(training: Training, progress: float) -> None:
    """Sets the clock, because a step's cost may depend on it."""
    training.images = int(training.total * progress)


def attention(*args: Any, **kwargs: Any) -> float:
    """FLOPs of attention: its first arguments are query, key and value."""
    return float(sdpa_flop_count(*(x.shape for x in args[:3])))  # type: ignore[no-untyped-call]


def attention_backward(*args: Any, **kwargs: Any) -> float:
    """FLOPs of its gradient: the first arguments are that of the output, query, key and value."""
    return float(sdpa_backward_flop_count(*(x.shape for x in args[:4])))  # type: ignore[no-untyped-call]


def convolution_backward(*args: Any, **kwargs: Any) -> float:
    """FLOPs of a convolution's gradients: of each that is asked for, those of the convolution itself.

    torch's own formula takes the weight's gradient of a grouped convolution for that of a full one.
    """
    grad, x, weight, transposed, (of_input, of_weight, _) = *args[:3], args[7], args[10]
    per_value = 2 * weight[0].numel()
    return float((x if transposed else grad).numel() * per_value * (of_input + of_weight))


FORMULAS: dict[Any, Callable[..., float]] = {
    **flop_registry,
    torch.ops.aten.convolution_backward: convolution_backward,
    # torch has formulas of the GPU's kernels only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums torch's own formulas over all operations.

    (FlopCounterMode's module hooks break double backward.)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := FORMULAS.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def probe(build: Callable[[int], Training], budget: Budget, *, steps: int = 20, seconds: float = 4.0) -> Plan:
    """Times up to `steps` steps, spread over the schedule because a step's cost may change with progress.

    `build` makes a training of a given total length; what it makes is thrown away.
    """
    training = build(10**9)
    flop = count_flops(training)  # these steps also warm up: they allocate
    if training.settings.compile:
        training.compile()
        training.step()  # compiling takes minutes, once
    if training.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronize(training.device)
    start, done = time.perf_counter(), 0
    while done < steps and (done < 5 or not parallel.anywhere(time.perf_counter() - start > seconds)):
        training.images = int(
            10**9 * ((done * 0.618034) % 1)
        )  # evenly over progress, however many steps there are
        training.step()
        done += 1
        synchronize(training.device)
    rate = done * training.batch / (time.perf_counter() - start)
    images = budget.images(rate, flop)
    return Plan(images, images / rate, rate, flop, peak_memory(training.device), disk(training), done)


def peak_memory(device: torch.device) -> float:
    """MiB: of the GPU's allocator, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def disk(training: Training) -> float:
    """MiB of a finished run: the state (weights, averages, optimizer slots), the model, the sample sheets."""

    def size(tensors: Iterable[torch.Tensor]) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    weights, average = (
        size(training.method.state_dict().values()),
        size(training.average.state_dict().values()),
    )
    slots = sum(
        size(slot.values()) for optimizer in training.optimizers() for slot in optimizer.state.values()
    )
    sheets = training.settings.ticks * 64 * size([training.data.tensor(slice(0, 1))]) / 2
    return (weights + 2 * average + slots + sheets) / 2**20
