"""A GAN's training step: images a second, the share of the convolution ceiling, what lazy penalties save.

    python benchmarks/gan_step.py [--size 32] [--batch 64] [--rounds 5] [--threads 1] [--out results.json]

The whole step as `diptych train` takes it: both networks, penalties, averages, logs. A round of StyleGAN2
is 16 steps, so that its lazy R1 has its turn in each. The ceiling is a 3x3 convolution of 128 channels at
half of the size, channels-last, forward and both gradients, measured in the same rounds. FLOPs are counted,
the double backward included; on one thread by CPU time, so that a busy machine can be used.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from diptych import catalog
from diptych.data.images import Images
from diptych.system.device import keep_buffers
from diptych.training.probe import FlopCounter
from diptych.training.state import Settings, Training
from paired import finish, interleaved, parser, ratio, shown, table

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "r3gan, R1 and R2 at each step": ("r3gan", {}, 4),
    "stylegan2, R1 at each 16th step": ("stylegan2", {"r1_every": 16}, 16),
    "stylegan2, R1 at each step": ("stylegan2", {"r1_every": 1}, 16),
}


def steps(name: str, arguments: dict[str, Any], count: int, data: Images, batch: int) -> Callable[[], None]:
    """So many steps of a recipe with its defaults."""
    torch.manual_seed(0)
    recipe = catalog.recipe(name)(data, batch=batch, **arguments)
    training = Training(recipe, data, 10**9, Settings(device="cpu"))

    def run() -> None:
        for _ in range(count):
            training.step()

    return run


def convolution(size: int, batch: int, channels: int = 128) -> tuple[Callable[[], None], float]:
    """A convolution with both gradients, and its FLOPs."""
    side = size // 2
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1)
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        for _ in range(4):
            torch.autograd.backward(layer(x), y)

    return run, 4 * 3 * 2 * batch * side * side * channels * channels * 9.0


def main() -> None:
    """Measures and prints a Markdown table."""
    flags = parser(__doc__ or "", rounds=5)
    flags.add_argument("--size", type=int, default=32)
    flags.add_argument("--batch", type=int, default=64)
    args = flags.parse_args()
    if args.quick:
        args.size, args.batch, args.rounds = 16, 8, 3
    torch.set_num_threads(args.threads)
    keep_buffers()
    pixels = np.random.default_rng(0).integers(0, 256, (1024, args.size, args.size, 3), dtype=np.uint8)
    data = Images(pixels, None, ())
    ways: dict[str, Callable[[], None]] = {}
    flops: dict[str, float] = {}
    for label, (name, arguments, count) in CASES.items():
        ways[label] = steps(name, arguments, count, data, args.batch)
        with FlopCounter() as counter:
            ways[label]()
        flops[label] = counter.flops
    ways["ceiling"], flops["ceiling"] = convolution(args.size, args.batch)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    seconds = interleaved(ways, args.rounds, clock)
    rate = {key: flops[key] / statistics.median(taken) / 1e9 for key, taken in seconds.items()}
    results: dict[str, Any] = {"ceiling GFLOP/s": rate["ceiling"]}
    rows = []
    for label, (_, _, count) in CASES.items():
        images = count * args.batch
        results[label] = {
            "images/s": images / statistics.median(seconds[label]),
            "GFLOP an image": flops[label] / images / 1e9,
            "GFLOP/s": rate[label],
            "share of the ceiling": rate[label] / rate["ceiling"],
        }
        found = results[label]
        rows.append([label, *(f"{value:.3g}" for value in found.values())])
    table(["", "images/s", "GFLOP an image", "GFLOP/s", "share of the ceiling"], rows)
    lazy, each = (seconds[label] for label in list(CASES)[1:])
    results["each step / lazy"] = ratio(each, lazy)
    print(
        f"\nceiling {rate['ceiling']:.0f} GFLOP/s; R1 at each step takes {shown(ratio(each, lazy))} as long"
    )
    finish(results, args.out)


if __name__ == "__main__":
    main()
