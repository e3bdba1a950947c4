"""How long the command line and the import take, beside Python itself and `import torch`, in one run.

    python benchmarks/startup.py [--rounds 15] [--out results.json]

Targets: `diptych --help` in under 0.25 s, `import diptych` in under 0.1 s beyond `python -c pass`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial

from paired import finish, interleaved, parser, table

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import diptych": ["-c", "import diptych"],
    "diptych --help": ["-m", "diptych", "--help"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    """Measures and prints a Markdown table."""
    args = parser(__doc__ or "", rounds=15).parse_args()
    run = partial(subprocess.run, stdout=subprocess.DEVNULL, check=True)
    ways = {name: partial(run, [sys.executable, *command]) for name, command in COMMANDS.items()}
    seconds = interleaved(ways, 3 if args.quick else args.rounds)
    nothing = seconds["python -c pass"]
    results = {}
    for name, taken in seconds.items():
        beyond = [a - b for a, b in zip(taken, nothing, strict=True)]
        results[name] = {
            "seconds": statistics.median(taken),
            "least": min(taken),
            "beyond python": statistics.median(beyond),
        }
    rows = [[name, *(f"{value:.3f} s" for value in found.values())] for name, found in results.items()]
    table(["", "median", "least", "beyond python"], rows)
    finish(results, args.out)


if __name__ == "__main__":
    main()
