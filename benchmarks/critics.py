"""Does the alarm "overfit" ring for a critic that has memorised its images, and for no other?

    python benchmarks/critics.py [--recipe sngan] [--few 32] [--steps 600] [--rounds 10]

Each round trains a GAN on a few of the built-in digits, until its critic knows them by heart, and one on
all of them for as many steps; both are asked about training images and about digits never seen. The null:
both halves of a question are digits that the critic never saw, 20 draws a round.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from diptych import catalog
from diptych.alarms import LEVEL
from diptych.alarms.memory import overfit, remembered
from diptych.alarms.verdict import ALARM, OK
from diptych.data import open_data
from diptych.data.images import Images
from diptych.method import Batch
from diptych.metrics.intervals import wilson
from diptych.model import Condition, from_uint8
from diptych.training.state import Settings, Training
from paired import finish, parser, table

ASKED, DRAWS, REPEATS = 64, 20, 3
States = list[str]


def main() -> None:
    """Trains, asks, counts."""
    flags = parser(__doc__ or "", rounds=10)
    flags.add_argument("--recipe", default="sngan")
    flags.add_argument("--few", type=int, default=32)
    flags.add_argument("--steps", type=int, default=600)
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, States] = {}
    for seed in range(args.rounds):
        for name, states in round_of(args, seed).items():
            found.setdefault(name, []).extend(states)
    rows = [
        [name, str(len(s)), share(s, [state for state in set(s) if state != OK]), share(s, [ALARM])]
        for name, s in found.items()
    ]
    table([f"{args.recipe}, {args.steps} steps: % of questions", "of", "beyond chance", "alarm"], rows)
    finish(found, args.out)


def round_of(args: argparse.Namespace, seed: int) -> dict[str, States]:
    """States of the alarm for a critic that has memorised, one that saw all, and of the null."""
    data = open_data("digits")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator).numpy()
    few, unseen = data.train.subset(order[: args.few]), data.train.subset(order[args.few :])
    heart = trained(args, few, seed)
    whole = trained(args, data.train, seed)
    ways = {
        f"trained on {args.few}": (heart, few, unseen, REPEATS),
        f"trained on {len(data.train):,}": (whole, data.train, data.held_out, REPEATS),
        "null: neither half was seen": (heart, unseen, unseen, DRAWS),
    }
    return {
        name: [asked(training, first, second, generator) for _ in range(draws)]
        for name, (training, first, second, draws) in ways.items()
    }


def trained(args: argparse.Namespace, images: Images, seed: int) -> Training:
    """So many steps of the recipe on these images."""
    torch.manual_seed(seed)
    recipe = catalog.recipe(args.recipe)(images, width=16, batch=min(32, len(images)))
    training = Training(recipe, images, args.steps * 32, Settings(device="cpu", seed=seed))
    for _ in range(args.steps):
        training.step()
    return training


def asked(training: Training, first: Images, second: Images, generator: torch.Generator) -> str:
    """The alarm's state for so many of the first images, as if trained on, and of others of the second."""
    rows = torch.randperm(len(first), generator=generator)
    one = rows[:ASKED]
    other = (
        rows[ASKED : 2 * ASKED]
        if second is first
        else torch.randperm(len(second), generator=generator)[:ASKED]
    )
    batches = [batch(images, rows) for images, rows in ((first, one), (second, other))]
    training.method.eval()
    with torch.no_grad():
        scores = remembered(training.method.memory(*batches, training.clock))
    training.method.train()
    verdict = overfit([{"memory": scores}], LEVEL)
    return OK if verdict is None else verdict.state


def batch(images: Images, rows: torch.Tensor) -> Batch:
    """These images as a training sees them."""
    return Batch(from_uint8(images.tensor(rows.numpy())), Condition(label=images.label(rows.numpy())))


def share(states: States, which: Any) -> str:
    """In per cent, with Wilson's interval."""
    hits = sum(state in which for state in states) / len(states)
    low, high = wilson(hits, len(states))
    return f"{100 * hits:.0f} ({100 * low:.0f}..{100 * high:.0f})"


if __name__ == "__main__":
    main()
