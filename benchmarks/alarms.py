"""Do alarms ring when they should, and only then? Planted failures and real images in a model's place.

    python benchmarks/alarms.py [--sets digits fashion_mnist] [--n 64 256 1000] [--rounds 10] [--out FILE]

Each round splits a set anew into held-out images, training images and others, which play a model's samples:
what alarms are calibrated with is never what they are judged by. A training is six exams: five of a healthy
model, whose samples are real images, and one of a failure (or of real images again: the false positives,
with their Wilson intervals). "Frozen" fails from the first exam on. Copies come from the training images.
Columns: the share of trainings whose last exam is beyond chance, and an alarm, by the alarm that is meant
and by any other that looks at samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import sets
from diptych.alarms.calibration import Calibration, calibrate
from diptych.alarms.cells import cells_of
from diptych.alarms.draws import ROOMY
from diptych.alarms.observer import MORE
from diptych.alarms.statistics import Reference
from diptych.alarms.verdict import ALARM, Verdict
from diptych.alarms.watchman import Watchman
from diptych.features.extractor import extractor
from diptych.features.store import content, seen
from diptych.measuring.planted import blur
from diptych.method import Clock
from diptych.metrics.intervals import wilson
from paired import finish, parser, table

EXAMS, IMAGES = 6, 10_000
HEALTHY = 20  # samples of a healthy model a round
REPEATS = 3  # of each failure a round
MOST = 16_000  # images of a set
BLURRED = (0.03, 0.1, 0.3)
BLURRED_OF = 2000
Line = dict[str, Any]


@dataclass
class World:
    """A set in features, split for one round."""

    features: Tensor
    labels: Tensor | None
    blurred: dict[float, Tensor]  # of the first images
    generator: torch.Generator
    n: int
    held_out: Tensor = field(init=False)
    train: Tensor = field(init=False)
    others: Tensor = field(init=False)

    def __post_init__(self) -> None:
        order = torch.randperm(len(self.features), generator=self.generator)
        held_out = max(self.n, min(MORE, len(order) // 5))
        train = min(max(ROOMY * self.n, 1000), len(order) - held_out - self.n)
        self.held_out, self.train = order[:held_out], order[held_out : held_out + train]
        self.others = order[held_out + train :]

    def some(self, rows: Tensor, n: int) -> Tensor:
        """So many of these rows, in a random order; with repetition where there are not enough."""
        while len(rows) < n:
            rows = torch.cat([rows, rows])
        return rows[torch.randperm(len(rows), generator=self.generator)[:n]]

    def healthy(self) -> Tensor:
        """Samples of a model that cannot be told from the data."""
        return self.features[self.some(self.others, self.n)]

    def copies(self, k: int, share: float = 1.0) -> Tensor:
        """A share of the samples replays k training images."""
        few = self.some(self.train, k or self.n)
        drawn = few[torch.randint(len(few), (round(share * self.n),), generator=self.generator)]
        rest = self.some(self.others, self.n - len(drawn))
        return self.features[torch.cat([drawn, rest])]

    def without(self, m: int) -> Tensor:
        """Samples of all but m of the classes."""
        assert self.labels is not None
        kinds = self.labels.unique()
        gone = kinds[torch.randperm(len(kinds), generator=self.generator)[:m]]
        left = self.others[~torch.isin(self.labels[self.others], gone)]
        return self.features[self.some(left, self.n)]

    def blurry(self, strength: float) -> Tensor:
        """Blurred images, of others than the training and held-out ones."""
        rows = self.others[self.others < len(self.blurred[strength])]
        return self.blurred[strength][self.some(rows, self.n)]

    def frozen(self) -> Tensor:
        """One image for ever, with a little noise."""
        one = self.features[self.some(self.others, 1)].expand(self.n, -1)
        return one + 1e-3 * torch.randn(one.shape, generator=self.generator)


FAILURES: dict[str, tuple[str, Callable[[World], Tensor]]] = {
    "replays 10 training images": ("copying", lambda world: world.copies(10)),
    "replays all training images": ("copying", lambda world: world.copies(0)),
    "replays them in 1 of 4 samples": ("copying", lambda world: world.copies(0, 0.25)),
    "replays them in 1 of 10 samples": ("copying", lambda world: world.copies(0, 0.1)),
    "drops 1 class": ("collapse", lambda world: world.without(1)),
    "drops 3 classes": ("collapse", lambda world: world.without(3)),
    "drops 5 classes": ("collapse", lambda world: world.without(5)),
    "blurs (0.1)": ("quality", lambda world: world.blurry(0.1)),
    "blurs (0.3)": ("quality", lambda world: world.blurry(0.3)),
    "one image": ("collapse", World.frozen),
}
ALWAYS: dict[str, tuple[str, Callable[[World], Tensor]]] = {
    "one image, from the beginning": ("collapse", World.frozen),
    "slightly blurred (0.03) all along": ("quality", lambda world: world.blurry(0.03)),
    "blurred (0.1) all along": ("quality", lambda world: world.blurry(0.1)),
}
NONE = "no failure: real images"


def line(number: int, exam: dict[str, float], n: int) -> Line:
    """A log line."""
    return {"images": number * IMAGES, "exam": exam, "exam_n": n, "losses": {}}


def last(calibration: Calibration, exams: Sequence[dict[str, float]]) -> dict[str, Verdict]:
    """What is said of the last of these exams."""
    history = [line(i + 1, exam, calibration.n) for i, exam in enumerate(exams)]
    clock = Clock(history[-1]["images"], 10 * IMAGES, 0)
    return Watchman(calibration).judge(history, clock)


def round_of(world: World) -> list[tuple[str, str, dict[str, Verdict]]]:
    """Verdicts of one split: (what failed, the alarm that is meant, what was said)."""
    train = world.features[world.train]
    labels = None if world.labels is None else world.labels[world.train]
    held_out = world.features[world.held_out]
    reference = Reference(held_out[: world.n], train, cells_of(train, labels, world.n), held_out)
    calibration = calibrate(reference)
    healthy = [reference.of(world.healthy()) for _ in range(HEALTHY)]

    def past() -> list[dict[str, float]]:
        chosen = torch.randperm(HEALTHY, generator=world.generator)[: EXAMS - 1]
        return [healthy[i] for i in chosen.tolist()]

    found = []
    for i in range(HEALTHY):
        others = [healthy[(i + k) % HEALTHY] for k in range(1, EXAMS)]
        found.append((NONE, "", last(calibration, [*others, healthy[i]])))
    for name, (meant, failure) in FAILURES.items():
        fallen = [last(calibration, [*past(), reference.of(failure(world))]) for _ in range(REPEATS)]
        found += [(name, meant, verdicts) for verdicts in fallen]
    for name, (meant, failure) in ALWAYS.items():
        several = [reference.of(failure(world)) for _ in range(EXAMS)]
        for _ in range(REPEATS):
            chosen = torch.randperm(EXAMS, generator=world.generator).tolist()
            found.append((name, meant, last(calibration, [several[i] for i in chosen])))
    return found


def prepared(name: str) -> tuple[Tensor, Tensor | None, dict[float, Tensor]]:
    """Features of a set, its labels, and features of some images blurred."""
    images = sets.loaded(name, sets.ROOT)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:MOST].numpy()
    images = images.subset(rows)

    def look(pixels: Tensor) -> Tensor:
        return seen(extractor(), lambda part: pixels[part], len(pixels), content(pixels), views=["pooled"])[
            "pooled"
        ]

    pixels = images.tensor()
    blurred = {strength: look(blur(pixels[:BLURRED_OF], strength, 0)) for strength in BLURRED}
    labels = None if images.labels is None else torch.from_numpy(images.labels)
    return look(pixels), labels, blurred


def shown(hits: int, of: int) -> str:
    """A share in per cent with its Wilson interval."""
    low, high = wilson(hits / of, of)
    return f"{100 * hits / of:.0f} ({100 * low:.0f}..{100 * high:.0f})"


def rows_of(found: list[tuple[str, str, dict[str, Verdict]]], name: str) -> list[list[str]]:
    """Rows of the table: one for each failure; for none, one for each alarm."""
    cases = [(meant, verdicts) for what, meant, verdicts in found if what == name]
    alarms = list(cases[0][1])
    kinds = ("collapse", "quality", "copying")

    def count(names: Sequence[str], states: Sequence[str]) -> int:
        return sum(any(v[k].state in states for k in names if k in v) for _, v in cases)

    beyond = ("beyond chance", ALARM)
    if name == NONE:
        return [
            [
                f"{name}: {kind}",
                shown(count([kind], beyond), len(cases)),
                shown(count([kind], [ALARM]), len(cases)),
                "",
                "",
            ]
            for kind in alarms
            if kind in kinds
        ]
    meant = cases[0][0]
    others = [kind for kind in kinds if kind != meant]
    return [
        [f"{name}: {meant}"]
        + [
            shown(count(which, states), len(cases))
            for which in ([meant], others)
            for states in (beyond, [ALARM])
        ]
    ]


def main() -> None:
    """Measures and prints a Markdown table for each set and size."""
    flags = parser(__doc__ or "", rounds=10)
    flags.add_argument("--sets", nargs="*", default=["digits", "fashion_mnist"])
    flags.add_argument("--n", nargs="*", type=int, default=[64, 256, 1000])
    args = flags.parse_args()
    if args.quick:
        args.rounds, args.sets, args.n = 2, ["digits"], [64]
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {}
    for name in args.sets:
        features, labels, blurred = prepared(name)
        for n in args.n:
            if len(features) < 5 * n:
                continue
            start = time.perf_counter()
            found = []
            for i in range(args.rounds):
                seeded = torch.Generator().manual_seed(i)
                found += round_of(World(features, labels, blurred, seeded, n))
            rows = [
                row for what in dict.fromkeys(what for what, _, _ in found) for row in rows_of(found, what)
            ]
            print(f"\n{name}, n = {n:,} ({time.perf_counter() - start:.0f} s)\n")
            table(["% of trainings", "beyond chance", "alarm", "others beyond", "others alarm"], rows)
            results[f"{name} {n}"] = rows
    finish(results, args.out)


if __name__ == "__main__":
    main()
