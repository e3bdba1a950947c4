"""Where to compute: the device, its threads, its precision, its memory."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from diptych.errors import WrongUse

PRECISIONS = ("auto", "float32", "bfloat16")


def pick(name: str = "auto") -> torch.device:
    """The device of this name; "auto" takes cuda, then mps, then the CPU.

    Raises WrongUse where it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    if not there.get(name.partition(":")[0], False):
        have = ", ".join(kind for kind, available in there.items() if available)
        raise WrongUse(f"device {name!r} is not available here", f"there is: {have}")
    return torch.device(name)


def mixed(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where the device has it in hardware ("auto"), or where it is asked for."""
    if precision not in PRECISIONS:
        raise WrongUse(f"there is no precision called {precision!r}", f"there are: {', '.join(PRECISIONS)}")
    wanted = precision == "bfloat16" or (
        precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all it was given; nothing to wait for on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_buffers() -> None:
    """Tells glibc to keep freed memory.

    By default it gives blocks over 32 MiB back and page-faults them in again, which makes point-wise
    operations on large images two to three times slower on the CPU.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(option, 2**31 - 1)
