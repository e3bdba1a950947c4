"""All performance tables in one run: start-up, data path, checkpoint, loop, U-Net step and optimizer.

    python benchmarks/everything.py [--edm FOLDER] [--threads 1] [--quick] > table.md

Each benchmark is a process of its own and pairs ours with its peer; see the file named above each table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


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
    failed = []
    for name, flags in runs.items():
        print(f"\n## {name}.py {' '.join(flags)}\n", flush=True)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *flags], check=False
        )
        failed += [name] if done.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
