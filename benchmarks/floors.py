"""Real against real: what no model can be expected to beat, for each set and n.

    python benchmarks/floors.py [--data FOLDER] [--n 500 2000 10000] [--ruler builtin]

Both sides are real images of one set, at random and without a common image. Sets with fewer than 2n images
are left out at that n.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

import sets
from diptych.exam import Exam
from diptych.measuring.evaluation import measured
from diptych.scores import number
from paired import finish, parser, table

METRICS = ("fid", "fid_infinity", "kid", "precision_recall", "density_coverage")
SCORES = ("fid", "fid_infinity", "kid", "precision", "recall", "density", "coverage")


def main() -> None:
    flags = parser(__doc__ or "", 1)
    flags.set_defaults(threads=1)
    sets.add_flags(flags)
    flags.add_argument("--n", type=int, nargs="+", default=[500, 2000, 10_000])
    flags.add_argument("--ruler", default="builtin")
    given = flags.parse_args()
    if given.quick:
        given.n, given.sets = [100, 200], list(sets.BUILT_IN)
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    rows: list[dict[str, Any]] = []
    for name in sets.names(given):
        for n in sorted(given.n):
            trial = sets.trial(name, given.data, n, rest=0)
            if len(trial.others) < n and (n > min(given.n) or len(trial.others) < 100):
                continue
            exam = Exam(None, trial.data, n=n, extractor=given.ruler, fakes=trial.others, keep=False)
            scores = measured(exam, METRICS)
            rows.append({"set": name, "n": exam.n, "shape": trial.others.shape, "scores": scores})
    print(f"\n### floors, {exam.extractor.name}\n")
    table(["set", "size", "n", *SCORES], [line(row) for row in rows])
    print("\nIn brackets, the 95 % interval.")
    told = [row | {"scores": {k: [e.value, e.low, e.high] for k, e in row["scores"].items()}} for row in rows]
    finish({"ruler": exam.extractor.name, "rows": told}, given.out)


def line(row: dict[str, Any]) -> list[str]:
    channels, height, width = row["shape"]
    cells = [plain(row["scores"][score]) if score in row["scores"] else "" for score in SCORES]
    return [row["set"], f"{width}x{height}x{channels}", f"{row['n']:,}", *cells]


def plain(estimate: Any) -> str:
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


if __name__ == "__main__":
    main()
