"""Whether images move with what they are made from: EQ-T and EQ-R in dB (StyleGAN3, appendix E), of runs.

    python benchmarks/equivariance.py RUN... [--images N] [--seed N]

EQ-T: translations by whole pixels, up to an eighth of the side; EQ-T frac: by parts of pixels, too; EQ-R: all
rotations. Values span 2; 20 dB more is a tenth of the error. StyleGAN2's learned constant is moved as a
periodic signal. Of one run: `diptych evaluate RUN --metric equivariance`. Without a run: stylegan3 t and r,
and stylegan2, as they begin, with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from diptych.adversarial.style import StyleModel
from diptych.metrics.equivariance import decibels
from diptych.model import Model
from diptych.networks.stylegan2 import StyleGAN2Generator
from diptych.networks.stylegan3 import StyleGAN3Generator
from diptych.runs import Run, load_model
from paired import finish, parser, table

SHAPE = (3, 64, 64)


def untrained(quick: bool) -> Mapping[str, Callable[[], Model]]:
    """Generators as they begin."""
    largest = 16 if quick else 128
    three = partial(StyleGAN3Generator, SHAPE, base=4096)
    two = partial(StyleGAN2Generator, SHAPE, base=4096, largest=largest)
    return {
        "stylegan3 t, untrained": lambda: StyleModel(three(largest=largest)),
        "stylegan3 r, untrained": lambda: StyleModel(three(largest=2 * largest, kernel=1, radial=True)),
        "stylegan2, untrained": lambda: StyleModel(two()),
    }


def name_of(run: Path) -> str:
    """The folder's name, the recipe's, and the images that it saw."""
    held = Run(run)
    config = held.recipe["arguments"].get("config", "")
    return f"{run.name}: {' '.join(filter(None, [held.recipe['recipe'], config]))}"


def main() -> None:
    """One row for each run."""
    flags = parser(__doc__ or "", rounds=1)
    flags.add_argument("runs", nargs="*", type=Path)
    flags.add_argument("--images", type=int, default=256)
    flags.add_argument("--seed", type=int, default=0)
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    made = {name_of(run): partial(load_model, run, "cpu") for run in arguments.runs}
    rows, results = [], {}
    for name, build in (made or untrained(arguments.quick)).items():
        torch.manual_seed(arguments.seed)
        errors = build().equivariance(8 if arguments.quick else arguments.images, seed=arguments.seed)
        found = {kind: decibels(rows) for kind, rows in errors.items()}
        results[name] = {kind: one and one.to_json() for kind, one in found.items()}
        rows.append(
            [
                name,
                *(
                    f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]" if one else ""
                    for one in found.values()
                ),
            ]
        )
    table(["generator", "EQ-T", "EQ-T frac", "EQ-R"], rows)
    finish({"images": arguments.images, "dB": results}, arguments.out)


if __name__ == "__main__":
    main()
