"""Diffusion recipes trained under one budget, measured at several numbers of steps: a table, a plot, sheets.

    python benchmarks/quality.py ../shared/data/fashion_mnist --budget 1h --work runs --out results/

Started again it goes on where it was stopped. A budget in images ("160k-images") does not depend on how busy
the machine is; --plan prints how many images each recipe would get from a budget in time, and trains nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import diptych
from diptych import catalog, pictures
from diptych.data import open_data
from diptych.data.images import DataSet
from diptych.measuring.sweep import Sweep, sweep
from diptych.report.lines import Line, Panel, Point, figure
from diptych.runs import Run, load_model
from diptych.scores import Estimate, Report
from diptych.system.files import write_json, write_text
from diptych.training.loop import plan
from diptych.training.state import Settings

STEPS = (5, 10, 20, 50)
SCORES = ("fid", "kid", "precision", "recall", "coverage")
METRICS = ("fid", "kid", "precision_recall", "density_coverage")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--size", type=int)
    parser.add_argument("--recipes", default="ddpm,edm,flow,dit")
    parser.add_argument("--budget", default="1h", help="of each; or name=budget, comma separated")
    parser.add_argument("--steps", default=",".join(map(str, STEPS)))
    parser.add_argument("--sampler", help="the same for all; as each recipe has it unless given")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plan", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = open_data(given.data, size=given.size)
    named = dict(part.split("=") for part in given.budget.split(",") if "=" in part)
    names = given.recipes.split(",")
    budgets = {name: named.get(name, given.budget) for name in names}
    if given.plan:
        planned(data, budgets)
        return
    runs = {
        name: diptych.train(name, data, given.work / name, budget=budgets[name], exam=0, ticks=10)
        for name in names
    }
    steps = [int(part) for part in given.steps.split(",")]
    options = {"sampler": given.sampler} if given.sampler else {}
    found = {name: measured(run, data, steps, given.n, options) for name, run in runs.items()}
    text = table(runs, found, budgets)
    print(text)
    if given.out:
        keep(given.out, text, runs, found)


def planned(data: DataSet, budgets: dict[str, str]) -> None:
    """How many images each recipe would train on."""
    for name, budget in budgets.items():
        expected = plan(catalog.recipe(name), data, settings=Settings(budget=budget))
        rate = expected.images / max(expected.seconds, 1e-9)
        flop = expected.flop_per_image / 1e9
        print(f"{name}: {expected.images:,} images, {rate:.1f} a second, {flop:.2f} GFLOP each", flush=True)


def measured(run: Run, data: DataSet, steps: list[int], n: int, options: dict[str, str]) -> Sweep:
    """Scores at each number of steps, measured once and kept beside the run."""
    kept = run.path / "sweeps" / options.get("sampler", "own") / "steps.json"
    if kept.exists():
        tree = json.loads(kept.read_text())
        if tree["values"] == steps and tree["reports"][0]["ruler"]["n"] == n:
            reports = tuple(Report.from_json(report) for report in tree["reports"])
            return Sweep("steps", tuple(tree["values"]), reports, tree["model"])
    found = sweep(
        run.path, "steps", steps, options=options, against=data, n=n, metrics=METRICS, split="held_out"
    )
    write_json(kept, found.to_json())
    return found


def table(runs: dict[str, Run], found: dict[str, Sweep], budgets: dict[str, str]) -> str:
    """Markdown: a row for each recipe and number of steps, and what training took."""
    lines = [f"| recipe | steps | {' | '.join(SCORES)} |", "| --- |" + " ---: |" * (len(SCORES) + 1)]
    for name, one in found.items():
        for value, report in zip(one.values, one.reports, strict=True):
            cells = [cell(report.scores[score]) for score in SCORES]
            lines.append(f"| {name} | {value:g} | {' | '.join(cells)} |")
    first = next(iter(found.values())).reports[0]
    if first.floor:
        lines.append(f"| real images | | {' | '.join(cell(first.floor[score]) for score in SCORES)} |")
    lines += ["", "| recipe | budget | images | minutes | PFLOP | parameters |", "| --- |" + " ---: |" * 5]
    for name, run in runs.items():
        spent, model = run.spent, run.model()
        size = sum(p.numel() for p in model.parameters()) / 1e6
        minutes, work = spent["seconds"] / 60, spent["flop"] / 1e15
        lines.append(
            f"| {name} | {budgets[name]} | {spent['images']:,} | {minutes:.1f} | {work:.2f} | {size:.1f} M |"
        )
    return "\n".join(lines) + "\n"


def cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def keep(out: Path, text: str, runs: dict[str, Run], found: dict[str, Sweep]) -> None:
    """The table, the plot, and a sheet of each model at 20 steps."""
    panels = []
    for score in ("fid", "precision", "recall", "coverage"):
        lines = [
            Line(
                name,
                [
                    Point(v, e.value, low=e.low, high=e.high)
                    for v, r in zip(one.values, one.reports, strict=True)
                    for e in [r.scores[score]]
                ],
            )
            for name, one in found.items()
        ]
        panels.append(Panel(score, "steps", lines, log_x=True, log_y=score == "fid"))
    n = next(iter(found.values())).reports[0].ruler.n
    title = "Quality against sampling steps"
    write_text(
        out / "steps.svg", str(figure("steps", title, panels, columns=2, width=440, note=f"n = {n:,}"))
    )
    write_text(out / "table.md", text)
    for name, run in runs.items():
        model = load_model(run.path).using(steps=20)
        pictures.save(pictures.sheet(model.sample(range(80)), columns=16), out / f"{name}.png")


if __name__ == "__main__":
    main()
