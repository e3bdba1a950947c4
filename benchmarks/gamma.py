"""The weight of R1 and R2: a grid and "auto", for a relativistic and a plain GAN on three small sets.

    python benchmarks/gamma.py --work runs/gamma --out results/gamma.md

Started again it goes on where it was stopped. "auto" passes where its FID is no worse than the upper end of
the best grid point's interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.adversarial.gamma import Gamma, weight_of
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.penalties import r1
from diptych.data.images import Images
from diptych.methods.adversarial import Adversarial, labels_of
from diptych.methods.r3gan import falling, lr_scale
from diptych.networks.r3gan import R3Critic, R3Generator
from diptych.recipe import Recipe, recipe
from diptych.system.files import write_text
from small_sets import Job, add_flags, begin, done, mean, score

GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
SMALL = {"width": 16, "largest": 64, "batch": 32}
Results = Mapping[Gamma, Sequence[Mapping[str, Any]]]  # of each seed


@recipe(width=8)
def plain(data: Images, *, width: int = 16, largest: int = 64, batch: int = 32, gamma: Gamma = 1.0) -> Recipe:
    """R3GAN's networks under the non-saturating loss with R1 alone (Mescheder et al., 2018)."""
    sizes = {**labels_of(data), "width": width, "largest": largest, "blocks": 1}
    method = Adversarial(
        LatentModel(R3Generator(data.shape, **sizes)),
        R3Critic(data.shape, **sizes),
        penalties=[r1(weight_of(gamma, falling))],
        lr=0.032 / width,
        lr_scale=lr_scale,
    )
    return Recipe(method, batch=batch)


SPECS = {"plain": plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_flags(parser)
    parser.add_argument("--recipes", nargs="+", default=["r3gan", "plain"])
    parser.add_argument("--grid", type=float, nargs="*", default=list(GRID))
    parser.add_argument("--seeds", type=int, default=1, help="of the grid")
    parser.add_argument("--auto-seeds", type=int, default=1, help="of auto: 20 count how often it diverges")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    begin(given)
    parts = []
    for data in given.sets:
        for name in given.recipes:
            results: dict[Gamma, list[dict[str, Any]]] = {}
            for gamma in (*given.grid, "auto"):
                for seed in range(given.auto_seeds if gamma == "auto" else given.seeds):
                    job = Job(name, data, seed, given.images, {**SMALL, "gamma": gamma})
                    results.setdefault(gamma, []).append(done(job, given.data, given.work, specs=SPECS))
            parts.append(table(f"{name} on {data}", results))
            print(parts[-1], flush=True)
    if given.out:
        write_text(given.out, "\n".join(parts))


def table(title: str, results: Results) -> str:
    """Markdown: a row for each gamma, and whether auto is as good as the best of the grid."""
    lines = [title, "", "| gamma | fid | coverage | gap at the end | finished |"]
    lines.append("| ---: | ---: | ---: | ---: | ---: |")
    for gamma, runs in results.items():
        scores = [mean([score(run, kind) for run in runs]) for kind in ("fid", "coverage")]
        gap = mean([run["log"][-1]["logit_gap"] for run in runs if run["log"]])
        ended = sum(run["ended"] == "finished" for run in runs)
        shown = f"auto ({last_gamma(runs):.3g})" if gamma == "auto" else f"{gamma:g}"
        lines.append(f"| {shown} | {interval(runs)} | {scores[1]:.2f} | {gap:.2f} | {ended} of {len(runs)} |")
    grid = {gamma: runs for gamma, runs in results.items() if gamma != "auto"}
    if grid and "auto" in results:
        best = min(grid, key=lambda gamma: mean([score(run, "fid") for run in grid[gamma]]))
        found = mean([score(run, "fid") for run in results["auto"]])
        highest = mean([run["scores"]["fid"][2] for run in grid[best]])
        verdict = "no worse than" if found <= highest else "worse than"
        lines += [
            "",
            f"auto is {verdict} the best of the grid, {best:g}: {found:.1f}, its end is {highest:.1f}.",
        ]
    return "\n".join(lines) + "\n"


def interval(runs: Sequence[Mapping[str, Any]]) -> str:
    """Mean over seeds of FID and of the ends of its interval."""
    known = [run["scores"]["fid"] for run in runs if "fid" in run["scores"]]
    value, low, high = (mean([one[i] for one in known]) for i in range(3))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def last_gamma(runs: Sequence[Mapping[str, Any]]) -> float:
    return mean([run["log"][-1]["gamma"] for run in runs if run["log"]])


if __name__ == "__main__":
    main()
