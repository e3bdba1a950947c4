"""A small training to which something happens; and, as a program, one on a disk that fills up or cannot be
written to, and one that is given too little memory. For test_faults.py and test_ends.py.

    unshare --map-root-user --mount python faults.py DISK

DISK is a directory. A file system of 3 MiB is mounted there, for this process alone.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from conftest import made_up, newest, train_unprobed
from diptych import catalog
from diptych.errors import RunError
from diptych.method import Clock, Method
from diptych.model import Model
from diptych.runs import Run
from diptych.system.files import is_temporary, read_tensors
from diptych.training.loop import train
from diptych.training.state import Settings

GAN = catalog.recipe("dcgan")
SMALL = {**GAN.small, "augment": "ada"}
SETTINGS = Settings(budget="96-images", ticks=6, device="cpu", seed=3)  # two steps a tick
BLOCK = 4096
TIMES = ("seconds", "tick_seconds", "sheet_seconds", "exam_seconds")


@dataclass
class Scores:
    """An exam that finds the model best after 32 images, raises after `fails`, and remembers who asked."""

    fails: float = math.inf
    n: int = 1
    every: int = 1
    images: int = 0  # that training has seen
    asked: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)

    def settled(self, model: Model, seconds: float, ticks: int, recorded: Mapping[str, Any]) -> Scores:
        self.asked.append((seconds, ticks, dict(recorded)))
        return self

    def terms(self) -> dict[str, Any]:
        return {"n": self.n, "every": self.every}

    def memory(self, method: Method, clock: Clock) -> dict[str, float]:
        return {}

    def judge(self, history: Sequence[Mapping[str, Any]], clock: Clock) -> dict[str, dict[str, Any]]:
        return {}

    def copies(self, verdicts: Mapping[str, Mapping[str, Any]]) -> None:
        return None

    def __call__(self, model: Model) -> dict[str, float]:
        if self.images >= self.fails:
            raise ValueError("there is no such thing")
        return {"fid": 5 + abs(self.images - 32) / 16}


def go(
    out: Path, stop: float = math.inf, exam: Scores | None = Scores(), force: bool = False, **how: Any
) -> Run:
    """Trains, or breaks off in the tick after `stop` images: before its checkpoint, after its log line."""
    told: list[int] = []

    def watch(clock: Clock, logs: Mapping[str, float]) -> None:
        if clock.images > stop and clock.images in told:  # of a tick the second time, after the exam
            raise KeyboardInterrupt
        told.append(clock.images)
        if exam is not None:
            exam.images = clock.images

    as_ever: dict[str, Any] = {"arguments": SMALL, "settings": replace(SETTINGS, **how), "examine": exam}
    return train_unprobed(GAN, made_up(), out, watch=watch, force=force, **as_ever)


def broken_off(out: Path, stop: int, **how: Any) -> Run:
    """A run of which that is left."""
    try:
        go(out, stop, **how)
    except KeyboardInterrupt:
        return Run(out)
    raise AssertionError("it went on")


def same(one: Run, other: Run) -> bool:
    """Whether two finished runs ended alike: state, weights, log, pictures."""
    for file in ("model.safetensors", "best/model.safetensors", "best/model.json"):
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file
    ours, theirs = (read_tensors(newest(run))[0] for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    logs = [[{k: v for k, v in line.items() if k not in TIMES} for line in run.log()] for run in (one, other)]
    assert logs[0] == logs[1]
    sheets = [{file.name: file.read_bytes() for file in (r.path / "samples").iterdir()} for r in (one, other)]
    return sheets[0] == sheets[1]


def hint_of(error: RunError, pattern: str) -> str:
    """What a hint names."""
    found = re.search(pattern, error.hint)
    assert found, error.hint
    return found[1]


def fill(disk: Path, free: int) -> Path:
    """A file that leaves so many bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(room(disk) - free))
    return ballast


def room(disk: Path) -> int:
    """Bytes that are free."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def full(disk: Path) -> dict[str, Any]:
    """What a run says when the disk fills up after so many blocks, what is left of it, whether it goes on."""
    run, said, torn, left = Run(disk / "run"), {}, 0, 0
    broken_off(run.path, 32, keep=20)
    for blocks in range(0, 120, 6):
        good = newest(run)
        before = good.read_bytes()
        ballast = fill(disk, blocks * BLOCK)
        try:
            go(run.path, keep=20)
            break
        except RunError as error:
            said[str(blocks)] = error.message.replace(str(run.path), "RUN")
        torn += good.read_bytes() != before
        run.checkpoints.read(newest(run))  # raises where it is damaged
        left += len([file for file in run.path.rglob("*") if is_temporary(file)])
        ballast.unlink()
    return {"said": said, "torn": torn, "left": left, "finished": go(run.path, keep=20).finished}


def read_only(disk: Path) -> dict[str, str]:
    """What a run says on a disk that cannot be written to: one that was begun, and a new one."""
    broken_off(disk / "begun", 32)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    said = {}
    for name in ("begun", "new"):
        try:
            go(disk / name)
        except RunError as error:
            said[name] = error.message.replace(str(disk), "DISK")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    said["afterwards"] = str(go(disk / "begun").finished)
    return said


def little_memory() -> str:
    """What a training says that may take 64 MiB more than the process has, and needs far more."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + (64 << 20), resource.RLIM_INFINITY))
    try:
        large = {**GAN.small, "batch": 64, "width": 256, "largest": 1024}
        train(GAN, made_up((3, 64, 64)), "never", arguments=large, settings=SETTINGS)
    except RunError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "nothing"


def main(disk: Path) -> None:
    """Prints what was found, as JSON."""
    torch.set_num_threads(1)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], check=True)
    found = {"full": full(disk)}
    subprocess.run(["umount", str(disk)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], check=True)
    print(json.dumps({**found, "read only": read_only(disk), "memory": little_memory()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
