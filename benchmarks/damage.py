"""Do distances rise with damage? Planted damage of each kind and strength, seen by rulers and by all metrics.

    python benchmarks/damage.py [--data FOLDER] [--ruler builtin diptych-0 inception:FILE] [--n 1000]
    python benchmarks/damage.py --figure docs/images/planted_damage.svg --figure-sets fashion_mnist flowers_64
    python benchmarks/damage.py --runs RUN RUN ... --ruler builtin inception:FILE

The reals are images of a set, the fakes other images of it with damage planted. Wanted: Spearman's rank
correlation of strength and distance of 0.9 or more for each set and kind. Strength 0 is the floor.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

import sets
from damage_figure import FIGURE, draw
from diptych.api import compare
from diptych.data.images import Images
from diptych.exam import Exam
from diptych.measuring.evaluation import measured, metrics_named
from diptych.measuring.planted import DAMAGES, drop_modes, invent_modes
from diptych.scores import Estimate, number
from paired import finish, parser, table

KINDS = (*DAMAGES, "drop_modes", "invent_modes")
STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
WANTED = 0.9
NEARLY = WANTED - 1e-9  # a correlation of 0.9 may be computed a rounding below
Curve = list[tuple[float, dict[str, Estimate]]]  # scores by strength


def main() -> None:
    given = flags().parse_args()
    if given.quick:
        given.n, given.strengths, given.sets, given.figure_sets = (
            100,
            [0.0, 0.2, 0.6, 1.0],
            ["digits"],
            ["digits"],
        )
        given.n_figure = 120
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    results: dict[str, Any] = {}
    if given.runs:
        results["ranks"] = ranks(given.runs, given.ruler, given.n)
    elif given.figure is not None:
        results["figure"] = figure(given)
    else:
        results["monotone"] = monotone(given)
        if given.quick:
            results["figure"] = figure(given)
    finish(results, given.out)


def flags() -> argparse.ArgumentParser:
    made = parser(__doc__ or "", 1)
    made.set_defaults(threads=1)
    sets.add_flags(made)
    made.add_argument("--ruler", nargs="+", default=["builtin"])
    made.add_argument("--n", type=int, default=1000)
    made.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS))
    made.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--figure", nargs="?", const=str(FIGURE), help="draw every metric instead, into this file"
    )
    made.add_argument("--figure-sets", nargs="+", default=["fashion_mnist", "flowers_64"])
    made.add_argument("--n-figure", type=int, default=600)
    made.add_argument("--runs", nargs="+", help="rank these run directories by each ruler instead")
    return made


# ------------------------------------------------------------------------------------------ does it rise


def monotone(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Spearman's correlation of FID and KID with strength, by ruler, set and kind of damage."""
    rows: list[dict[str, Any]] = []
    for ruler in given.ruler:
        mine = []
        for name in sets.names(given):
            start = time.perf_counter()
            found = {kind: curve(name, kind, ruler, ["fid", "kid"], given.n, given) for kind in given.kinds}
            seconds = time.perf_counter() - start
            mine += [row_of(ruler, name, kind, points, seconds) for kind, points in found.items() if points]
        show_ruler(ruler, mine, given.kinds)
        rows += mine
    if len(given.ruler) > 1:
        show_comparison(rows, given.ruler)
    return rows


def row_of(ruler: str, name: str, kind: str, points: Curve, seconds: float) -> dict[str, Any]:
    strengths = [strength for strength, _ in points]
    values = {score: [scores[score].value for _, scores in points] for score in ("fid", "kid")}
    return {
        "ruler": ruler,
        "set": name,
        "kind": kind,
        "n": points[0][1]["fid"].n,
        "strengths": strengths,
        "seconds": seconds,
        **values,
        "spearman": {score: rank_correlation(strengths, seen) for score, seen in values.items()},
        "rises": values["fid"][-1] / max(values["fid"][0], 1e-12),
    }


def rank_correlation(strengths: Sequence[float], values: Sequence[float]) -> float:
    return float(spearmanr(strengths, values).statistic)


