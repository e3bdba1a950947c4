"""A short probe before training: how fast it goes, how many FLOPs an image takes, what memory and disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import truediv

import torch

from diptych.budget import Budget
from diptych.system import parallel
from diptych.system.device import resident, synchronize
from diptych.system.flops import FlopCounter
from diptych.training.state import Training, length

Costs = list[list[float]]  # FLOPs of each phase at some moments of the schedule: see `turns`
SPELL = 8  # steps at one moment of the schedule: an epoch's order is found once, and kept for its steps
LEAST = 5  # steps that are timed at any rate


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


def turns(training: Training, times: int = 5) -> Costs:
    """FLOPs of each phase's turn, forward and backward, at some moments of the schedule: (moments, phases).

    Each phase takes one turn at each moment, whether it is due then or not.
    """
    found = []
    for moment in range(times):
        at_progress(training, middle(moment, times))
        with FlopCounter() as counter:
            shards = training.my_shards(training.images)
            ends = []
            for index, phase in enumerate(training.phases):
                training.take_turn(index, phase, shards, training.clock)
                ends.append(counter.flops)
        found.append([end - begin for begin, end in pairwise([0.0, *ends])])
    return found


def per_step(training: Training, costs: Costs) -> float:
    """FLOPs of a step: each phase's as often as it is due, the mean of the moments."""
    often = [phase.every for phase in training.phases]
    return sum(sum(map(truediv, cost, often)) for cost in costs) / len(costs)


def count_flops(training: Training, costs: Costs) -> float:
    """FLOPs of all phases for one image; costs: of `turns`."""
    mine = sum(map(length, training.mine))  # of several processes, each counts its own
    return per_step(training, costs) / mine


def due(training: Training, cost: Sequence[float]) -> float:
    """FLOPs of the next step, of each phase's at that moment."""
    return sum(f for phase, f in zip(training.phases, cost, strict=True) if training.steps % phase.every == 0)


def middle(moment: int, times: int) -> float:
    """The progress in the middle of one of so many parts of the schedule."""
    return (moment + 0.5) / times


def at_progress(training: Training, progress: float) -> None:
    """Sets the clock, because a step's cost may depend on it."""
    training.images = int(training.total * progress)


def probe(build: Callable[[int], Training], budget: Budget, *, steps: int = 24, seconds: float = 4.0) -> Plan:
    """Times up to `steps` steps, spread over the schedule because a step's cost may change with progress.

    `build` makes a training of a given total length; what it makes is thrown away.
    """
    training = build(10**9)
    costs = turns(training)  # these also warm up: they allocate
    if training.settings.compile:
        training.compile()
        training.step()  # compiling takes minutes, once
    reset_peak_memory(training.device)
    done, rate = timed(training, costs, steps, seconds)
    flop = count_flops(training, costs)
    images = budget.images(rate, flop)
    return Plan(images, images / rate, rate, flop, peak_memory(training.device), disk(training), done)


def timed(training: Training, costs: Costs, steps: int, seconds: float) -> tuple[int, float]:
    """Steps made in about so many seconds, and images a second, as the loop makes them: the device is waited
    for at the end only.

    Few steps may hold too many or too few turns of a lazy phase, or lie at a cheap moment,
    so that their FLOPs say how many usual steps they are worth.
    """
    synchronize(training.device)
    start, done, flops, late = time.perf_counter(), 0, 0.0, False
    while done < steps and (done < LEAST or not late):
        moment = (2 + 2 * (done // SPELL)) % len(costs)  # of five the middle one first, then all others
        if done % SPELL == 0:
            at_progress(training, middle(moment, len(costs)))
        flops += due(training, costs[moment])
        training.step()
        done += 1
        late = parallel.anywhere(time.perf_counter() - start > seconds)
    synchronize(training.device)
    usual = per_step(training, costs)
    worth = flops / usual if usual and flops else done  # some methods do nothing that has a formula
    return done, worth * training.batch / (time.perf_counter() - start)


def reset_peak_memory(device: torch.device) -> None:
    """Forgets what the GPU's allocator had in use before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """MiB: of the GPU's allocator, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident()[1]


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
