"""Why models are asked for labels apart from the held-out images': real images in a perfect model's place.

    python benchmarks/asked.py [--data digits] [--n 330] [--splits 60]

In each split unseen real images stand for what a perfect conditional model draws: once with the very labels
of the images that they are measured against, once with labels of their own.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from diptych.data import open_whole
from diptych.data.images import DataCard, DataSet, Images
from diptych.exam import Exam
from diptych.measuring.evaluation import measured
from diptych.scores import Estimate, number
from paired import finish, parser, table

METRICS = ("fid", "kid", "fid_infinity")
WAYS = ("the labels of the held-out images", "labels of their own")


def main() -> None:
    flags = parser(__doc__ or "", 1)
    flags.set_defaults(threads=1)
    flags.add_argument("--data", default="digits")
    flags.add_argument("--n", type=int, default=330)
    flags.add_argument("--splits", type=int, default=60)
    given = flags.parse_args()
    splits = 4 if given.quick else given.splits
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    images = open_whole(given.data).held_out
    found: dict[tuple[str, str], list[Estimate]] = {}
    for split in range(splits):
        for way, estimates in both(images, given.n, np.random.default_rng(split)).items():
            for name, estimate in estimates.items():
                found.setdefault((way, name), []).append(estimate)
    rows = [[way, *(told(found[way, name]) for name in METRICS)] for way in WAYS]
    print(f"\n### Real images in a model's place, {given.data}, n = {given.n}, {splits} splits\n")
    table(["asked for", *METRICS], rows)
    print("\nMean and deviation of the score; in brackets, how often its 95 % interval lies below 0.")
    finish({"rows": rows, "n": given.n, "splits": splits}, given.out)


def both(images: Images, n: int, rng: np.random.Generator) -> dict[str, dict[str, Estimate]]:
    """Scores of unseen real images, with the labels of the n that they are measured against and without."""
    assert images.labels is not None
    order = rng.permutation(len(images))
    real, rest = order[:n], order[n:]
    wanted = np.bincount(images.labels[real], minlength=images.classes)
    alike = [rest[images.labels[rest] == label][:count] for label, count in enumerate(wanted)]
    fakes = dict(zip(WAYS, (np.concatenate(alike), rest[:n]), strict=True))
    return {way: scores(images.subset(real), images.subset(rows)) for way, rows in fakes.items()}


def scores(real: Images, fake: Images) -> dict[str, Estimate]:
    """Of images in a model's place."""
    none = real.subset(slice(0, 0))
    card = DataCard("split", "split", 0, len(real), real.shape, "as it is", none.sha256, real.sha256)
    exam = Exam(None, DataSet(none, real, card), n=len(fake), fakes=fake, keep=False)
    return dict(measured(exam, METRICS))


def told(estimates: list[Estimate]) -> str:
    """Mean, deviation, and the share of intervals below 0."""
    values: Any = np.array([estimate.value for estimate in estimates])
    below = np.mean([estimate.high < 0 for estimate in estimates])
    return f"{number(float(values.mean()))} ± {number(float(values.std()))} [{below:.0%}]"


if __name__ == "__main__":
    main()
