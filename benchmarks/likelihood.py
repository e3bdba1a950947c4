"""Bits per dimension of held-out 8-bit images: by the probability-flow ODE, and by the variational bound.

    python benchmarks/likelihood.py runs/digits-edm runs/digits-ddpm --n 360

Each run is measured on the held-out images of its own data set, given their labels where it knows them. The
ODE sees them uniformly dequantised, the bound as the levels that they are. Behind ± stand standard errors,
over the images.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diptych.data.images import DataSet
from diptych.diffusion.bound import Bound
from diptych.diffusion.model import DiffusionModel
from diptych.exam import shuffle
from diptych.measuring.reference import open_all
from diptych.metrics.bits_per_dim import bits_of
from diptych.model import Condition, from_uint8
from diptych.system.files import write_json
from paired import machine, table

HEAD = ["run", "images", "ODE", "bound", "prior", "steps", "levels", "calls", "s an image"]


@dataclass(frozen=True)
class Found:
    """Bits a dimension (N,) of each image, by each estimator, and what they took."""

    ode: Tensor
    bound: Tensor
    parts: dict[str, float]  # of the bound: means
    calls: tuple[float, float]  # of the network, an image
    seconds: tuple[float, float]  # an image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--n", type=int, default=256, help="held-out images; 0: all")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of a step of the ODE")
    parser.add_argument("--probes", type=int, default=1, help="of its divergence; 0: exact")
    parser.add_argument("--terms", type=int, default=64, help="of the bound's steps, an image; 0: all")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a .json with every image's bits")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows, kept = [], {}
    for run in given.runs:
        (subject,), data = open_all([run], device=given.device)
        model = subject.model
        if not isinstance(model, DiffusionModel):
            print(f"{run}: {type(model).__name__} has no density")
            continue
        model = model.using(tolerance=given.tolerance, probes=given.probes, terms=given.terms)
        found = measured(model, data, given.n or len(data.held_out), given.batch)
        rows.append(row(run.name, found))
        kept[str(run)] = {"ode": found.ode.tolist(), "bound": found.bound.tolist(), "parts": found.parts}
    print(f"{machine()}\n")
    table(HEAD, rows)
    if given.out:
        write_json(
            given.out,
            {"machine": machine(), "arguments": vars(given) | {"runs": [], "out": ""}, "bits": kept},
        )


def measured(model: DiffusionModel, data: DataSet, n: int, batch: int) -> Found:
    """Both estimates of the same images."""
    held_out = data.held_out
    chosen = shuffle(len(held_out))[:n]
    images = held_out.tensor(chosen)
    label = held_out.label(chosen) if "label" in model.wants else None
    device = next(model.parameters()).device
    with counted(model) as ode_calls:
        begin = time.perf_counter()
        ode = bits_of(model, images, label, device)
        ode_seconds = time.perf_counter() - begin
    with counted(model) as bound_calls:
        begin = time.perf_counter()
        bounds = [
            model.bound(
                from_uint8(images[i : i + batch]).to(device),
                Condition(label=None if label is None else label[i : i + batch]).to(device),
                model.options.terms,
            )
            for i in range(0, len(images), batch)
        ]
        bits = torch.cat([b.bits(b.nats) for b in bounds]).cpu()
        seconds = time.perf_counter() - begin
    calls = sum(ode_calls) / len(images), sum(bound_calls) / len(images)
    return Found(ode, bits, parts(bounds), calls, (ode_seconds / len(images), seconds / len(images)))


def parts(bounds: list[Bound]) -> dict[str, float]:
    """Means of the bound's parts, in bits a dimension."""
    found = {
        "prior": [b.bits(b.prior) for b in bounds],
        "steps": [b.bits((b.weight * b.steps).sum(1)) for b in bounds],
        "levels": [b.bits(b.decoder) for b in bounds],
    }
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


@contextmanager
def counted(model: DiffusionModel) -> Iterator[list[int]]:
    """Within it, notes how many images the denoiser is shown."""
    shown: list[int] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        shown.append(len(given[0]))

    hook = model.denoiser.register_forward_hook(note)
    try:
        yield shown
    finally:
        hook.remove()


def row(name: str, found: Found) -> list[str]:
    """A line of the table."""
    split = [
        f"{found.parts[key]:.4f}" if key == "prior" else f"{found.parts[key]:.3f}" for key in found.parts
    ]
    return [
        name,
        f"{len(found.ode):,}",
        with_error(found.ode),
        with_error(found.bound),
        *split,
        " + ".join(f"{calls:.0f}" for calls in found.calls),
        " + ".join(f"{seconds:.2g}" for seconds in found.seconds),
    ]


def with_error(bits: Tensor) -> str:
    """A mean and its standard error."""
    return f"{float(bits.mean()):.3f} ± {float(bits.std()) / math.sqrt(len(bits)):.3f}"


if __name__ == "__main__":
    main()
