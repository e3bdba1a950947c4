"""Time of `diptych evaluate` as a user meets it: a process of its own, cold, then with cached features.

python benchmarks/evaluate.py --n 10000 --size 32
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from diptych import open_data

METRICS = ("fid", "kid", "precision_recall", "density_coverage")


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--ruler", default="builtin")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = open_data(f"shapes:{2 * options.n}", size=options.size, held_out=options.n)
        np.savez(place / "fakes.npz", arr_0=data.train.pixels)
        np.savez(place / "reals.npz", arr_0=data.held_out.pixels)
        environment = os.environ | {
            "DIPTYCH_CACHE": str(place / "cache"),
            "OMP_NUM_THREADS": str(options.threads),
        }
        command = [sys.executable, "-m", "diptych", "evaluate", str(place / "fakes.npz")]
        command += ["--against", str(place / "reals.npz"), "--n", str(options.n), "--ruler", options.ruler]
        command += [part for metric in METRICS for part in ("--metric", metric)]
        print(
            f"| {options.n:,} images of {options.size} px, {options.threads} threads | seconds |\n|---|---|"
        )
        for what in ("cold", "cached features"):
            start = time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            print(f"| {what} | {time.perf_counter() - start:.1f} |", flush=True)


if __name__ == "__main__":
    main()
