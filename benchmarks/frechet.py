"""Distances between feature sets: ours beside torch-fidelity, torchmetrics and pytorch-fid, in one run.

    python benchmarks/frechet.py [--dim 2048] [--n 5000] [--rounds 5] [--out results.json]

Moments in, distance out, in every library's own function; with fewer images than dimensions, features in.
KID over the same random subsets. Peers that are not installed are left out; torch-fidelity and torchmetrics
ask for torchvision, which may come without its dependencies. Targets: at least 4 times torch-fidelity and
torchmetrics and 10 times a matrix root (sqrtm), the same value to 1e-6; KID of 10,000 x 192 in 4 s.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diptych.metrics.fid import frechet, frechet_distance
from diptych.metrics.fid_infinity import extrapolated
from diptych.metrics.kid import kernel_distance, kernel_distance_subsets
from diptych.metrics.mind import monge_distance
from diptych.metrics.moments import Moments
from diptych.system.device import keep_buffers
from paired import finish, interleaved, parser, ratio, shown, table

Way = Callable[[], float]


class Row(NamedTuple):
    """One piece of work, done by one library and by ours."""

    work: str
    peer: str
    theirs: list[float]  # seconds, one a round; none where only ours was timed
    ours: list[float]
    difference: float  # relative, of the values


def rows(dim: int = 2048, n: int = 5000, few: int = 1000, kid: int = 10_000, rounds: int = 5) -> list[Row]:
    """Everything that is measured, in turn."""
    let_torchvision_load()
    x, y = made(n, dim, 1.0, 0.0), made(n, dim, 1.05, 0.05)
    own = (Moments.of(x), Moments.of(y))
    found = compared(
        f"Fréchet distance, moments of {dim}",
        lambda: frechet_distance(*own),
        from_moments([(m.mean.numpy(), m.covariance.numpy()) for m in own]),
        rounds,
    )
    half = [(m.mean.numpy(), m.covariance.numpy()) for m in (Moments.of(x[:few]), Moments.of(y[:few]))]
    found += compared(
        f"the same, {few:,} images (ours: features in)",
        lambda: frechet_distance(x[:few], y[:few]),
        from_moments(half),
        rounds,
    )
    size = min(1000, n)
    found += compared(
        f"KID, 5 subsets of {size:,} x {dim}",
        lambda: kernel_distance_subsets(x.double(), y.double(), 5, size)[0],
        subsets_of_kid(x.double(), y.double(), size),
        rounds,
    )
    return found + alone(kid, rounds)


def alone(n: int, rounds: int) -> list[Row]:
    """What no peer does, on n x 192: all pairs, error bars, extrapolation."""
    x, y = made(n, 192, 1.0, 0.0), made(n, 192, 1.05, 0.05)
    ways: dict[str, Way] = {
        "KID, all pairs, with its interval": lambda: kernel_distance(x, y).value,
        "FID with its interval": lambda: frechet(x, y).value,
        "FID_infinity": lambda: extrapolated(frechet(x, y), x, y),
        "MIND, 1,000 directions": lambda: monge_distance(x, y).value,
    }
    seconds = interleaved(ways, rounds)
    return [Row(f"{name}, {n:,} x 192", "", [], taken, 0.0) for name, taken in seconds.items()]


def compared(work: str, ours: Way, peers: dict[str, Way], rounds: int) -> list[Row]:
    """Ours against each peer, all in turn."""
    seconds = interleaved({"ours": ours, **peers}, rounds)
    value = ours()
    return [
        Row(work, name, seconds[name], seconds["ours"], abs(value - theirs()) / abs(value))
        for name, theirs in peers.items()
    ] or [Row(work, "", [], seconds["ours"], 0.0)]


def from_moments(moments: list[tuple[Any, Any]]) -> dict[str, Way]:
    """What each peer that is installed makes of two (mean, covariance)."""
    (mean_x, cov_x), (mean_y, cov_y) = moments
    ways: dict[str, Way] = {}
    with contextlib.suppress(ImportError):
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        both = [{"mu": mean, "sigma": covariance} for mean, covariance in moments]
        ways["torch-fidelity"] = lambda: fid_statistics_to_metric(*both, verbose=False)[KEY_METRIC_FID]
    with contextlib.suppress(ImportError):
        from torchmetrics.image.fid import _compute_fid

        parts = [torch.from_numpy(part) for part in (mean_x, cov_x, mean_y, cov_y)]
        ways["torchmetrics"] = lambda: float(_compute_fid(*parts))
    with contextlib.suppress(ImportError):
        from pytorch_fid.fid_score import calculate_frechet_distance

        ways["pytorch-fid (sqrtm)"] = lambda: float(calculate_frechet_distance(mean_x, cov_x, mean_y, cov_y))
    return ways


def subsets_of_kid(x: Tensor, y: Tensor, size: int) -> dict[str, Way]:
    """torch-fidelity's KID of the same subsets."""
    with contextlib.suppress(ImportError):
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

        asked = partial(kid_features_to_metric, x, y, kid_subsets=5, kid_subset_size=size, verbose=False)
        return {"torch-fidelity": lambda: asked()[KEY_METRIC_KID_MEAN]}
    return {}


def made(n: int, dim: int, scale: float, shift: float) -> Tensor:
    """Features (n, dim) whose spectrum falls off, as those of networks do."""
    stream = np.random.default_rng([n, dim, int(1000 * scale)])
    spectrum = np.arange(1, dim + 1) ** -0.5
    mix = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0]
    values = (stream.standard_normal((n, dim)) * spectrum) @ mix * scale + shift
    return torch.from_numpy(values.astype(np.float32))


def let_torchvision_load() -> None:
    """Declares the operators that torchvision asks for where it came without its compiled half."""
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


def cells(row: Row) -> list[str]:
    """A row as it stands in the table."""
    ours = f"{statistics.median(row.ours):.3f} s"
    if not row.theirs:
        return [row.work, "", "", ours, "", ""]
    theirs = f"{statistics.median(row.theirs):.3f} s"
    return [row.work, row.peer, theirs, ours, shown(ratio(row.theirs, row.ours)), f"{row.difference:.1e}"]


def flags() -> argparse.Namespace:
    """The command line."""
    args = parser(__doc__ or "", rounds=5)
    args.add_argument("--dim", type=int, default=2048)
    args.add_argument("--n", type=int, default=5000)
    return args.parse_args()


def main() -> None:
    """The table."""
    asked = flags()
    torch.set_num_threads(asked.threads)
    keep_buffers()
    if asked.quick:
        found = rows(dim=64, n=200, few=40, kid=500, rounds=1)
    else:
        found = rows(asked.dim, asked.n, rounds=asked.rounds)
    head = ["work", "peer", "theirs", "ours", "ratio", "relative difference"]
    table(head, [cells(row) for row in found])
    finish({f"{row.work}; {row.peer}": row._asdict() for row in found}, asked.out)


if __name__ == "__main__":
    main()
