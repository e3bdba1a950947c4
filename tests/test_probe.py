"""The probe: FLOPs are those of a whole period of the lazy phases, time is that of usual steps."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import made_up
from diptych import catalog
from diptych.budget import Budget
from diptych.errors import WrongUse
from diptych.system.device import installed, pick, resident
from diptych.system.machine import machine
from diptych.training import probe
from diptych.training.probe import SPELL, FlopCounter, count_flops, per_step, turns
from diptych.training.state import Settings, Training


def begun(name: str, **arguments: Any) -> Training:
    torch.manual_seed(0)
    spec, data = catalog.recipe(name), made_up().train
    return Training(spec(data, **{**spec.small, **arguments}), data, 10**9, Settings(device="cpu"))


@pytest.mark.parametrize(
    ("name", "arguments", "every"),
    [
        ("stylegan2", {"path_length": 2.0}, [1, 16, 1, 4]),
        ("sngan", {"critic_steps": 2}, [1, 2]),
        ("r3gan", {}, [1, 1]),
    ],
)
def test_flops_told_are_those_of_a_whole_period(
    name: str, arguments: dict[str, Any], every: list[int]
) -> None:
    training = begun(name, **arguments)
    assert [phase.every for phase in training.phases] == every
    told, period = count_flops(training, turns(training)), math.lcm(*every)
    with FlopCounter() as counter:
        for _ in range(period):
            training.step()
    assert told == pytest.approx(counter.flops / (period * training.batch), rel=1e-12)


def test_flops_are_the_mean_over_the_schedule() -> None:
    """Progressive growing: from next to nothing to all of the network."""
    training = begun("pggan")
    costs = turns(training)
    assert sum(costs[0]) < 0.5 * sum(costs[4])
    assert per_step(training, costs) == pytest.approx(sum(map(sum, costs)) / 5)
    assert count_flops(training, costs) == pytest.approx(per_step(training, costs) / training.batch)


class Machine:
    """A device that does what its host asks for later: a FLOP a second, but only when it is waited for."""

    def __init__(self, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
        self.training, self.now, self.waits, self.asked = training, 0.0, 0, list[int]()
        self.costs = turns(training)
        self.epochs: set[int] = set()
        monkeypatch.setattr(training, "take_turn", self.take_turn)
        monkeypatch.setattr(training, "move_average", lambda: None)
        monkeypatch.setattr(probe, "turns", lambda training: self.costs)
        monkeypatch.setattr(probe, "synchronize", self.synchronize)
        monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def take_turn(self, index: int, phase: Any, shards: Any, clock: Any) -> None:
        moment = int(clock.progress * len(self.costs))
        self.now += self.costs[moment][index]
        self.epochs.add(clock.images // len(self.training.data))
        if index == 0:
            self.asked.append(moment)

    def synchronize(self, device: torch.device) -> None:
        self.waits += 1


@pytest.mark.parametrize("name", ["stylegan2", "sngan", "pggan"])
@pytest.mark.parametrize("steps", [5, 7, 24])
def test_any_spell_tells_the_time_of_usual_steps(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a FLOP takes a second: however few steps there are, and whatever phases fall on them."""
    training = begun(name)
    Machine(training, monkeypatch)
    found = probe.probe(lambda total: training, Budget(100, "images"), steps=steps)
    assert found.probe_steps == 5  # a step takes longer than all that there is
    assert found.images_per_s * found.flop_per_image == pytest.approx(1)
    training.steps = 3
    found = probe.probe(lambda total: training, Budget(100, "images"), steps=steps, seconds=1e99)
    assert found.probe_steps == steps
    assert found.images_per_s * found.flop_per_image == pytest.approx(1)


def test_steps_are_timed_as_training_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the device at each, and one after the other: each epoch's order is found once."""
    training = begun("r3gan")
    machine = Machine(training, monkeypatch)
    found = probe.probe(lambda total: training, Budget(100, "images"), steps=5 * SPELL, seconds=1e99)
    assert found.probe_steps == 5 * SPELL
    assert machine.waits == 2  # before and after
    assert machine.asked == [moment for moment in (2, 4, 1, 3, 0) for _ in range(SPELL)]
    in_an_epoch = len(training.data) // training.batch
    assert len(machine.epochs) <= 5 * (SPELL / in_an_epoch + 1)


def test_the_peak_is_that_of_the_device_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: asked.append(device))
    probe.reset_peak_memory(torch.device("cpu"))
    probe.reset_peak_memory(torch.device("cuda:1"))
    assert asked == [torch.device("cuda:1")]


class Kernel:
    """Windows: 300 MiB now, 500 MiB at the peak; or nothing that it would say."""

    def __init__(self, says: bool) -> None:
        self.says = says

    def K32GetProcessMemoryInfo(self, process: Any, found: Any, size: int) -> int:
        counters = found._obj
        assert size == ctypes.sizeof(counters) == 8 + 8 * ctypes.sizeof(ctypes.c_size_t)
        if self.says:
            # PageFaultCount is followed by PeakWorkingSetSize and WorkingSetSize
            places = [getattr(type(counters), name).offset for name in ("peak", "now")]
            assert places == [8, 8 + ctypes.sizeof(ctypes.c_size_t)]
            counters.peak, counters.now = 500 << 20, 300 << 20
        return int(self.says)


class Installed:
    """kernel32 as far as the machine's memory goes."""

    def __init__(self, says: bool) -> None:
        self.says = says

    def GlobalMemoryStatusEx(self, status: Any) -> int:
        """16 GiB, where MEMORYSTATUSEX has ullTotalPhys."""
        memory = status._obj
        assert memory.size == ctypes.sizeof(type(memory)) == 64
        assert type(memory).physical.offset == 8
        memory.physical = 16 << 30
        return int(self.says)


def test_the_machines_memory_is_known_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no `os.sysconf` there."""
    assert installed() > 256
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(sys, "platform", "win32")
    for says, found in ((True, 16.0), (False, 0.0)):
        monkeypatch.setattr(ctypes, "WinDLL", lambda name, says=says: Installed(says), raising=False)
        assert machine("cpu")["memory_gib"] == found


def test_memory_is_known_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no `resource` there."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(Path, "read_text", None)
    for says, found in ((True, (300.0, 500.0)), (False, (0.0, 0.0))):
        monkeypatch.setattr(ctypes, "WinDLL", lambda name, says=says: Kernel(says), raising=False)
        assert resident() == found


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick("cuda:1") == torch.device("cuda", 1)
    for wrong in ("cuda:2", "cuda:x", "cuda:-1"):
        with pytest.raises(WrongUse, match=f"(?s)device '{wrong}' is not available.*there is: cuda:0"):
            pick(wrong)
