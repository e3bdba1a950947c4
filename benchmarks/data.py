"""An epoch over prepared images beside torch's DataLoader that decodes PNG files with Pillow, in one run.

    python benchmarks/data.py [--images 4000] [--size 32] [--batch 64] [--rounds 5]

Both hand out float32 batches (B, 3, H, W) in [-1, 1] of the same pictures, shuffled. Epochs are interleaved,
their medians compared. Ours pays for decoding once: that is timed and shown, and not counted in the epochs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from diptych.data import DataSet, Images, open_data


class PngFiles(Dataset[torch.Tensor]):
    """The usual data set: a list of files, decoded when asked for."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            pixels = np.array(image.convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(127.5).sub_(1)


def ours(images: Images, size: int, epoch: int) -> Iterable[torch.Tensor]:
    """One epoch of prepared pixels."""
    n = len(images)
    for start in range(epoch * n, (epoch + 1) * n - size + 1, size):
        yield images.batch(0, start, size).image


def peer(loader: Iterable[torch.Tensor], epoch: int) -> Iterable[torch.Tensor]:
    """One epoch of a loader, which shuffles anew each time."""
    return loader


def rate(epoch: Iterable[torch.Tensor]) -> float:
    """Images a second."""
    begin, count = time.perf_counter(), 0
    for batch in epoch:
        count += len(batch)
    return count / (time.perf_counter() - begin)


def write(folder: Path, n: int, size: int) -> list[Path]:
    """The drawn scenes as PNG files, and where they are."""
    data = open_data(f"shapes:{n}", size=size)
    pixels = np.concatenate([data.train.pixels, data.held_out.pixels])
    files = [folder / f"{i:06}.png" for i in range(n)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    return files


def measure(folder: Path, args: argparse.Namespace) -> tuple[DataSet, float, dict[str, list[float]]]:
    """The data set, the seconds of its ingest, and images a second of each round."""
    files = write(folder, args.images, args.size)
    begin = time.perf_counter()
    data = open_data(folder)
    ingest = time.perf_counter() - begin
    loaders = {
        f"DataLoader + PIL, {workers} workers": DataLoader(
            PngFiles(files), args.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        for workers in (0, 2)
    }
    ways: dict[str, Callable[[int], Iterable[torch.Tensor]]] = {
        "diptych, Images.batch": lambda epoch: ours(data.train, args.batch, epoch),
    }
    for name, loader in loaders.items():
        ways[name] = partial(peer, loader)
    for way in ways.values():
        rate(way(0))  # warm: pages, workers, file cache
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(1, args.rounds + 1):
        for name, way in ways.items():
            rates[name].append(rate(way(epoch)))
    return data, ingest, rates


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("images", 4000), ("size", 32), ("batch", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data, ingest, rates = measure(Path(folder), args)
    first = statistics.median(next(iter(rates.values())))
    print(f"torch {torch.__version__}, Pillow {PIL.__version__}, {platform.machine()}, 1 thread of torch")
    side = args.size
    print(f"{args.images:,} PNGs of {side}x{side}x3, batch {args.batch}, medians of {args.rounds} epochs\n")
    print("| | images/s | ours / it |\n|---|---:|---:|")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"| {name} | {median:,.0f} | {first / median:.1f} |")
    total = len(data.train) + len(data.held_out)
    print(f"\ningest, once: {ingest:.2f} s, {total / ingest:,.0f} images/s")


if __name__ == "__main__":
    main()
