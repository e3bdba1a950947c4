"""The machine card: what latency and memory were measured on. No host names, no paths."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from diptych.system import device as devices


def machine(device: torch.device | str = "auto") -> dict[str, Any]:
    """Processor, cores and threads, memory, versions, and the device that models run on."""
    where = devices.pick(str(device))
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(devices.installed() / 1024, 1),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
