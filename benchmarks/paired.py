"""What the benchmarks share: ways timed in turn, so that a busy machine is busy for all, and their ratios."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Way = Callable[[], object]
Seconds = dict[str, list[float]]  # of each round, by the way's name


def interleaved(
    ways: Mapping[str, Way], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> Seconds:
    """Seconds of each way in each round, after one warm-up each; who goes first changes every round.

    clock: `time.process_time` counts the processor's seconds, whatever else the machine does. A way that
    returns a float has timed itself.
    """
    for way in ways.values():
        way()
    seconds: Seconds = {name: [] for name in ways}
    for i in range(rounds):
        order = list(ways.items())
        for name, way in order[i % len(order) :] + order[: i % len(order)]:
            begin = clock()
            took = way()
            seconds[name].append(took if isinstance(took, float) else clock() - begin)
    return seconds


def apart(
    makes: Mapping[str, Callable[[argparse.Namespace], Way]], args: argparse.Namespace
) -> tuple[dict[str, float], Seconds]:
    """Ways by turns, each in a process of its own, with the allocator and the threads that it sets itself.

    Returns the FLOPs of each, as torch counts them, and the seconds of args.rounds rounds: of CPU time where
    args.threads is 1.
    """
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name, make in makes.items():
        lines[name], there = context.Pipe()
        context.Process(target=_worker, args=(make, args, there), daemon=True).start()
    flops = {name: line.recv() for name, line in lines.items()}

    def asked(line: Connection) -> Way:
        def way() -> object:
            line.send(True)
            return line.recv()

        return way

    seconds = interleaved({name: asked(line) for name, line in lines.items()}, args.rounds)
    for line in lines.values():
        line.send(False)
    return flops, seconds


def _worker(make: Callable[[argparse.Namespace], Way], args: argparse.Namespace, line: Connection) -> None:
    """Makes the way, tells its FLOPs, and goes it each time it is asked."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    way = make(args)
    with FlopCounterMode(display=False) as counter:
        way()
    line.send(float(counter.get_total_flops()))
    clock = time.process_time if args.threads == 1 else time.perf_counter
    while line.recv():
        begin = clock()
        way()
        line.send(clock() - begin)


def per_flop(flops: Mapping[str, float], seconds: Seconds, name: str) -> dict[str, float]:
    """How many times faster "diptych" is than `name`, for each FLOP."""
    theirs, ours = ([s / flops[key] for s in seconds[key]] for key in (name, "diptych"))
    return ratio(theirs, ours)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How many times faster ours is, round by round: the median and the middle half."""
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"median": statistics.median(ratios), "low": low, "high": high}


def shown(found: Mapping[str, float]) -> str:
    """A ratio as it stands in a table: 1.42 (1.40..1.45)."""
    return f"{found['median']:.2f} ({found['low']:.2f}..{found['high']:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table, numbers to the right."""
    print("| " + " | ".join(head) + " |")
    print("|---|" + "---:|" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def machine() -> dict[str, Any]:
    """What was measured on, and which commit."""
    import torch

    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": git.stdout.strip() if git.returncode == 0 else "",
        "load": round(os.getloadavg()[0], 1),
    }


def cpu() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def parser(doc: str, rounds: int) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a small version that shows that it works")
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--out", type=Path, help="also write the numbers as JSON")
    return made


def finish(results: Mapping[str, Any], out: Path | None) -> None:
    """Says what it was measured on, and writes the JSON."""
    about = machine()
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))
    if out:
        command = " ".join(["python", *sys.argv])
        out.write_text(
            json.dumps({"command": command, "machine": about, "results": results}, indent=2) + "\n"
        )


def run_all(runs: Mapping[str, Sequence[str]]) -> None:
    """Runs benchmarks by name with their flags, each in its own process; says at the end which failed."""
    failed = []
    for name, flags in runs.items():
        print(f"\n## {name}.py {' '.join(flags)}\n", flush=True)
        file = Path(__file__).with_name(f"{name}.py")
        done = subprocess.run([sys.executable, str(file), *flags], check=False)
        failed += [name] if done.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def let_torchvision_load() -> None:
    """Declares the operators that torchvision asks for where it came without its compiled half."""
    import torch

    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
