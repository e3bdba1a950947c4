"""Joules an image, where the machine counts them: RAPL through Linux's powercap, or NVIDIA's own counters.

What is told is all that the processor packages (with their memory, where it is counted) or the GPU drew while
sampling, whoever caused it; what they draw when idle is in the note, and is not taken off.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.speed import quantile, shared_timings
from diptych.scores import Estimate
from diptych.system.device import synchronize

POWERCAP = Path("/sys/class/powercap")
SPELLS, SECONDS = 6, 0.5  # how often energy is measured, and for how long: the counters move slowly
SETTLE = 1.0  # seconds of sampling before, since GPUs tell an average of the last second


class Meter(Protocol):
    """A counter of energy."""

    what: str  # what it counts for

    def joules(self) -> float:
        """Since it was made."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


@metric({"energy_j": "lower"}, cost=True, asked_only=True, timed=True)
def energy(exam: Exam) -> Mapping[str, Estimate]:
    """Joules an image at the best batch: all that processor or GPU drew meanwhile, nothing subtracted."""
    model = exam.asked("energy")
    device = model.device
    with contextlib.closing(meter_of(device)) as meter:
        batch = shared_timings(exam).fastest

        def sample() -> int:
            model.sample(range(batch), batch=batch)
            synchronize(device)
            return batch

        return joules_per_image(meter, sample, f"batch {batch}")


def joules_per_image(
    meter: Meter, sample: Callable[[], int], where: str, seconds: float = SECONDS, settle: float = SETTLE
) -> dict[str, Estimate]:
    """Energy of calls that make so many images each. Raises NotMeasurable where the counter stands still."""
    before, start = meter.joules(), time.perf_counter()
    time.sleep(settle)
    idle = (meter.joules() - before) / (time.perf_counter() - start)
    _repeat(sample, settle)
    spells = []
    for _ in range(SPELLS):
        before = meter.joules()
        images = _repeat(sample, seconds)
        spells.append((meter.joules() - before) / images)
    if not min(spells) > 0:
        raise NotMeasurable(f"the energy counter of {meter.what} stands still", "virtual machines have none")
    what = (
        f"{meter.what} at {where}, nothing subtracted; idle {idle:.3g} W; median of spells of {seconds:g} s"
    )
    return {"energy_j": quantile(sorted(spells), 0.5, "lower", "J", what)}


def _repeat(sample: Callable[[], int], seconds: float) -> int:
    start, images = time.perf_counter(), 0
    while not images or time.perf_counter() - start < seconds:
        images += sample()
    return images


def meter_of(device: torch.device) -> Meter:
    """The counter of what computes on this device. Raises NotMeasurable, with the reason, without one."""
    if device.type == "cpu":
        return Powercap()
    if device.type == "cuda":
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        with contextlib.suppress(Exception):  # no pynvml, an old driver, an old GPU: each has its own error
            return TotalEnergy(uuid)
        return PowerDraw(uuid)
    raise NotMeasurable(f"nothing counts the energy of {device.type}")


class Powercap:
    """Running average power limit counters of Intel and AMD processors: all packages, and their memory."""

    def __init__(self, root: Path = POWERCAP) -> None:
        found = {path: (path / "name").read_text().strip() for path in sorted(root.glob("intel-rapl:*"))}
        # one colon: a package; two: a part of it, of which all but memory is counted in the package already
        packages = {path for path, name in found.items() if re.fullmatch(r"package-\d+(-die-\d+)?", name)}
        memory = {path for path, name in found.items() if name == "dram"}
        if not packages:
            raise NotMeasurable(
                f"this machine does not count energy: there is no package under {root}",
                "Intel and AMD processors do under Linux; virtual machines seldom do",
            )
        self.zones = sorted(packages | memory)
        self.what = " + ".join(dict.fromkeys(re.sub(r"-.*", "s", found[zone]) for zone in self.zones))
        self.range = [_count(zone / "max_energy_range_uj") for zone in self.zones]
        self.last = [_count(zone / "energy_uj") for zone in self.zones]
        self.total = 0

    def joules(self) -> float:
        """Since it was made. The counters wrap: ask at least every minute."""
        now = [_count(zone / "energy_uj") for zone in self.zones]
        for after, before, most in zip(now, self.last, self.range, strict=True):
            self.total += after - before + (most if after < before else 0)
        self.last = now
        return self.total / 1e6

    def close(self) -> None:
        """Nothing is held."""


def _count(file: Path) -> int:
    try:
        return int(file.read_text())
    except PermissionError as error:
        raise NotMeasurable(f"{file} may not be read", f"let it be read: sudo chmod a+r {file}") from error
    except (OSError, ValueError) as error:
        raise NotMeasurable(f"{file} cannot be read: {error}") from error


class TotalEnergy:
    """The energy counter of an NVIDIA GPU (Volta or newer), by pynvml."""

    def __init__(self, uuid: str) -> None:
        self.nvml: Any = importlib.import_module("pynvml")
        self.nvml.nvmlInit()
        self.what = "GPU"
        self.gpu = self.nvml.nvmlDeviceGetHandleByUUID(uuid)
        self.first = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.gpu)

    def joules(self) -> float:
        """Since it was made."""
        now = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.gpu)
        return float(now - self.first) / 1000  # it counts millijoules

    def close(self) -> None:
        """Ends the library."""
        self.nvml.nvmlShutdown()


class PowerDraw:
    """The power of an NVIDIA GPU, read by nvidia-smi twenty times a second and summed."""

    def __init__(self, uuid: str, program: str = "nvidia-smi", patience: float = 10.0) -> None:
        self.what, self.total, self.last = "GPU", 0.0, (0.0, 0.0)  # joules; when, watts
        path = shutil.which(program)
        if path is None:
            raise NotMeasurable(f"there is no {program}, which tells what an NVIDIA GPU draws")
        query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=50"]
        self.process = subprocess.Popen(
            [path, f"--id={uuid}", *query], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lock, self.heard, self.refused = threading.Lock(), threading.Event(), ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.heard.wait(patience) or self.refused:
            self.close()
            raise NotMeasurable(f"{program} does not tell what this GPU draws: {self.refused or 'silence'}")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                watts = float(line)
            except ValueError:  # [N/A], or an error
                self.refused = self.refused or line.strip()
            else:
                with self.lock:
                    self._move(time.perf_counter(), watts)
            self.heard.set()
        self.heard.set()

    def _move(self, now: float, watts: float) -> None:
        then, before = self.last
        self.total += (now - then) * (before + watts) / 2 if then else 0.0
        self.last = now, watts

    def joules(self) -> float:
        """Since it was made; from the last reading until now at that reading's power."""
        with self.lock:
            then, watts = self.last
            return self.total + (time.perf_counter() - then) * watts

    def close(self) -> None:
        """Ends the program."""
        self.process.terminate()
        self.process.wait()
        self.reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