def show_ruler(ruler: str, rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> None:
    print(f"\n### {ruler}: Spearman of strength and FID / KID\n")
    cells = []
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = {row["kind"]: row for row in rows if row["set"] == name}
        n = next(iter(mine.values()))["n"]
        cells.append([name, f"{n:,}", *(both(mine[kind]) if kind in mine else "" for kind in kinds)])
    table(["set", "n", *(kind.replace("_", " ") for kind in kinds)], cells)
    low = [row for row in rows if min(row["spearman"].values()) <= NEARLY]
    print(f"\n{len(rows) - len(low)} of {len(rows)} are {WANTED} or more for both.")
    for row in low:
        told = ", ".join(number(value) for value in row["fid"])
        print(f"- {row['set']}, {row['kind']}: FID {told}; KID {', '.join(number(v) for v in row['kid'])}")


def both(row: dict[str, Any]) -> str:
    return " / ".join(f"{v:.2f}" if v > NEARLY else f"**{v:.2f}**" for v in row["spearman"].values())


def show_comparison(rows: Sequence[dict[str, Any]], rulers: Sequence[str]) -> None:
    print("\n### rulers beside each other\n")
    cells = []
    for ruler in rulers:
        mine = [row for row in rows if row["ruler"] == ruler]
        for score in ("fid", "kid"):
            values = [row["spearman"][score] for row in mine]
            fine = sum(value > NEARLY for value in values)
            worst = min(mine, key=lambda row: row["spearman"][score])
            told = f"{worst['spearman'][score]:.2f} ({worst['set']}, {worst['kind']})"
            cells.append(
                [f"{ruler}, {score}", f"{fine} of {len(values)}", f"{statistics.fmean(values):.3f}", told]
            )
    table(["ruler", f"{WANTED} or more", "mean", "lowest"], cells)


# ------------------------------------------------------------------------------------------------ curves


def curve(
    name: str, kind: str, ruler: str, metrics: Sequence[str], n: int, given: argparse.Namespace
) -> Curve:
    """Scores at each strength of one kind of damage on one set; nothing where the set has no such damage."""
    trial = sets.trial(name, given.data, n)
    damage, strengths = damage_of(name, kind, trial, given)
    found = []
    for strength in strengths:
        images, labels = damage(strength)
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        fakes = Images(pixels, labels, trial.others.class_names)
        exam = Exam(None, trial.data, n=len(fakes), extractor=ruler, fakes=fakes, keep=False)
        found.append((strength, measured(exam, metrics)))
    return found


Planted = Callable[[float], tuple[Tensor, "np.ndarray[Any, Any] | None"]]


def damage_of(
    name: str, kind: str, trial: sets.Trial, given: argparse.Namespace
) -> tuple[Planted, list[float]]:
    """What plants a strength of this damage in the trial's others, and the strengths that differ."""
    images, labels, seed = trial.others.tensor(), trial.others.labels, given.seed
    if kind == "drop_modes":
        classes = 0 if labels is None else len(np.unique(labels))
        if labels is None or classes < 2:
            return lambda strength: (images, None), []
        gone = np.unique(np.round(np.linspace(0, classes - 1, min(classes, len(given.strengths)))))
        known = torch.from_numpy(labels)
        # the labels walk along as a plane of their own, so that each image keeps its own
        places = torch.arange(len(images))

        def drop(strength: float) -> tuple[Tensor, np.ndarray[Any, Any] | None]:
            index = drop_modes(low_bytes(places), known, strength, seed)
            rows = from_low_bytes(index)
            return images[rows], labels[rows.numpy()]

        return drop, [float(count / classes) for count in gone]
    if kind == "invent_modes":
        others = sets.strangers(name, given.data, len(images), trial.others.shape)
        return lambda strength: (invent_modes(images, strength, seed, others), None), list(given.strengths)
    return lambda strength: (DAMAGES[kind](images, strength, seed), labels), list(given.strengths)


def low_bytes(numbers: Tensor) -> Tensor:
    """Numbers (N,) as images of 1x4 pixels, so that what moves images moves them."""
    shifts = torch.tensor([0, 8, 16, 24])
    return ((numbers[:, None] >> shifts) & 255).to(torch.uint8)[:, None, None]


def from_low_bytes(images: Tensor) -> Tensor:
    """The inverse."""
    return (images[:, 0, 0].long() << torch.tensor([0, 8, 16, 24])).sum(1)


# ------------------------------------------------------------------------------------------------ figure


def figure(given: argparse.Namespace) -> dict[str, Any]:
    """Every metric that compares images against every kind of damage, as curves and as a picture."""
    untimed = [each.name for each in metrics_named(None) if not each.timed]
    found = {
        name: {kind: points for kind in given.kinds if (points := curve_of_all(name, kind, given, untimed))}
        for name in given.figure_sets
    }
    path = given.figure or (Path(tempfile.gettempdir()) / FIGURE.name if given.quick else FIGURE)
    seen = draw(found, given.ruler[0], path)
    print(f"\n{len(seen)} scores against {len(given.kinds)} kinds of damage: {path}\n")
    for name, kinds in found.items():
        print(f"\n### {name}: scores without damage, and at full strength\n")
        scores = [score for score in seen if score in next(iter(kinds.values()))[0][1]]
        undamaged = next(iter(kinds.values()))[0][1]
        table(
            ["score", "none", *(kind.replace("_", " ") for kind in kinds)],
            [
                [score, number(undamaged[score].value)]
                + [number(p[-1][1][score].value) if score in p[-1][1] else "" for p in kinds.values()]
                for score in scores
            ],
        )
    return {
        name: {
            kind: [[s, {k: [e.value, e.low, e.high] for k, e in scores.items()}] for s, scores in points]
            for kind, points in kinds.items()
        }
        for name, kinds in found.items()
    }


def curve_of_all(name: str, kind: str, given: argparse.Namespace, untimed: Sequence[str]) -> Curve:
    return curve(name, kind, given.ruler[0], untimed, given.n_figure, given)


# ------------------------------------------------------------------------------------------- checkpoints


def ranks(runs: Sequence[str], rulers: Sequence[str], n: int) -> dict[str, Any]:
    """How rulers order training checkpoints of one data set, by FID."""
    grading = compare(runs, ruler=rulers, n=n, metrics=["fid", "kid"], floor=False)
    values = {
        ruler: {report.name: report.scores["fid"].value for report in reports}
        for ruler, reports in grading.rulers.items()
    }
    names = list(next(iter(values.values())))
    print("\n### checkpoints by FID\n")
    table(
        ["checkpoint", *values], [[name, *(number(seen[name]) for seen in values.values())] for name in names]
    )
    taus = {}
    for a, b in combinations(values, 2):
        if len(names) > 1:
            tau = float(kendalltau([values[a][x] for x in names], [values[b][x] for x in names]).statistic)
            taus[f"{a} and {b}"] = tau
            print(f"\nKendall's tau of {a} and {b}: {tau:.2f} ({len(names)} checkpoints)")
    for warning in grading.warnings:
        print(f"- {warning}")
    return {"fid": values, "tau": taus}


if __name__ == "__main__":
    main()
