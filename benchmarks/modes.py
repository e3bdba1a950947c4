"""Mode coverage as the literature has it: 25 Gaussians, a ring of 8, and stacked digits with 1,000 modes.

    python benchmarks/modes.py --methods dcgan r3gan edm --tasks grid ring --out results/modes.md
    python benchmarks/modes.py --tasks digits --budget 10m --work runs/modes

Every method trains with its own loss, penalties, optimizers and turns, on the same networks for points and on
its own networks for digits. Started again it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import modes_points
import modes_stacked
from diptych import catalog
from diptych.methods.adversarial import Adversarial
from diptych.system.files import write_json, write_text
from small_sets import ROOT

TASKS = ("grid", "ring", "digits", "mnist")
ALL = {"grid": 25, "ring": 8, "digits": 1000, "mnist": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["grid", "ring"])
    parser.add_argument("--methods", nargs="+", default=None, help="recipes; by default all GANs, and edm")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--points", type=int, default=600_000, help="points that each training sees")
    parser.add_argument("--budget", default="300k-images", help="of each training on stacked digits")
    parser.add_argument("--samples", type=int, default=modes_stacked.N, help="counted on stacked digits")
    parser.add_argument("--data", type=Path, default=ROOT, help="the folder that has mnist")
    parser.add_argument("--work", type=Path, default=Path("runs/modes"), help="where runs are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    methods = given.methods or [*gans(), "edm"]
    parts = []
    for task in given.tasks:
        found = {
            method: [once(task, method, seed, given) for seed in range(given.seeds)] for method in methods
        }
        parts.append(table(task, found))
        print(parts[-1], flush=True)
    if given.out:
        write_text(given.out, "\n".join(parts))


def gans() -> list[str]:
    """The recipes whose method is Adversarial, by trying them on blank images."""
    found = []
    for name, spec in catalog.recipes().items():
        if isinstance(spec(modes_points.blank(True), **spec.small).method, Adversarial):
            found.append(name)
    return found


def once(task: str, method: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One training, or what is kept of it."""
    length = given.points if task in modes_points.POINTS else given.budget
    kept = given.work / f"{task}-{method}-{length}-seed{seed}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    begun = time.process_time()
    if task in modes_points.POINTS:
        found = modes_points.run(method, task, seed, given.points)
    else:
        found = modes_stacked.run(method, task, seed, given.budget, given.data, given.work, given.samples)
    found["cpu_seconds"] = round(time.process_time() - begun, 1)
    write_json(kept, found)
    print(task, method, seed, {k: v for k, v in found.items() if k != "losses"}, flush=True)
    return found


def table(task: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: a row for each method, means over seeds and their extremes."""
    scores = ["modes", "quality", "kl"] if task in modes_points.POINTS else ["modes", "kl"]
    lines = [f"{task}: {ALL[task]} modes", "", f"| method | {' | '.join(scores)} | ended |"]
    lines.append("| --- |" + " ---: |" * len(scores) + " --- |")
    for method, runs in found.items():
        ended = sum(run["ended"] == "finished" for run in runs)
        cells = [cell([run[score] for run in runs if score in run]) for score in scores]
        lines.append(f"| {method} | {' | '.join(cells)} | {ended} of {len(runs)} |")
    first = next(iter(found.values()))[0]
    if "floor" in first:
        lines.append(f"| real images | {first['floor']['modes']:.0f} | {first['floor']['kl']:.3f} | |")
        lines += ["", f"The classifier reads {first['accuracy']:.2%} of held-out single digits rightly."]
    return "\n".join(lines) + "\n"


def cell(values: Sequence[float]) -> str:
    if not values:
        return "none"
    mean = f"{statistics.mean(values):.3g}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.3g}, {max(values):.3g}]"


if __name__ == "__main__":
    main()
