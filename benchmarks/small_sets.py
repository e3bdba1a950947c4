"""The three small sets of the stability and gamma tables, and one short training of a GAN on one of them."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diptych import catalog
from diptych.data import open_data
from diptych.data.images import DataSet
from diptych.errors import Diverged, WrongUse
from diptych.exam import Exam
from diptych.measuring.evaluation import measured
from diptych.recipe import RecipeSpec
from diptych.runs import Run
from diptych.system.files import write_json
from diptych.training.loop import train
from diptych.training.state import Settings

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("digits", "shapes", "fashion")
METRICS = ("fid", "density_coverage")


@dataclass(frozen=True)
class Job:
    """A recipe with its arguments, a set, a seed, a length."""

    recipe: str
    data: str
    seed: int
    images: int
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder that its run and its scores are kept in."""
        told = "_".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.recipe}-{self.data}-{self.images}-{told or 'defaults'}-seed{self.seed}"


def opened(name: str, root: Path) -> DataSet:
    """digits at 8 px, shapes at 16 px, Fashion-MNIST at 16 px."""
    if name == "fashion":
        return open_data(root / "fashion_mnist", size=16)
    return open_data(name) if name == "digits" else open_data(name, size=16)


def done(
    job: Job, root: Path, work: Path, n: int = 1000, specs: Mapping[str, RecipeSpec] = {}
) -> dict[str, Any]:
    """Trains and measures it once: what came of it, read again from `work` the next time.

    "ended" is "finished", or the phase and step that was no longer finite.
    """
    kept = work / job.name / "found.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    data = opened(job.data, root)
    spec = specs.get(job.recipe) or catalog.recipe(job.recipe)
    settings = Settings(budget=f"{job.images}-images", seed=job.seed, ticks=8, snapshots=0, device="cpu")
    begun, ended = time.process_time(), "finished"
    try:
        run = train(spec, data, work / job.name, arguments=job.arguments, settings=settings)
    except Diverged as error:
        run, ended = Run(work / job.name), error.message
    found: dict[str, Any] = {"ended": ended, "cpu_seconds": round(time.process_time() - begun, 1)}
    found |= {"log": [line["losses"] for line in run.log()], "scores": {}}
    if run.log():
        exam = Exam(run.model(), data, n=min(n, len(data.held_out)), seed=0, extractor="builtin", keep=False)
        scores = measured(exam, METRICS)
        found["scores"] = {name: [e.value, e.low, e.high] for name, e in scores.items()}
    write_json(kept, found)
    return found


def score(found: Mapping[str, Any], name: str) -> float:
    """A score's value; infinite where there is none."""
    return float(found["scores"].get(name, [math.inf])[0])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--sets, --data, --work, --threads, --images."""
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--data", type=Path, default=ROOT, help="the folder that has fashion_mnist")
    parser.add_argument("--work", type=Path, default=Path("runs/stability"), help="where runs are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=12_000, help="length of each training")


def begin(given: argparse.Namespace) -> None:
    """Sets the threads, and says what is missing."""
    torch.set_num_threads(given.threads)
    if "fashion" in given.sets and not (given.data / "fashion_mnist").is_dir():
        raise WrongUse(f"there is no fashion_mnist in {given.data}", "--data FOLDER, or --sets digits shapes")


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
