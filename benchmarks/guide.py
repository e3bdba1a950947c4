"""The pictures of docs/diffusion.md that need a trained model: its samples, one trajectory, fewer steps.

    python benchmarks/guide.py RUN --out docs/images [--seed 0] [--device auto]

RUN is of a diffusion model that knows classes; a column is a class, and seeds are fixed, so that the pictures
are the same each time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import diptych
from diptych import pictures
from diptych.diffusion.denoiser import Denoiser, Wrapper, each
from diptych.diffusion.editing import diffusion_of
from diptych.diffusion.model import DiffusionModel
from diptych.model import Condition, to_uint8
from diptych.system.device import keep_buffers

ROWS = 4  # of the sheet of samples
STEPS = (2, 3, 4, 6, 10, 20)  # of the few-steps comparison
SHOWN = 10  # columns of the trajectory
SEEDS = 3  # of the trajectory


class Watched(Wrapper):
    """A denoiser that keeps what it was shown and what it saw in it, as uint8 (B, C, H, W) each."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.shown: list[Tensor] = []
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,)."""
        clean: Tensor = self.denoiser(x, sigma, condition)
        # at the deviation of images, about 1/2, whatever the noise level
        size = each((1 + 4 * sigma.square()).sqrt())
        self.shown.append(to_uint8(x / size))
        self.seen.append(to_uint8(clean))
        return clean


def trajectory(model: DiffusionModel, seeds: list[int]) -> Tensor:
    """uint8 (2 N SHOWN, C, H, W): for each seed a row of noisy images and one of what the network sees."""
    watched = Watched(model.denoiser)
    steps = 2 * SHOWN - 1  # every second one is shown
    walking = DiffusionModel(watched, model.options).using(steps=steps, sampler="dpm++2m").eval()
    walking.sample(seeds)
    shown, seen = (torch.stack(kept[::2], 1) for kept in (watched.shown, watched.seen))
    return torch.stack([shown, seen], 1).flatten(0, 2)


def main() -> None:
    """Writes samples.png, denoising.png and steps.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    keep_buffers()
    model = diffusion_of(diptych.load(given.run, given.device))
    columns = model.classes or 10
    first = given.seed - given.seed % columns  # a seed's own class is its remainder
    seeds = list(range(first, first + columns))
    sheets = {
        "samples": pictures.sheet(model.sample(range(first, first + ROWS * columns)), columns),
        "denoising": pictures.sheet(trajectory(model, seeds[:SEEDS]), SHOWN),
        "steps": pictures.sheet(
            torch.cat([model.using(steps=n, sampler="dpm++2m").sample(seeds) for n in STEPS]), columns
        ),
    }
    for name, sheet in sheets.items():
        pictures.save(sheet, given.out / f"{name}.png")
        print(given.out / f"{name}.png")


if __name__ == "__main__":
    main()
