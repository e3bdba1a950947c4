"""Two models measured against the same reals: how often are they called different, and how often rightly?

    python benchmarks/differences.py [--repetitions 200] [--dims 32 192] [--n 500 2000] [--jobs 2]

The paired test of diptych.measuring.comparison beside what comparing intervals by overlap says. Where nothing
is planted, both models are draws of one distribution, and 5 % is right. What is planted: the second model's
features are larger by that share of themselves, so too varied.
"""

from __future__ import annotations

import logging
import statistics
from typing import Any

import torch

from diptych.measuring.comparison import difference
from diptych.metrics.intervals import wilson
from diptych.scores import Report, RulerCard
from drawn import scenes
from paired import finish, parser, table
from repetitions import Job, add_flags, estimated, known, spread_out

METRICS = ("fid", "kid", "precision_recall", "density_coverage")
SCORES = ("fid", "kid", "precision", "recall", "density", "coverage")
CARD = RulerCard("drawn", "", "drawn", "", 0, "none", 0, "")
Called = tuple[float, bool, bool]  # the difference, whether the test calls it one, whether the intervals do


def main() -> None:
    flags = parser(__doc__ or "", 1)
    add_flags(flags)
    flags.add_argument("--scenes", nargs="+", default=["equal", "shifted", "skewed"])
    flags.add_argument("--planted", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    given = flags.parse_args()
    if given.quick:
        given.repetitions, given.dims, given.n, given.scenes = 8, [8], [200], ["shifted"]
    logging.disable(logging.WARNING)
    rows: list[dict[str, Any]] = []
    for dim in given.dims:
        for n in given.n:
            for scene in given.scenes:
                for planted in given.planted:
                    seeds = range(given.repetitions)
                    rows += found(Job(scene, dim, n, seeds, known(METRICS), planted), given.jobs)
    show(rows, given.repetitions)
    finish({"differences": rows}, given.out)


def found(job: Job, jobs: int) -> list[dict[str, Any]]:
    """A row for each score."""
    pairs: list[dict[str, Called]] = spread_out(job, jobs, compared)
    rows = []
    for score in (name for name in SCORES if name in pairs[0]):
        values, called, apart = zip(*(pair[score] for pair in pairs), strict=True)
        share = statistics.fmean(called)
        low, high = wilson(share, len(pairs))
        rows.append(
            {
                "score": score,
                "scene": job.scene,
                "dim": job.dim,
                "n": job.n,
                "planted": job.planted,
                "difference": statistics.fmean(values),
                "called": share,
                "low": low,
                "high": high,
                "apart": statistics.fmean(apart),
            }
        )
    return rows


def compared(job: Job) -> list[dict[str, Called]]:
    """For each repetition and score what is said of the two models."""
    torch.set_num_threads(1)
    made = scenes(job.dim)[job.scene]
    pairs = []
    for seed in job.seeds:
        first, second = made.exam(job.n, 2 * seed), made.exam(job.n, 2 * seed + 1)
        second = second.of(first, 1 + job.planted)
        a, b = (
            Report(name, "", {}, estimated(exam, job.names), {}, CARD)
            for name, exam in (("a", first), ("b", second))
        )
        scores = [score for score in SCORES if score in a.scores and a.scores[score].replicates]
        tests = {score: difference(b, a, score) for score in scores}
        pairs.append(
            {
                score: (test.value, test.decided, not a.scores[score].overlaps(b.scores[score]))
                for score, test in tests.items()
            }
        )
    return pairs


def show(rows: list[dict[str, Any]], repetitions: int) -> None:
    print(f"\n### two models called different, of {repetitions} pairs\n")
    head = ["score", "scene", "D", "n", "planted", "mean difference", "paired test", "its 95 %", "no overlap"]
    table(head, [line(row) for row in rows])
    null = [row for row in rows if row["planted"] == 0]
    high = [row for row in null if row["low"] > 0.05]
    print(f"\nWithout a difference: {len(null) - len(high)} of {len(null)} do not exceed 5 % beyond chance.")


def line(row: dict[str, Any]) -> list[str]:
    share = f"{row['called']:.1%}"
    return [
        row["score"],
        row["scene"],
        str(row["dim"]),
        f"{row['n']:,}",
        f"{row['planted']:.0%}" if row["planted"] else "nothing",
        f"{row['difference']:+.2g}",
        f"**{share}**" if row["planted"] == 0 and row["low"] > 0.05 else share,
        f"{row['low']:.1%} to {row['high']:.1%}",
        f"{row['apart']:.1%}",
    ]


if __name__ == "__main__":
    main()
