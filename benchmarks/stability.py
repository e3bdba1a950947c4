"""Does it ever diverge? Every GAN recipe as it is, over seeds, on three small sets.

    python benchmarks/stability.py --work runs/stability --out results/stability.md
    python benchmarks/stability.py --recipes r3gan --seeds 2 --sets digits --images 2000

A training fails where it meets a number that is not finite, or where it collapses: where its samples cover
less than a fifth of what the best of its recipe's seeds covers. Started again it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.system.files import write_text
from modes import gans
from small_sets import Job, add_flags, begin, done, mean, score

Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_flags(parser)
    parser.add_argument("--recipes", nargs="+", help="by default every GAN of the catalog")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="recipe arguments")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    begin(given)
    arguments = {key: number(value) for key, _, value in (pair.partition("=") for pair in given.set)}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in given.recipes or gans():
        for data in given.sets:
            for seed in range(given.seeds):
                job = Job(name, data, seed, given.images, arguments)
                found.setdefault((name, data), []).append(done(job, given.data, given.work))
                last = found[name, data][-1]
                print(job.name, last["ended"], last["scores"], f"{last['cpu_seconds']} s", flush=True)
    text = table(found)
    print(text)
    if given.out:
        write_text(given.out, text)


def number(text: str) -> float | int | str:
    """As a recipe's argument has it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def table(found: Found) -> str:
    """Markdown: for each recipe and set how many seeds failed, and how the others fared."""
    lines = ["| recipe | set | not finite | collapsed | fid | coverage |", "| --- | --- |" + " ---: |" * 4]
    for (name, data), runs in found.items():
        broken = [run for run in runs if run["ended"] != "finished"]
        whole = [run for run in runs if run["ended"] == "finished"]
        cells = [spread([score(run, kind) for run in whole]) for kind in ("fid", "coverage")]
        counts = f"{len(broken)} of {len(runs)} | {sum(collapsed(whole))} of {len(runs)}"
        lines.append(f"| {name} | {data} | {counts} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def collapsed(runs: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which of a recipe's seeds cover less than a fifth of what the best of them does, or nothing.

    Where none covers anything the sets are too hard for so short a training: then by twice the least FID.
    """
    coverage, fid = ([score(run, kind) for run in runs] for kind in ("coverage", "fid"))
    if max(coverage, default=0.0) > 0.02:
        return [value < max(coverage) / 5 for value in coverage]
    return [not value < 2 * min(fid) for value in fid]


def spread(values: Sequence[float]) -> str:
    """Mean, least and largest."""
    known = [value for value in values if math.isfinite(value)]
    return f"{mean(known):.3g} [{min(known):.3g}, {max(known):.3g}]" if known else "none"


if __name__ == "__main__":
    main()
