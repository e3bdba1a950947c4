"""The training loop beside a bare one on the same networks: images a second, in one run.

    python benchmarks/loop.py [--recipes edm,r3gan] [--size 16] [--width 32] [--rounds 9] [--out results.json]

Ours is what `diptych train` runs between ticks: data, seeding, phases, clipping, averages, logs, the guard
against NaN, the progress bar's questions. The bare one has its batches ready, and does forward, backward, a
fused AdamW and averaged weights, nothing else. Both compute the recipe's own loss. On a busy machine
two threads spend their time waiting for each other: use no more --threads than there are idle cores.
Target: ours >= 0.95 of the bare one's rate.
"""

from __future__ import annotations

import copy
import statistics
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych import catalog
from diptych.data.images import Images
from diptych.method import Clock
from diptych.recipe import Recipe
from diptych.runs import Run
from diptych.system.device import keep_buffers
from diptych.training.loop import Loop
from diptych.training.state import Settings, Training
from paired import finish, interleaved, parser, ratio, shown, table

BATCH = 64
TOTAL = 10**9  # images: the end of the schedule is never reached


class Rounds(Training):
    """A training that pauses without its schedule coming to an end."""

    pause = 0

    @property
    def finished(self) -> bool:
        """Whether this round is over."""
        return self.images >= self.pause


def ours(recipe: Recipe, data: Images, steps: int, start: int) -> Callable[[], None]:
    """The loop itself, without what it does at ticks."""
    training = Rounds(recipe, data, TOTAL, Settings(device="cpu", ticks=1))
    training.images = start
    loop = Loop(Run(Path()), training, 0.0, 0.0, None, lambda clock, logs: None)
    loop.tick = lambda before: None  # type: ignore[method-assign]

    def run() -> None:
        training.pause = training.images + steps * BATCH
        loop.run_to_the_end(threading.Event())

    return run


def bare(recipe: Recipe, data: Images, steps: int, start: int) -> Callable[[], None]:
    """What one would write for these networks alone."""
    method = recipe.method.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = copy.deepcopy(method.model).requires_grad_(False)
    batches = [data.batch(0, i * BATCH, BATCH) for i in range(8)]
    turns = [(phase.loss, phase.optimizer, phase.parameters) for phase in method.phases()]
    every = [p for _, _, parameters in turns for p in parameters]
    kept, moving = list(average.parameters()), list(method.model.parameters())
    clock = Clock(start, TOTAL, 0)

    def run() -> None:
        for i in range(steps):
            for loss, optimizer, parameters in turns:
                if len(turns) > 1:
                    for p in every:
                        p.requires_grad_(False)
                    for p in parameters:
                        p.requires_grad_(True)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss(batches[i % 8], clock)[0])
                optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(kept, moving, 0.01)

    return run


def recipe(name: str, data: Images, width: int) -> Recipe:
    """Equal weights for both."""
    torch.manual_seed(0)
    return catalog.recipe(name)(data, width=width, batch=BATCH)


def main() -> None:
    """Measures and prints a Markdown table."""
    flags = parser(__doc__ or "", rounds=9)
    flags.add_argument("--recipes", default=",".join(catalog.recipes()))
    flags.add_argument("--size", type=int, default=16)
    flags.add_argument("--width", type=int, default=32)
    flags.add_argument("--steps", type=int, default=4, help="in each round")
    args = flags.parse_args()
    if args.quick:
        args.size, args.width, args.rounds = 8, 16, 5
    torch.set_num_threads(args.threads)
    keep_buffers()
    pixels = np.random.default_rng(0).integers(0, 256, (2048, args.size, args.size, 3), dtype=np.uint8)
    data = Images(pixels, np.arange(2048) % 10, tuple("0123456789"))
    results: dict[str, Any] = {}
    rows = []
    for name in args.recipes.split(","):
        start = TOTAL // 2  # in the middle of the schedule: consistency's first stage has no second call
        ways = {
            way.__name__: way(recipe(name, data, args.width), data, args.steps, start) for way in (ours, bare)
        }
        seconds = interleaved(ways, args.rounds)
        rates = {key: args.steps * BATCH / statistics.median(taken) for key, taken in seconds.items()}
        found = ratio(seconds["bare"], seconds["ours"])
        results[name] = {"images/s": rates, "ours / bare": found}
        rows.append([name, *(f"{rate:.0f}" for rate in rates.values()), shown(found)])
    table(["", "ours, images/s", "bare, images/s", "ours / bare"], rows)
    finish(results, args.out)


if __name__ == "__main__":
    main()
