"""Training steps in one process and in two: images a second, what averaging costs, what lies on each process.

    python benchmarks/processes.py [--recipes edm,r3gan] [--size 32] [--width 32] [--batch 32] [--rounds 5]
        [--out results.json]

One process with one thread and with two, and two processes with one thread each (gloo, as torchrun starts
them), in turn; for denoisers also two processes in shares (--shard). A step is all phases on one batch; sums
are what a process spends in collectives, once with waiting for the other, and once alone, after a barrier.
Seconds of the processors say more than images a second where other things run on the machine.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from diptych import catalog
from diptych.data.images import Images
from diptych.system import parallel
from diptych.system.device import keep_buffers
from diptych.training import fsdp
from diptych.training.state import Settings, Training
from paired import finish, interleaved, parser, table

TOTAL = 10**9  # images: the end of the schedule is never reached


class Counted:
    """Seconds and bytes of all sums over processes."""

    def __init__(self) -> None:
        self.seconds, self.bytes, self.reduce = 0.0, 0, torch.distributed.all_reduce

    def __call__(self, tensor: torch.Tensor, *rest: Any) -> Any:
        """One more."""
        begun = time.perf_counter()
        done = self.reduce(tensor, *rest)
        self.seconds += time.perf_counter() - begun
        self.bytes += tensor.nbytes
        return done


class Member:
    """One process: trainings of one recipe, and what is asked of them."""

    def __init__(self, recipe: str, size: int, width: int, batch: int) -> None:
        keep_buffers()
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (512, size, size, 3), dtype=np.uint8)
        self.data = Images(pixels, np.arange(512) % 10, tuple("0123456789"))
        self.recipe, self.arguments = recipe, {"width": width, "batch": batch}
        self.kinds: dict[bool, Training] = {}

    def training(self, shared: bool) -> Training:
        """With weights in shares or not; made when it is first asked for."""
        if shared not in self.kinds:
            torch.manual_seed(0)
            made = catalog.recipe(self.recipe)(self.data, **self.arguments)
            self.kinds[shared] = Training(made, self.data, TOTAL, Settings(device="cpu", fsdp=shared))
        return self.kinds[shared]

    def steps(self, n: int, threads: int, shared: bool) -> dict[str, float]:
        """Seconds of n steps, of the processor in them, and in sums over processes; bytes of those."""
        torch.set_num_threads(threads)
        training = self.training(shared)
        counted = Counted()
        parallel.dist.all_reduce = counted  # type: ignore[assignment]
        parallel.wait()
        begun, used = time.perf_counter(), time.process_time()
        for _ in range(n):
            training.step()
        found = {"wall": time.perf_counter() - begun, "cpu": time.process_time() - used}
        parallel.dist.all_reduce = counted.reduce
        return {**found, "sums": counted.seconds, "bytes": float(counted.bytes)}

    def alone(self, n: int) -> float:
        """Seconds in which the two add up what one step adds up, when neither waits for the other."""
        gradients = [[torch.zeros_like(p) for p in phase.parameters] for phase in self.training(False).phases]
        took = []
        for _ in range(n):
            parallel.wait()
            begun = time.perf_counter()
            for part in gradients:
                parallel.add_up(part)
            took.append(time.perf_counter() - begun)
        return statistics.median(took)

    def held(self, shared: bool) -> float:
        """MiB of weights, averages and optimizer slots on this process."""
        training = self.training(shared)
        slots = [s for o in training.optimizers() for kept in o.state.values() for s in kept.values()]
        tensors = [*training.method.parameters(), *training.average.parameters(), *slots]
        return sum(t.nbytes for t in fsdp.local(tensors)) / 2**20


def member(rank: int, n: int, port: int, ask: Connection, *given: Any) -> None:
    """Answers what it is asked until it is asked nothing."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_PORT": port}
    os.environ |= {**{k: str(v) for k, v in place.items()}, "MASTER_ADDR": "127.0.0.1"}
    with parallel.joined():
        here = Member(*given)
        while question := ask.recv():
            name, *arguments = question
            ask.send(getattr(here, name)(*arguments))


