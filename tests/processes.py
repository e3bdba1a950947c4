"""Trains recipes of the catalog in one process or, started by torchrun, in several; for test_processes.py.

python processes.py FOLDER SHARDS RECIPE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from conftest import made_up
from diptych import catalog
from diptych.loop import train
from diptych.parallel import joined
from diptych.training import Settings


def main(folder: str, shards: str, *names: str) -> None:
    """Six steps of each, in FOLDER/RECIPE."""
    torch.set_num_threads(1)
    with joined():
        for name in names:
            spec = catalog.recipe(name)
            batch = spec(made_up().train, **spec.small).batch
            settings = Settings(
                "48-images", ticks=2, device="cpu", seed=3, microbatch=-(-batch // int(shards))
            )
            train(spec, made_up(), Path(folder) / name, arguments=spec.small, settings=settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
