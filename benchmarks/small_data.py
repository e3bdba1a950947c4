r"""Quality and copying against the number of training images: GAN, diffusion, with augmentation and without.

    python benchmarks/small_data.py ../shared/data/fashion_mnist --images 100,500,2000,all \
        --budget 200k-images --threads 1 --work runs/small --out results/small

Each contender is a recipe with arguments after colons; budgets may differ: edm=1M-images,dcgan=400k-images.
Smaller sets are parts of the larger ones; all are measured against the same held-out images, copying against
the images that each was trained on. Started again it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import diptych
from diptych import pictures
from diptych.cli.duel import entry
from diptych.data import open_data
from diptych.data.images import DataSet
from diptych.report.lines import Line, Panel, Point, figure
from diptych.runs import Run, load_model
from diptych.scores import Estimate, Report
from diptych.system.files import write_json, write_text

RECIPES = "stylegan2,stylegan2:augment=ada,stylegan2:augment=diffaugment,edm,edm:augment=0.12"
METRICS = ("fid", "kid", "density_coverage", "copying")
SCORES = ("fid", "kid", "coverage", "authpct", "near_training", "nn_ratio")
LOGGED = ("augment", "real_sign", "logit_gap")  # of the last tick


@dataclass(frozen=True)
class Job:
    """One contender on so many images."""

    contender: str
    images: int
    budget: str

    @property
    def name(self) -> str:
        """Of its run's directory."""
        return f"{self.contender.replace(':', '-').replace('=', '-')}-{self.images}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--size", type=int)
    parser.add_argument("--images", default="100,500,2000,all")
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--budget", default="200k-images", help="of each; or name=budget, comma separated")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--n", type=int, default=2000, help="samples that are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, default=Path("runs/small_data"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = open_data(given.data, size=given.size)
    rows: dict[Job, Report] = {}
    runs: dict[Job, Run] = {}
    for job in jobs(given.recipes, given.images, given.budget, data):
        part = first(data, job.images)
        contender = entry(job.contender)
        runs[job] = diptych.train(
            contender.spec,
            part,
            given.work / job.name,
            budget=job.budget,
            batch=given.batch,
            seed=given.seed,
            device=given.device,
            exam=0,
            **contender.arguments,
        )
        rows[job] = measured(runs[job], part, given.n)
        print(table({job: rows[job]}, {job: runs[job]}).splitlines()[-1], flush=True)
    text = table(rows, runs)
    print(text)
    if given.out:
        keep(given.out, text, rows, runs, given.n)


def jobs(recipes: str, images: str, budget: str, data: DataSet) -> list[Job]:
    """Every contender on every number of images, the fewest images first."""
    named = dict(part.split("=") for part in budget.split(",") if "=" in part)
    most = len(data.train)
    counts = [most if part == "all" else min(most, int(part)) for part in images.split(",")]
    return [
        Job(contender, count, named.get(contender.partition(":")[0], budget))
        for count in sorted(set(counts))
        for contender in recipes.split(",")
    ]


def first(data: DataSet, images: int, seed: int = 0) -> DataSet:
    """The set with so many of its training images, in an order drawn once; the held-out images stay."""
    order = np.random.default_rng(seed).permutation(len(data.train))[:images]
    train = data.train.subset(np.sort(order))
    card = replace(data.card, n_train=len(train), train_sha256=train.sha256, class_counts={})
    return replace(data, train=train, card=card)


def measured(run: Run, data: DataSet, n: int) -> Report:
    """Scores of the finished run, measured once and kept beside it."""
    kept = run.path / "small_data.json"
    if kept.exists():
        return Report.from_json(json.loads(kept.read_text()))
    report = diptych.evaluate(run.path, data, n=n, metrics=METRICS, split="held_out")
    write_json(kept, report.to_json())
    return report


def table(rows: Mapping[Job, Report], runs: Mapping[Job, Run]) -> str:
    """Markdown: a row for each contender and number of images."""
    lines = [
        f"| contender | images | {' | '.join(SCORES)} | p | r_t | gap | minutes |",
        "| --- |" + " ---: |" * (len(SCORES) + 5),
    ]
    for job, report in rows.items():
        scores = [cell(report.scores.get(score)) for score in SCORES]
        last = runs[job].log()[-1]["losses"]
        logged = [f"{last[name]:.2f}" if name in last else "" for name in LOGGED]
        minutes = f"{runs[job].spent['seconds'] / 60:.1f}"
        lines.append(f"| {' | '.join([job.contender, f'{job.images:,}', *scores, *logged, minutes])} |")
    floor = next(iter(rows.values())).floor or {}
    if len(rows) > 1 and floor:
        cells = [cell(floor.get(score)) for score in SCORES]
        lines.append(f"| {' | '.join(['real images', '', *cells, '', '', '', ''])} |")
    return "\n".join(lines) + "\n"


def cell(estimate: Estimate | None) -> str:
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]" if estimate else ""


def keep(out: Path, text: str, rows: Mapping[Job, Report], runs: Mapping[Job, Run], n: int) -> None:
    """The table, the curves of every score, and a sheet of each model."""
    contenders = list(dict.fromkeys(job.contender for job in rows))
    panels = []
    for score in SCORES:
        lines = [Line(name, points(rows, name, score)) for name in contenders]
        if lines := [line for line in lines if line.points]:
            panels.append(Panel(score, "training images", lines, log_x=True, log_y=score in ("fid", "kid")))
    title = "Quality and copying against the number of training images"
    note = f"n = {n:,} samples; bars: 95 % intervals"
    write_text(out / "small_data.svg", str(figure("small", title, panels, columns=2, width=440, note=note)))
    write_text(out / "table.md", text)
    for job, run in runs.items():
        pictures.save(
            pictures.sheet(load_model(run.path).sample(range(64)), columns=16), out / f"{job.name}.png"
        )


def points(rows: Mapping[Job, Report], contender: str, score: str) -> list[Point]:
    """A contender's score at each number of images."""
    return [
        Point(job.images, estimate.value, low=estimate.low, high=estimate.high)
        for job, report in rows.items()
        if job.contender == contender and (estimate := report.scores.get(score)) is not None
    ]


if __name__ == "__main__":
    main()
