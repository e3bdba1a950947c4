"""Do the error bars hold? The share of 95 % intervals that cover the truth.

    python benchmarks/intervals.py [--repetitions 200] [--dims 32 192] [--n 500 2000] [--jobs 2]

Features are drawn from known distributions (drawn.py) and handed to the metrics themselves. Truths: closed
forms for FID_infinity, KID and diversity; a huge sample for scores whose bias in n is taken off; for the
others the expected value at this n, over further draws. 90 to 99 % is wanted; what lies outside is bold.
The paired test of two models is tried in differences.py.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diptych.metrics.classes import bins_of
from diptych.metrics.classifier import classifier
from diptych.metrics.intervals import wilson
from diptych.metrics.speed import quantile
from diptych.scores import number
from drawn import DrawnExam, scenes
from paired import finish, parser, table
from repetitions import Job, add_flags, estimated, known, spread_out

NAMES = (
    *("fid", "fid_infinity", "kid", "sfid", "mind", "precision_recall", "density_coverage", "vendi"),
    *("inception_score", "classes", "diversity", "copying", "sharpness"),
)
UNBIASED = {"class_divergence", "bin_divergence", "label_accuracy", "spectrum_distance", "sharpness_ratio"}
COUNTED = {"modes_reached", "bins_reached"}  # intervals of a count: another kind
HUGE = 40_000
WIDE = 2.0  # times the width that would do
Found = dict[str, tuple[float, float, float]]  # value, low, high


def main() -> None:
    flags = parser(__doc__ or "", 1)
    add_flags(flags)
    flags.add_argument("--further", type=int, default=200, help="draws that the expected values come from")
    flags.add_argument("--scenes", nargs="+", default=["equal", "shifted", "far", "modes", "skewed"])
    flags.add_argument("--metrics", nargs="+", default=list(NAMES))
    given = flags.parse_args()
    if given.quick:
        given.repetitions, given.further, given.dims, given.n = 8, 8, [8], [200]
        given.scenes = ["equal", "modes"]
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    results = {"coverage": coverage_tables(given), "latency": latency_table(given.repetitions)}
    finish(results, given.out)


# ------------------------------------------------------------------------------------------- coverage


def coverage_tables(given: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for dim in given.dims:
        for n in given.n:
            for scene in given.scenes:
                start = time.perf_counter()
                found = coverage_of(scene, dim, n, given)
                seconds = time.perf_counter() - start
                print(f"\n### {scene}, D = {dim}, n = {n:,}\n")
                print(f"{given.repetitions} repetitions, {seconds:.0f} s\n")
                show(found)
                rows += found
    failed = [row for row in rows if row["outside"]]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} cover 90 to 99 %, as far as so many draws tell.")
    for row in rows:
        where = f"{row['score']}, {row['scene']}, D = {row['dim']}, n = {row['n']:,}"
        if row["outside"]:
            print(f"- {where}: covers {row['coverage']:.1%}")
        if WIDE < row["ratio"] < math.inf:
            print(f"- {where}: {row['ratio']:.1f} times too wide")
    return rows


def coverage_of(scene: str, dim: int, n: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each score of one scene."""
    names = known(given.metrics)
    total = given.repetitions + given.further
    repetitions = spread_out(Job(scene, dim, n, range(total), names), given.jobs, repeated)
    test, further = repetitions[: given.repetitions], repetitions[given.repetitions :]
    closed = scenes(dim)[scene].truths
    huge = limits(scene, dim, n, names) if UNBIASED & set(test[0]) else {}
    rows = []
    for score in test[0]:
        if score in COUNTED:
            continue
        seen = [found[score] for found in test]
        if score in closed:
            truth, how = closed[score], "closed form"
        elif score in UNBIASED:
            truth, how = huge[score], f"n = {HUGE:,}"
        else:
            truth, how = statistics.fmean(found[score][0] for found in further), "expected at n"
        rows.append({"scene": scene, "dim": dim, "n": n, "score": score, "how": how, **judged(seen, truth)})
    return rows


