"""Where to compute: the device, its threads, its precision, its memory."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

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
    kind, _, index = name.partition(":")
    if not there.get(kind, False):
        have = ", ".join(kind for kind, available in there.items() if available)
        raise WrongUse(f"device {name!r} is not available here", f"there is: {have}")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if index not in ("", "0", *map(str, range(count))):
        have = ", ".join(f"{kind}:{i}" for i in range(count))
        raise WrongUse(f"device {name!r} is not available here", f"there is: {have}")
    return torch.device(name)


def moved(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Values of the CPU on a device. To a GPU from pinned memory, so that the host waits for nothing.

    Other devices are waited for: the copy must be done before memory that nobody else holds is freed.
    """
    if torch.device(device).type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def mixed(device: torch.device, precision: str, cached: bool = True) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where the device has it in hardware ("auto"), or where it is asked for.

    cached: weights in bfloat16 are kept until the end of it, in case that they are needed again.
    """
    if precision not in PRECISIONS:
        raise WrongUse(f"there is no precision called {precision!r}", f"there are: {', '.join(PRECISIONS)}")
    wanted = precision == "bfloat16" or (
        precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=cached) if wanted else nullcontext()


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS is the same each time with one of fixed size
_NO_FORM = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Operations of a GPU that are the same each time, as long as this lasts; the CPU's are so anyway.

    To be entered before anything is done on the GPU. Raises WrongUse, naming the operation, where one has no
    such form.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    kernels = cudnn.benchmark, cudnn.deterministic
    torch.use_deterministic_algorithms(True)
    # the fastest kernel of a trial differs from run to run
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        raise _without_form(str(error)) or error from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, cudnn.deterministic = kernels


def _without_form(message: str) -> WrongUse | None:
    """What to say of torch's refusal of an operation; None where the error is another one."""
    if found := _NO_FORM.search(message):
        return WrongUse(
            f"{found[1]} has no form that is the same each time on this device",
            "leave --deterministic out, train with --device cpu, or with arguments that do without it",
        )
    if WORKSPACE in message:
        return WrongUse(
            "the GPU's matrix products had begun before they were to be the same each time",
            f"set {WORKSPACE}=:4096:8 in the environment",
        )
    return None


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


def resident() -> tuple[float, float]:
    """MiB of this process that are in memory, now and at the peak; 0 where the system does not say."""
    if sys.platform == "win32":
        return _resident_on_windows()
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {
            line.split(":")[0]: float(line.split()[1]) / 1024
            for line in lines
            if line.startswith(("VmRSS", "VmHWM"))
        }
        if len(found) == 2:
            return found["VmRSS"], found["VmHWM"]
    import resource  # not on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return peak, peak


def installed() -> float:
    """MiB of memory that the machine has; 0 where the system does not say."""
    if sys.platform == "win32":
        found = _Memory(ctypes.sizeof(_Memory))
        kernel = ctypes.WinDLL("kernel32")
        return found.physical / 2**20 if kernel.GlobalMemoryStatusEx(ctypes.byref(found)) else 0.0
    with suppress(ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    return 0.0


class _Memory(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("physical", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    )


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of Windows."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("now", ctypes.c_size_t),
        ("pools_and_page_file", ctypes.c_size_t * 6),
    )


def _resident_on_windows() -> tuple[float, float]:
    found, kernel = _Counters(), ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    found.size = ctypes.sizeof(found)
    process = ctypes.c_void_p(-1)  # what GetCurrentProcess returns
    if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(found), found.size):
        return 0.0, 0.0
    return found.now / 2**20, found.peak / 2**20


def reset_peak() -> None:
    """Lets the peak start from now where the system can; elsewhere it counts from the process's start."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
