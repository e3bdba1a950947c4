"""Runs that are killed with SIGKILL at random moments and started again, compared with one left in peace.

    python benchmarks/kills.py [--recipes edm,r3gan] [--each 30] [--processes 1] [--folder DIR] [--seed 0]
        [--on-alarm rollback]

Each life of a run is a forked child of a process that has imported everything and computed nothing; it is
given the arguments of `diptych train`. Kills are aimed at stages in turn: at a moment drawn uniformly from
the time that the stage takes, or before one of its file operations (an audit hook counts them, and the child
sends SIGKILL to itself). Where each fell is read from memory that is shared with the child. A run that comes
to its end is compared with the undisturbed one, and another one begun, until there were so many kills: the
same files must be there; weights, averages, optimizers, clock, log lines with alarms, and sheets of samples
and copies must be the same to the last bit.

With --processes 2 kills take the first, the second or both in turn; the one that is left must end by itself,
but for one that still waits for the other to join: that one is told to end, as torchrun tells it.

With --on-alarm rollback (or firmer) an alarm rings after half and after five sixths of the training: every
run goes back to its best checkpoint twice or more often, and kills fall there too.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)
from diptych import catalog, cli  # noqa: E402
from lives import STAGES, Marks  # noqa: E402
from paired import finish, table  # noqa: E402
from same import differences  # noqa: E402

SAME = {"snapshots": 3, "averages": 4, "exam": 48, "seed": 3, "device": "cpu"}  # 48: alarms are calibrated
LONG, SHORT = {"budget": "96-images", "ticks": 6, **SAME}, {"budget": "40-images", "ticks": 5, **SAME}
MOMENTS = ("start", "step", "exam", "sheet", "model", "averages", "checkpoint")
FILES = ("start", "sheet", "model", "averages", "log", "checkpoint", "best")
ONCE = [("best", "f"), ("start", "f"), ("step", "t"), ("exam", "t"), *((stage, "f") for stage in FILES[1:6])]
AIMS = [
    (stage, way) for pair in zip(MOMENTS, FILES, strict=True) for stage, way in zip(pair, "tf", strict=True)
]
RINGS = frozenset({48, 80})  # images of LONG after which an alarm is made to ring
JUDGED = ("collapse", "quality", "copying")  # alarms that need to know what is usual
PATIENCE = 120.0  # seconds after which a life that has not ended is said to hang


@dataclass
class Usual:
    """What an undisturbed life does: seconds and file operations of each stage, and what it imports."""

    seconds: dict[str, float]
    operations: dict[str, int]
    modules: list[str]

    def bring(self) -> None:
        """Imports the same here, so that no later life has to."""
        for name in self.modules:
            with suppress(Exception):
                importlib.import_module(name)


@dataclass
class Tally:
    """What became of one recipe."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    hung: int = 0
    left: Counter[int] = field(default_factory=Counter)  # exit codes of those whose partner was killed
    judged: int = 0  # verdicts of the undisturbed run that needed a calibration
    differences: list[str] = field(default_factory=list)


