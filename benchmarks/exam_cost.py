"""What the exam of training ticks costs: the share of the training's time, for every family, by default.

    python benchmarks/exam_cost.py [--recipes edm,r3gan,consistency] [--budget 40s] [--out results.json]

Trains each recipe on the digits that come with scikit-learn, with the default exam and ten ticks, and reads
its log. A sheet is the 64 samples that a tick draws for people; deciding is done once, before training: it
finds out what can be afforded. With --processor-time and one thread, the work of others does not count.
Target: exams and sheets <= 5 % of the seconds of training.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diptych import catalog
from diptych.data import open_data
from diptych.measuring.quick import QuickExam
from diptych.model import Model
from diptych.training.loop import train
from diptych.training.state import Settings
from paired import finish, parser, table


@dataclass
class Watched:
    """An exam, and the seconds that it took to settle it."""

    exam: QuickExam
    deciding: list[float] = field(default_factory=list)

    def settled(self, model: Model, seconds: float, ticks: int, recorded: Mapping[str, Any]) -> QuickExam:
        """Times the exam's own decision."""
        start = time.perf_counter()
        found = self.exam.settled(model, seconds, ticks, recorded)
        self.deciding.append(time.perf_counter() - start)
        return found


def measure(name: str, source: str, budget: str, ticks: int, width: int) -> dict[str, Any]:
    """Trains one recipe, and what its log says of its exams."""
    data, watched = open_data(source), Watched(QuickExam(open_data(source)))
    settings = Settings(budget=budget, ticks=ticks, device="cpu")
    with tempfile.TemporaryDirectory() as directory:
        run = train(
            catalog.recipe(name),
            data,
            Path(directory) / name,
            arguments={"width": width} if width else {},
            settings=settings,
            examine=watched,  # type: ignore[arg-type]  # only settled is asked of it
        )
        log, terms = run.log(), run.recipe["exam"]
    spent = log[-1]["seconds"]
    return {
        "n": terms["n"],
        "every": terms["every"],
        "exams": sum(bool(line["exam"]) for line in log),
        "seconds": spent,
        "expected exam": terms["seconds"],
        "share": sum(line.get("exam_seconds", 0.0) for line in log) / spent,
        "sheet": sum(line.get("sheet_seconds", 0.0) for line in log) / spent,
        "deciding": watched.deciding[0] / spent,
        "fid": [round(line["exam"]["fid"], 2) for line in log if line["exam"]],
    }


def main() -> None:
    """Measures and prints a Markdown table."""
    flags = parser(__doc__ or "", rounds=1)
    flags.add_argument("--recipes", default=",".join(catalog.recipes()))
    flags.add_argument("--budget", default="40s")
    flags.add_argument("--data", default="digits")
    flags.add_argument("--ticks", type=int, default=10)
    flags.add_argument("--processor-time", action="store_true", help="for a busy machine; with --threads 1")
    flags.add_argument("--width", type=int, default=0, help="0: the recipe's own")
    args = flags.parse_args()
    if args.quick:
        args.budget, args.width = "8s", 16
    torch.set_num_threads(args.threads)
    if args.processor_time:
        time.perf_counter = time.process_time  # what probe, loop and exam look at
    names = args.recipes.split(",")
    results = {name: measure(name, args.data, args.budget, args.ticks, args.width) for name in names}
    rows = [
        [
            name,
            f"{found['seconds']:.0f}",
            f"{found['n']:,}",
            str(found["exams"]),
            *(f"{100 * found[key]:.1f} %" for key in ("share", "sheet", "deciding")),
        ]
        for name, found in results.items()
    ]
    table(["", "training, s", "n", "times", "exams", "sheets", "deciding"], rows)
    finish(results, args.out)


if __name__ == "__main__":
    main()
