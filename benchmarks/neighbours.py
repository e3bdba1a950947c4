"""Precision, recall, density and coverage: ours beside prdc and torch-fidelity, and ours as the images grow.

    python benchmarks/neighbours.py [--sizes 5000 10000 20000 50000] [--dim 2048] [--rounds 3] [--threads 2]

The same seeded features for all: 64 directions in 2,048 dimensions, and noise. Peers are asked for what they
have (prdc: all four, k = 5; torch-fidelity: precision and recall, k = 3) at the first size, ours for as much.
Each size is then a process of its own: seconds, and the peak of memory above the features. Targets: 4.5 times
prdc, 1.8 times torch-fidelity, equal values; 50,000 images in a copy of the features and 200 MiB, and 180 s.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.metrics.manifolds import Shares, shares
from diptych.metrics.speed import reset_peak, resident
from diptych.system.device import keep_buffers
from paired import finish, interleaved, let_torchvision_load, parser, ratio, shown, table

PEERS = ("prdc", "torch-fidelity")


def features(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Reals and fakes, (n, dim) float32."""
    stream = torch.Generator().manual_seed(0)
    directions = torch.randn(64, dim, generator=stream) / 8

    def drawn(scale: float) -> Tensor:
        points = torch.empty(n, dim)
        for start in range(0, n, 1000):  # in pieces, so that the peak is that of the measure
            inner = torch.randn(min(1000, n - start), 64, generator=stream) * scale
            points[start : start + 1000] = inner @ directions + 0.5 * torch.randn(
                len(inner), dim, generator=stream
            )
        return points

    return drawn(1.0), drawn(0.9)


def with_prdc(real: Tensor, fake: Tensor) -> list[float]:
    """All four, k = 5."""
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        found = compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)
    return [float(found[name]) for name in Shares._fields]


def with_torch_fidelity(real: Tensor, fake: Tensor) -> list[float]:
    """Precision and recall, k = 3."""
    let_torchvision_load()
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
    )
    return [float(found["precision"]), float(found["recall"])]


def beside_peers(n: int, dim: int, rounds: int) -> dict[str, Any]:
    """Seconds, values and ratios of ours and the peers that are installed, paired, at one size."""
    real, fake = features(n, dim)
    ways: dict[str, Callable[[], list[float]]] = {
        "prdc": lambda: with_prdc(real, fake),
        "ours, k = 5": lambda: list(shares(real, fake, k=5)),
        "torch-fidelity": lambda: with_torch_fidelity(real, fake),
        "ours, k = 3": lambda: list(shares(real, fake)),
    }
    values = {}
    for name in list(ways):
        try:
            values[name] = ways[name]()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            del ways[name]
    seconds = interleaved(ways, rounds)
    return {
        peer: {
            "n": n,
            "dim": dim,
            "seconds": {"theirs": seconds[peer], "ours": seconds[ours]},
            "ratio": ratio(seconds[peer], seconds[ours]),
            "values": {"theirs": values[peer], "ours": values[ours][: len(values[peer])]},
            # prdc rounds distances to float32, ours does not: one pair beyond a border is a fifth
            # of an image in density, and ours is the count of float64
            "images of difference": max(
                abs(a - b) * n for a, b in zip(values[peer], values[ours], strict=False)
            ),
        }
        for peer, ours in zip(PEERS, ("ours, k = 5", "ours, k = 3"), strict=True)
        if peer in seconds
    }


def alone(n: int, dim: int) -> dict[str, float]:
    """Seconds of ours, and MiB at its peak above the features, here and now."""
    shares(*features(64, dim))  # what the libraries set aside at their first use is not the measure's
    real, fake = features(n, dim)
    before, _ = resident()
    reset_peak()
    begin = time.perf_counter()
    found = shares(real, fake)
    seconds = time.perf_counter() - begin
    peak = resident()[1] - before
    copy = (real.nbytes + fake.nbytes) / 2**20
    return {"n": n, "seconds": seconds, "peak MiB": peak, "features MiB": copy, **found._asdict()}


def in_its_own_process(n: int, dim: int, threads: int) -> dict[str, float]:
    """`alone`, in a fresh process."""
    command = [sys.executable, __file__, "--alone", str(n), "--dim", str(dim), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measured(sizes: Sequence[int], dim: int, rounds: int, threads: int) -> dict[str, Any]:
    """Everything: ours beside peers at the first size, and alone at each."""
    return {
        "peers": beside_peers(sizes[0], dim, rounds),
        "sizes": [in_its_own_process(n, dim, threads) for n in sizes],
    }


def rows(found: dict[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of both tables."""
    beside = [
        [
            f"{peer}, n = {each['n']:,}",
            f"{min(each['seconds']['theirs']):.2f} s",
            f"{min(each['seconds']['ours']):.2f} s",
            shown(each["ratio"]),
            f"{each['images of difference']:.3g}",
        ]
        for peer, each in found["peers"].items()
    ]
    grown = [
        [
            f"{each['n']:,}",
            f"{each['seconds']:.1f} s",
            f"{each['peak MiB']:.0f} MiB",
            f"{each['features MiB']:.0f} MiB",
        ]
        for each in found["sizes"]
    ]
    return beside, grown


def arguments() -> argparse.Namespace:
    made = parser(__doc__ or "", rounds=3)
    made.add_argument("--sizes", type=int, nargs="+", default=[5000, 10_000, 20_000, 50_000])
    made.add_argument("--dim", type=int, default=2048)
    made.add_argument("--alone", type=int, help="measure ours at this size, here, and print JSON")
    return made.parse_args()


def main() -> None:
    """Measures and prints two Markdown tables."""
    given = arguments()
    torch.set_num_threads(given.threads)
    if given.alone:
        print(json.dumps(alone(given.alone, given.dim)))
        return
    keep_buffers()  # as every command does
    sizes, rounds = ([500, 1000], 2) if given.quick else (given.sizes, given.rounds)
    found = measured(sizes, given.dim, rounds, given.threads)
    beside, grown = rows(found)
    table(["", "theirs", "ours", "times as fast", "images of difference"], beside)
    print()
    table(["images of each kind", "seconds", "peak above the features", "features"], grown)
    finish(found, given.out)


if __name__ == "__main__":
    main()