class Team:
    """Processes that train together."""

    def __init__(self, n: int, *given: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.ends, self.members = [], []
        for rank in range(n):
            ours, theirs = multiprocessing.Pipe()
            self.ends.append(ours)
            one = multiprocessing.get_context("spawn").Process(
                target=member, args=(rank, n, port, theirs, *given)
            )
            one.start()
            self.members.append(one)

    def ask(self, *question: Any) -> list[Any]:
        """The answer of each."""
        for end in self.ends:
            end.send(question)
        return [end.recv() for end in self.ends]

    def close(self) -> None:
        """Lets them go."""
        for end in self.ends:
            end.send(())
        for one in self.members:
            one.join()


def timed(team: Team, n: int, threads: int, shared: bool, notes: list[list[dict[str, float]]]) -> float:
    """Seconds of n steps, of the slower member; what else they say goes to the notes."""
    notes.append(team.ask("steps", n, threads, shared))
    return max(each["wall"] for each in notes[-1])


def measure(recipe: str, size: int, width: int, batch: int, rounds: int, steps: int) -> dict[str, Any]:
    """All ways of one recipe."""
    one, two = (Team(n, recipe, size, width, batch) for n in (1, 2))
    notes: dict[str, list[list[dict[str, float]]]] = {}
    ways: dict[str, Callable[[], float]] = {}
    kinds = [("1 process, 1 thread", one, 1, False), ("1 process, 2 threads", one, 2, False)]
    kinds += [("2 processes, 1 thread", two, 1, False)]
    if catalog.recipe(recipe).name in ("edm", "edm2", "dit", "ddpm", "flow", "adm", "iddpm"):
        kinds += [("2 processes, in shares", two, 1, True)]
    for name, team, threads, shared in kinds:
        notes[name] = []
        ways[name] = partial(timed, team, steps, threads, shared, notes[name])
    seconds = interleaved(ways, rounds)
    found: dict[str, Any] = {}
    for name, _, _, shared in kinds:
        answers = notes[name][1:]  # the first round warms up
        found[name] = {
            "images_per_s": steps * batch / statistics.median(seconds[name]),
            "cpu_s_per_1000": 1000
            * statistics.median(sum(m["cpu"] for m in each) for each in answers)
            / (steps * batch),
            "sums_share": statistics.median(each[0]["sums"] / each[0]["wall"] for each in answers),
            "mib_a_step": answers[0][0]["bytes"] / steps / 2**20,
            "held_mib": (two if "2 processes" in name else one).ask("held", shared)[0],
        }
    alone = max(two.ask("alone", 9))
    plain = statistics.median(seconds["2 processes, 1 thread"]) / steps
    found["averaging"] = {"alone_ms": 1000 * alone, "share_of_step": alone / plain}
    one.close()
    two.close()
    return found


def tell(recipe: str, about: str, found: dict[str, Any]) -> None:
    """The table of one recipe."""
    print(f"\n{recipe}, {about}\n")
    head = ["way", "images/s", "CPU s / 1,000", "in sums, with waiting", "MiB summed a step", "MiB held"]
    rows = []
    for name, way in found.items():
        if name == "averaging":
            continue
        summed = name == "2 processes, 1 thread"  # in shares, FSDP does it
        waiting = f"{100 * way['sums_share']:.1f} %" if summed else ""
        mib = f"{way['mib_a_step']:.1f}" if summed else ""
        speed = f"{way['images_per_s']:.1f}", f"{way['cpu_s_per_1000']:.1f}"
        rows.append([name, *speed, waiting, mib, f"{way['held_mib']:.1f}"])
    table(head, rows)
    alone, share = found["averaging"]["alone_ms"], 100 * found["averaging"]["share_of_step"]
    print(f"\naveraging alone: {alone:.1f} ms, {share:.1f} % of a step")


def main() -> None:
    """The table of each recipe."""
    flags = parser(__doc__, rounds=5)
    flags.add_argument("--recipes", default="edm,r3gan")
    for name, value in (("size", 32), ("width", 32), ("batch", 32), ("steps", 2)):
        flags.add_argument(f"--{name}", type=int, default=value)
    given = flags.parse_args()
    if given.quick:
        given.size, given.width, given.batch, given.rounds = 8, 8, 8, 2
    results = {}
    for recipe in given.recipes.split(","):
        results[recipe] = measure(recipe, given.size, given.width, given.batch, given.rounds, given.steps)
        tell(recipe, f"{given.size} px, width {given.width}, batch {given.batch}", results[recipe])
    finish(results, given.out)


if __name__ == "__main__":
    main()