def judged(seen: Sequence[tuple[float, float, float]], truth: float) -> dict[str, Any]:
    """How often the intervals cover the truth, and how wide they are for the real spread."""
    values = [value for value, _, _ in seen]
    # a truth on the border of a range, as an interval cut at 0 has it, is covered
    slack = 1e-9 * max(1.0, abs(truth))
    covered = statistics.fmean(low - slack <= truth <= high + slack for _, low, high in seen)
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    half = statistics.fmean((high - low) / 2 for _, low, high in seen)
    low, high = wilson(covered, len(seen))
    return {
        "truth": truth,
        "mean": mean,
        "bias": mean - truth,
        "deviation": deviation,
        "half": half,
        "ratio": half / (1.96 * deviation) if deviation else math.nan,
        "coverage": covered,
        "low": low,
        "high": high,
        "outside": covered < 0.9 or low > 0.99,
    }


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    head = ["score", "truth", "from", "mean", "bias", "coverage", "its 95 %", "half-width / 1.96 sd"]
    cells = []
    for row in rows:
        share = f"{row['coverage']:.1%}"
        cells.append(
            [
                row["score"],
                number(row["truth"]),
                row["how"],
                number(row["mean"]),
                signed(row["bias"]),
                f"**{share}**" if row["outside"] else share,
                f"{row['low']:.1%} to {row['high']:.1%}",
                width_of(row["ratio"]),
            ]
        )
    table(head, cells)


def width_of(ratio: float) -> str:
    """An interval that has no end is as wide as it should be; one that is far too wide says nothing."""
    if not math.isfinite(ratio):
        return "open" if ratio > 0 else ""
    return f"**{ratio:.2f}**" if ratio > WIDE else f"{ratio:.2f}"


def signed(value: float) -> str:
    return f"{value:+.2g}"


def limits(scene: str, dim: int, n: int, names: Sequence[str]) -> dict[str, float]:
    """Scores whose bias is taken off, of a sample so large that it hardly matters; none is below 0."""
    made = scenes(dim)[scene]
    wanted = [name for name in names if name in ("classes", "sharpness")]
    exam = made.exam(HUGE, 10_000_019, fitted(scene, dim, n))
    found = {name: max(0.0, value) for name, (value, _, _) in measured(exam, wanted).items()}
    distances = {"class_divergence", "bin_divergence", "spectrum_distance"}
    return found | dict.fromkeys(distances & found.keys(), 0.0) if scene == "equal" else found


def repeated(job: Job) -> list[Found]:
    """The scores of each repetition."""
    torch.set_num_threads(1)
    made, shared = scenes(job.dim)[job.scene], fitted(job.scene, job.dim, job.n)
    return [measured(made.exam(job.n, seed, shared), job.names) for seed in job.seeds]


def measured(exam: DrawnExam, names: Sequence[str]) -> Found:
    """Value, low and high of every score of these metrics; what cannot be had is left out."""
    return {name: (e.value, e.low, e.high) for name, e in estimated(exam, names).items()}


def fitted(scene: str, dim: int, n: int) -> dict[str, Any]:
    """What is made of the training images alone, the same in every repetition: classifier or bins."""
    exam: Any = scenes(dim)[scene].exam(n, 0)
    return {"classifier": classifier(exam)} if exam.classes else {"bins": bins_of(exam)}


# -------------------------------------------------------------------------------------------- latency


def latency_table(repetitions: int) -> list[dict[str, Any]]:
    """Quantiles of lognormal call times, whose true quantiles are known."""
    print("\n### latency quantiles of lognormal call times\n")
    stream, rows = torch.Generator().manual_seed(0), []
    for calls in (100, 400):
        drawn = torch.exp(0.3 * torch.randn(10 * repetitions, calls, generator=stream, dtype=torch.float64))
        for q in (0.5, 0.95, 0.99):
            truth = math.exp(0.3 * statistics.NormalDist().inv_cdf(q))
            seen = []
            for row in drawn.sort(1).values.tolist():
                e = quantile(row, q, "lower", "ms", "")
                seen.append((e.value, e.low, e.high))
            rows.append(
                {"score": f"p{100 * q:.0f} of {calls} calls", "how": "closed form", **judged(seen, truth)}
            )
    show(rows)
    return rows


if __name__ == "__main__":
    main()
