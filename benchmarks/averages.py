"""Which average of the weights is best, for a diffusion model and for GANs, and what it costs to find out.

    python benchmarks/averages.py --recipes edm sngan r3gan --budget 70s --out results/averages.md
    python benchmarks/averages.py --recipes edm r3gan --budget edm=54k-images,r3gan=45k-images --seeds 2
    python benchmarks/averages.py --cost edm stylegan2 --size 32

Each training stores its averages at 16 moments; afterwards power profiles over sigma_rel are made of them and
measured. Started again it goes on where it was stopped. With --cost, the share of a training step that
following two averages takes, and the bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych import catalog
from diptych.data import open_data
from diptych.data.images import Images
from diptych.measuring.profile_sweep import sweep_averages
from diptych.measuring.sweep import steps_between
from diptych.report.lines import Line, Panel, Point, figure
from diptych.system.device import keep_buffers
from diptych.system.files import write_json, write_text
from diptych.training.averages import Averages, stored
from diptych.training.loop import train
from diptych.training.state import Settings, Training
from paired import interleaved, machine, ratio
from paired import table as printed

Found = dict[str, Any]  # of one training: scores by sigma_rel, as trained, the verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["edm", "r3gan"])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--budget", default="70s", help="of each training; or recipe=budget, comma separated")
    parser.add_argument("--averages", type=int, default=16, help="moments that are stored")
    parser.add_argument("--sweep", default="0.03:0.27:0.03", help="values of sigma_rel")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--n", type=int, default=2000, help="samples that are measured")
    parser.add_argument("--cost", nargs="+", metavar="RECIPE", help="only what following averages costs")
    parser.add_argument("--size", type=int, default=32, help="of the images with --cost")
    parser.add_argument("--batch", type=int, default=64, help="with --cost")
    parser.add_argument("--rounds", type=int, default=9, help="with --cost")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/averages"), help="where runs are kept")
    parser.add_argument("--out", type=Path, help="the table, and beside it a drawing")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.cost:
        cost(given.cost, given.size, given.batch, given.rounds)
        return
    found = {recipe: [once(recipe, seed, given) for seed in range(given.seeds)] for recipe in given.recipes}
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    text = f"{table(found)}\n{about}\n"
    print(text)
    if given.out:
        write_text(given.out, text)
        write_text(given.out.with_suffix(".svg"), drawn(found, f"{given.data}, {given.budget}"))


def once(recipe: str, seed: int, given: argparse.Namespace) -> Found:
    """One training and its sweep, or what is kept of them."""
    named = dict(part.split("=") for part in given.budget.split(",") if "=" in part)
    budget = named.get(recipe, given.budget)
    folder = given.work / f"{recipe}-{given.data}-{budget}-seed{seed}"
    kept = folder / "averages.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    settings = Settings(budget, seed=seed, averages=given.averages, device="cpu")
    run = train(catalog.recipe(recipe), open_data(given.data), folder, settings=settings)
    swept = sweep_averages(folder, steps_between(given.sweep), n=given.n, metrics=["fid"])
    swept.save(folder / "sweeps")
    scores = [report.scores["fid"] for report in swept.sweep.reports]
    found = {
        "images": run.spent["images"],
        "values": list(swept.sweep.values),
        "fid": [[score.value, score.low, score.high] for score in scores],
        "trained": swept.trained.scores["fid"].value,
        "alike": swept.alike,
        "residuals": [average.mixture.residual for average in swept.averages],
        "bytes": sum(file.path.stat().st_size for file in stored(folder / "averages")),
        "verdict": swept.verdict,
    }
    write_json(kept, found)
    print(f"{recipe}, seed {seed}, {run.spent['images']:,} images\n{swept.verdict}\n", flush=True)
    return found


def table(found: Mapping[str, Sequence[Found]]) -> str:
    """Markdown: FID of each recipe over sigma_rel, means over seeds, and its best values."""
    values = next(iter(found.values()))[0]["values"]
    lines = ["| sigma_rel | " + " | ".join(found) + " |", "| ---: |" + " ---: |" * len(found)]
    for place, value in enumerate(values):
        cells = [cell([run["fid"][place][0] for run in runs]) for runs in found.values()]
        lines.append(f"| {value:g} | {' | '.join(cells)} |")
    cells = [cell([run["trained"] for run in runs]) for runs in found.values()]
    lines.append(f"| as trained | {' | '.join(cells)} |")
    for recipe, runs in found.items():
        for seed, run in enumerate(runs):
            alike = ", ".join(f"{value:g}" for value in run["alike"])
            size = run["bytes"] / 2**20
            told = (
                f"{run['images']:,} images, {size:.1f} MiB of averages; best, and not told from it: {alike}"
            )
            lines.append(f"\n{recipe}, seed {seed}: {told}")
    return "\n".join(lines) + "\n"


def cell(values: Sequence[float]) -> str:
    """The mean, and the extremes of several."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.2f}, {max(values):.2f}]"


def drawn(found: Mapping[str, Sequence[Found]], note: str) -> str:
    """A panel for each recipe, a line for each seed."""
    panels = [
        Panel(
            f"fid of {recipe}",
            "sigma_rel",
            [Line(f"seed {seed}", points(run)) for seed, run in enumerate(runs)],
        )
        for recipe, runs in found.items()
    ]
    return str(figure("averages", "Quality over the length of the average", panels, columns=2, note=note))


def points(run: Found) -> list[Point]:
    """FID with its interval at each value."""
    return [
        Point(x, y, low=low, high=high) for x, (y, low, high) in zip(run["values"], run["fid"], strict=True)
    ]


def cost(recipes: Sequence[str], size: int, batch: int, rounds: int) -> None:
    """Prints what following two averages takes of a step, and what it takes to keep and store them."""
    keep_buffers()
    pixels = np.random.default_rng(0).integers(0, 256, (256, size, size, 3), dtype=np.uint8)
    data, rows = Images(pixels, np.arange(256) % 10, tuple("0123456789")), []
    for name in recipes:
        training = Training(catalog.recipe(name)(data, batch=batch), data, 10**9, Settings(device="cpu"))
        followed = Averages(training.method.model)

        def follow(training: Training = training, followed: Averages = followed) -> None:
            for _ in range(10):
                followed.move(training.method.model, training.images, training.batch)

        training.step()
        seconds = interleaved({"step": training.step, "follow": follow}, rounds, time.process_time)
        share = ratio(seconds["follow"], [10 * s for s in seconds["step"]])
        parameters = sum(tensor.numel() for tensor in followed.tensors(0.05).values())
        with tempfile.TemporaryDirectory() as folder:
            followed.store(Path(folder), training.method.model, training.images)
            moment = sum(file.path.stat().st_size for file in stored(Path(folder)))
        rows.append(
            [
                name,
                f"{parameters / 1e6:.2f} M",
                f"{statistics.median(seconds['step']):.3f}",
                f"{share['median']:.2%}",
                f"{8 * parameters / 2**20:.1f}",
                f"{moment / 2**20:.1f}",
            ]
        )
    printed(
        [
            f"batch {batch}",
            "parameters",
            "step, CPU s",
            "two averages, share",
            "memory, MiB",
            "stored a moment, MiB",
        ],
        rows,
    )
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
