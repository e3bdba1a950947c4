"""All performance tables in one run: start-up, data path, checkpoint, loop, U-Net step and optimizer.

    python benchmarks/everything.py [--edm FOLDER] [--threads 1] [--quick] > table.md

Each benchmark is a process of its own and pairs ours with its peer; see the file named above each table.
"""

from __future__ import annotations

import argparse

from paired import run_all


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edm", default="", help="a checkout of github.com/NVlabs/edm")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    quick = ["--quick"] if given.quick else []
    threads = ["--threads", given.threads]
    runs = {
        "startup": quick,
        "data": [],
        "checkpoint": quick,
        "loop": [*threads, *quick],
        "step": [*threads, *quick, *(["--edm", given.edm] if given.edm else [])],
    }
    run_all(runs)


if __name__ == "__main__":
    main()
