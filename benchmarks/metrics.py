"""The ruler's performance in one run: distances, neighbours, Inception, and a whole evaluation.

    python benchmarks/metrics.py [--threads 2] [--quick] > table.md

Each benchmark is a process of its own and pairs ours with its peers; see the file named above each table.
torch-fidelity, torchmetrics, pytorch-fid and prdc are compared with where they can be imported.
"""

from __future__ import annotations

import argparse

from paired import run_all


def main() -> None:
    """Runs them one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", default="2")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    common = ["--threads", given.threads, *(["--quick"] if given.quick else [])]
    whole = ["--threads", given.threads, *(["--n", "1000"] if given.quick else [])]
    run_all({"frechet": common, "neighbours": common, "inception": common, "evaluate": whole})


if __name__ == "__main__":
    main()
