"""Saving and loading a training's state: ours beside torch.save and torch.load, in one run.

    python benchmarks/checkpoint.py [--width 64] [--rounds 9] [--out results.json]

The state is that of a real training: weights, averages, both moments of AdamW. Saving: ours writes to a
temporary name, flushes it to the disk (fsync) and renames, and so does torch.save beside it; then both again
without the fsync, because how long that takes is the disk's affair alone. Loading ends when all is copied
into a training's own tensors; torch.load has weights_only=True. One thread: copying is what is measured.
Targets: save >= 1.8 times, load >= 3 times as fast.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from diptych import catalog
from diptych.data.images import Images
from diptych.system.files import read_state, write_state
from diptych.training.state import Settings, Training
from paired import Seconds, finish, interleaved, parser, ratio, shown, table


def training(width: int) -> Training:
    """An edm training on made-up images, two steps old."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    data = Images(pixels, np.arange(64) % 10, tuple("0123456789"))
    made = Training(catalog.recipe("edm")(data, width=width, batch=4), data, 10**6, Settings(device="cpu"))
    made.step()
    made.step()
    return made


def torch_save(state: Any, path: Path, sync: bool) -> None:
    """torch.save to a temporary name, renamed; flushed to the disk before that where `sync`."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    if sync:
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    os.replace(temporary, path)


def tensors(state: Any) -> Iterator[Tensor]:
    """All that a state holds, in order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for item in state.values() if isinstance(state, dict) else state:
            yield from tensors(item)


def load(read: Callable[[], Any], places: list[Tensor]) -> None:
    """Reads a state and copies each tensor to its place, as resuming does."""
    for place, value in zip(places, tensors(read()), strict=True):
        place.copy_(value)


def unsynced(path: Path, state: Any) -> None:
    """Ours without waiting for the disk."""
    with mock.patch("os.fsync"):
        write_state(path, state)


def measure(state: Any, folder: Path, rounds: int) -> tuple[Seconds, ...]:
    """Seconds of saving, of saving without fsync, and of loading, by way."""
    ours, theirs = folder / "state.safetensors", folder / "state.pt"
    saving = interleaved(
        {
            "diptych": partial(write_state, ours, state),
            "torch": partial(torch_save, state, theirs, True),
        },
        rounds,
    )
    writing = interleaved(
        {
            "diptych": partial(unsynced, ours, state),
            "torch": partial(torch_save, state, theirs, False),
        },
        rounds,
    )
    places = [tensor.clone() for tensor in tensors(state)]
    loading = interleaved(
        {
            "diptych": partial(load, partial(read_state, ours), places),
            "torch": partial(load, partial(torch.load, theirs, weights_only=True), places),
            "torch, mmap": partial(load, partial(torch.load, theirs, weights_only=True, mmap=True), places),
        },
        rounds,
    )
    return saving, writing, loading


def main() -> None:
    """Measures and prints a Markdown table."""
    flags = parser(__doc__ or "", rounds=9)
    flags.set_defaults(threads=1)
    flags.add_argument("--width", type=int, default=64)
    flags.add_argument("--folder", type=Path, help="where to write; the disk matters")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    state = training(16 if args.quick else args.width).state_dict()
    size = sum(tensor.nbytes for tensor in tensors(state)) / 2**20
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        measured = measure(state, Path(folder), 3 if args.quick else args.rounds)
    print(f"{size:.0f} MiB in {len(list(tensors(state)))} tensors\n")
    results: dict[str, Any] = {"MiB": size}
    rows = []
    for verb, seconds in zip(("save", "save without fsync", "load"), measured, strict=True):
        for name, taken in seconds.items():
            found = ratio(taken, seconds["diptych"])
            results[f"{verb}, {name}"] = {"seconds": statistics.median(taken), "ours is faster": found}
            rows.append([f"{verb}, {name}", f"{statistics.median(taken) * 1e3:.0f} ms", shown(found)])
    table(["", "median", "ours is faster by"], rows)
    finish(results, args.out)


if __name__ == "__main__":
    main()