class Life:
    """One start of the command: a forked child, or one for each rank."""

    def __init__(self, command: list[str], said: Path, processes: int, aim: Aim | None) -> None:
        self.marks = [Marks() for _ in range(processes)]
        port = str(free_port()) if processes > 1 else ""
        self.pids = [self.fork(rank, command, said, port, aim) for rank in range(processes)]
        self.codes: dict[int, int] = {}

    def fork(self, rank: int, command: list[str], said: Path, port: str, aim: Aim | None) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            if port:
                here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(len(self.marks))}
                os.environ |= {**here, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            mine = aim if aim and aim.rank == rank else None
            folder = command[command.index("--out") + 1]
            rings = RINGS if "--on-alarm" in command else frozenset[int]()
            self.marks[rank].install(folder, *((mine.stage, mine.operation) if mine else ("", 0)), rings)
            code = cli.run(command)
            self.marks[rank].report(said.with_suffix(f".usual{rank}"))
        finally:
            os._exit(code)

    def ended(self, rank: int, wait: bool = False) -> bool:
        """Whether this process is no more."""
        if rank not in self.codes:
            pid, status = os.waitpid(self.pids[rank], 0 if wait else os.WNOHANG)
            if pid:
                self.codes[rank] = os.waitstatus_to_exitcode(status)
        return rank in self.codes

    def kill(self, rank: int) -> None:
        """SIGKILL, where it is not too late."""
        if not self.ended(rank):
            os.kill(self.pids[rank], signal.SIGKILL)
            self.ended(rank, wait=True)

    def outlast(self, alone: bool) -> bool:
        """Waits until all have ended; kills those that hang, and says whether there were any.

        alone: a partner was killed. Who waits for it to join is told to end, as torchrun does.
        """
        begun, hung = time.monotonic(), False
        for rank in range(len(self.pids)):
            while not self.ended(rank) and time.monotonic() < begun + PATIENCE:
                if alone and self.marks[rank].last == "start" and time.monotonic() > begun + 5:
                    os.kill(self.pids[rank], signal.SIGTERM)
                time.sleep(0.01)
            if not self.ended(rank):
                hung = True
                self.kill(rank)
        return hung

    def close(self) -> None:
        """Gives back what the children shared."""
        for marks in self.marks:
            marks.close()


@dataclass(frozen=True)
class Aim:
    """When to kill whom: at a stage's k-th time, after so many seconds, or before a file operation."""

    stage: str
    rank: int
    both: bool
    entry: int = 1
    delay: float = 0.0
    operation: int = 0  # of all of this stage's in the life; 0: at a moment

    def shoot(self, life: Life) -> bool:
        """Waits for the moment; whether it hit: the life may end before."""
        marks = life.marks[self.rank]
        if self.operation:
            while not any(life.ended(rank) for rank in range(len(life.pids))):
                time.sleep(0.002)
        else:
            seen = 0
            while seen < self.entry and not life.ended(self.rank):
                seen += marks.entries(0.05).count(self.stage)
            time.sleep(self.delay)
            life.kill(self.rank)
        if life.ended(self.rank) and life.codes[self.rank] == -signal.SIGKILL:
            if self.both:
                for rank in range(len(life.pids)):
                    life.kill(rank)
            return True
        return False


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def flags(name: str) -> list[str]:
    """Small arguments, with as much state as a recipe can have: of adaptive augmentation."""
    spec = catalog.recipe(name)
    augment = {"augment": "ada"} if spec.defaults.get("augment") == "none" else {}
    return spelled({**spec.small, **augment})


def spelled(arguments: dict[str, Any]) -> list[str]:
    """As on a command line."""
    return [part for key, value in arguments.items() for part in (f"--{key.replace('_', '-')}", str(value))]


def draw(turn: int, each: int, new: bool, processes: int, usual: Usual, rng: random.Random) -> Aim:
    """The next aim: stages in turn, moments at random. In a new run the best is still to come."""
    aims = [*AIMS, ("back", "t"), ("back", "f")] if "back" in usual.seconds else AIMS
    stage, way = ONCE[turn] if each == 0 else ("best", "f") if new and turn % 2 else aims[turn % len(aims)]
    rank, both = rng.choice(((0, False), (1, False), (0, True), (1, True))) if processes > 1 else (0, False)
    if way == "f" and usual.operations.get(stage):
        many = usual.operations[stage] if each else 3  # a life that goes on does fewer of them at its start
        return Aim(stage, 0, both, operation=rng.randint(1, min(many, usual.operations[stage])))
    entry = 1 if stage == "start" or not each else rng.randint(1, 5 if stage == "step" else 2)
    return Aim(stage, rank, both, entry, rng.uniform(0, usual.seconds.get(stage, 0.05)))


def undisturbed(command: list[str], folder: Path, processes: int) -> Usual:
    """The run that all others are compared with."""
    life = Life([*command, "--out", str(folder / "whole")], folder / "whole.txt", processes, None)
    hung = life.outlast(False)
    life.close()
    if hung or any(life.codes.values()):
        sys.exit((folder / "whole.txt").read_text()[-3000:])
    if not verdicts(folder / "whole") or not list(folder.glob("whole/samples/*-copies.png")):
        sys.exit(f"{folder / 'whole'} has no calibration, verdicts or sheets of copies to compare")
    return Usual(**json.loads((folder / "whole.usual0").read_text()))


def verdicts(run: Path) -> int:
    """Of alarms that need to know what is usual, in all log lines; 0 where that was not learned."""
    learned = json.loads((run / "recipe.json").read_text())["exam"]["calibration"]
    told = [json.loads(line)["alarms"] for line in (run / "log.jsonl").read_text().splitlines()]
    return sum(name in alarms for alarms in told for name in JUDGED) if learned else 0


def plan(folder: Path) -> None:
    """A run as it is when it was killed before its first step: planning anew would take most of the time."""
    (folder / "killed").mkdir()
    shutil.copy(folder / "whole" / "recipe.json", folder / "killed")


def trial(
    name: str, folder: Path, processes: int, each: int, rng: random.Random, on_alarm: str = "warn"
) -> Tally:
    """Kills runs of one recipe, and compares each that came to its end."""
    how = [*flags(name), *spelled(LONG if each else SHORT)]
    how += ["--on-alarm", on_alarm] if on_alarm != "warn" else []
    command = ["train", name, "digits", *how]
    folder.mkdir(parents=True)
    usual, turn = undisturbed(command, folder, processes), rng.randrange(len(AIMS)) if each else 0
    usual.bring()
    tally = Tally(judged=verdicts(folder / "whole"))
    while tally.kills.total() < (each or len(ONCE)) or (folder / "killed").exists():
        new = not (folder / "killed" / "log.jsonl").exists()
        more = tally.kills.total() < (each or len(ONCE))
        aim = draw(turn, each, new, processes, usual, rng) if more else None
        life = Life([*command, "--out", str(folder / "killed")], folder / "killed.txt", processes, aim)
        hit = aim is not None and aim.shoot(life)
        tally.hung += life.outlast(hit)
        where = life.marks[aim.rank].last if aim else ""
        life.close()
        if hit:
            turn += 1
            tally.kills[where] += 1
            tally.left.update(code for code in life.codes.values() if code != -signal.SIGKILL)
        elif all(code == 0 for code in life.codes.values()):
            tally.runs += 1
            found = differences(folder / "whole", folder / "killed")
            tally.differences += found
            shutil.move(folder / "killed", folder / f"{'different' if found else 'same'}{tally.runs}")
            turn += each > 0
            if tally.runs > 1 and more:
                plan(folder)
        else:
            tally.differences.append(f"a life ended with {life.codes}: {folder / 'killed.txt'}")
            break
    return tally


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", default=",".join(catalog.recipes()))
    parser.add_argument("--each", type=int, default=30, help="kills of each recipe; 0: one in each stage")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where runs are written, and those that differ stay")
    parser.add_argument("--on-alarm", default="warn", choices=["warn", "rollback", "firmer"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    gc.freeze()  # what is imported stays where it is: children share it
    folder = args.folder or Path(tempfile.mkdtemp(prefix="kills"))
    rows, results = [], dict[str, Any]()
    started = time.monotonic()
    for name in args.recipes.split(","):
        rng = random.Random(f"{args.seed} {name}")
        tally = trial(name, folder / name, args.processes, args.each, rng, args.on_alarm)
        for what in tally.differences[:20]:
            print(f"{name}: {what}", file=sys.stderr)
        print(f"{name} {tally.kills.total()} kills {time.monotonic() - started:.0f} s", file=sys.stderr)
        fell = [str(tally.kills[stage]) for stage in STAGES]
        rows.append([name, str(tally.kills.total()), *fell, str(tally.runs), str(len(tally.differences))])
        results[name] = {**asdict(tally), "kills": dict(tally.kills), "left": dict(tally.left)}
        if not tally.differences:
            shutil.rmtree(folder / name)
    table(["recipe", "kills", *STAGES, "runs", "differences"], rows)
    hung = sum(found["hung"] for found in results.values())
    if left := sum((Counter(found["left"]) for found in results.values()), Counter()):
        print("\nexit codes of those whose partner was killed:", dict(left))
    print(
        f"\n{len(rows)} recipes, {sum(int(row[1]) for row in rows)} kills, {hung} hung,"
        f" {sum(int(row[-1]) for row in rows)} differences, {time.monotonic() - started:.0f} s"
    )
    finish(results, args.out)
    sys.exit(bool(hung or any(found["differences"] for found in results.values())))


if __name__ == "__main__":
    main()
