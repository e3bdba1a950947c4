"""Metrics on drawn features, again and again, shared among processes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from diptych.catalog import metrics
from diptych.errors import NotMeasurable
from diptych.scores import Estimate
from drawn import DrawnExam


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--repetitions, --dims, --n, --jobs."""
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--dims", type=int, nargs="+", default=[32, 192])
    parser.add_argument("--n", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")


@dataclass(frozen=True)
class Job:
    """A share of the repetitions, for one process."""

    scene: str
    dim: int
    n: int
    seeds: range
    names: tuple[str, ...]
    planted: float = 0.0


def estimated(exam: DrawnExam, names: Sequence[str]) -> dict[str, Estimate]:
    scores: dict[str, Estimate] = {}
    for name in names:
        try:
            scores |= metrics()[name](exam)  # type: ignore[arg-type]
        except NotMeasurable as error:
            logging.getLogger("diptych").info("%s: %s", name, error.message)
    return scores


def known(names: Sequence[str]) -> tuple[str, ...]:
    """Those of these metrics that this version has."""
    there = metrics()
    for name in names:
        if name not in there:
            print(f"There is no metric {name} here.")
    return tuple(name for name in names if name in there)


def spread_out(job: Job, jobs: int, work: Callable[[Job], list[Any]]) -> list[Any]:
    """The job's seeds shared among processes; results in the seeds' order."""
    if jobs < 2:
        return work(job)
    step = -(-len(job.seeds) // (4 * jobs))
    parts = [replace(job, seeds=job.seeds[i : i + step]) for i in range(0, len(job.seeds), step)]
    with ProcessPoolExecutor(jobs) as pool:
        return [each for part in pool.map(work, parts) for each in part]
