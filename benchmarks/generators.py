"""Our generators beside the usual form of their operations, on the same weights, by turns in one run.

    python benchmarks/generators.py [--only stylegan3|stylegan2|r3gan] [--rounds N] [--quick]

The usual form inserts zeros and multiplies them, modulates weights for each image and convolves with a group
for each (tests/usual_operations.py). It is timed twice: as programs run it, where the C library gives large
buffers back and page-faults them in again, and with `diptych.system.device.keep_buffers`, which leaves
operations and memory formats alone. Seconds are the processor's, of one thread. Compared as well, as the
largest difference over the largest value: the images that are timed, and, in float64 at 32 pixels, the
derivatives of the squared norm of the slope of images in their styles or latents. Exits with 1 where they are
more than 1e-3 and 1e-8 apart.
"""

from __future__ import annotations

import copy
import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paired import finish, interleaved, parser, ratio, shown, table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from diptych.networks.r3gan import R3Generator  # noqa: E402
from diptych.networks.stylegan2 import StyleGAN2Generator  # noqa: E402
from diptych.networks.stylegan3 import StyleGAN3Generator  # noqa: E402
from diptych.system.device import keep_buffers  # noqa: E402
from usual_operations import usual_form  # noqa: E402

FFHQ = (768, 768, 768, 768, 384, 192, 96)  # R3GAN's channels from 4 to 256 pixels


@dataclass(frozen=True)
class Case:
    """A generator at 256 pixels, its like at 32, the batches to time and the least ratio to reach."""

    name: str
    build: Callable[[], nn.Module]
    small: Callable[[], nn.Module]
    batches: Mapping[int, float]


CASES = [
    Case(
        "stylegan3",
        lambda: StyleGAN3Generator((3, 256, 256), base=16384),
        lambda: StyleGAN3Generator((3, 32, 32), style=16, latent=16, base=512, largest=16),
        {1: 3.5},
    ),
    Case(
        "stylegan2",
        lambda: StyleGAN2Generator((3, 256, 256)),
        lambda: StyleGAN2Generator((3, 32, 32), style=16, latent=16, base=512, largest=16),
        {1: 1.0, 4: 1.8},
    ),
    Case(
        "r3gan",
        lambda: R3Generator((3, 256, 256), width=FFHQ),
        lambda: R3Generator((3, 32, 32), width=16, blocks=1, group=8),
        {1: 1.8},
    ),
]


def loud(network: nn.Module) -> nn.Module:
    """No weight is 0, which would hide errors."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim else 0.1)
    return network.eval().requires_grad_(False)


def give_buffers_back() -> None:
    """The C library's own limits, after they have grown as far as they do by themselves."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        for option, bytes_ in ((-3, 32 << 20), (-1, 64 << 20)):  # mmap threshold, trim threshold
            library.mallopt(option, bytes_)
        library.malloc_trim(0)


def derivatives(network: nn.Module) -> Tensor:
    """Those of ||d sum(image^2) / d input||^2 by each parameter, as one vector."""
    torch.manual_seed(1)
    z = torch.randn(2, network.latent, dtype=torch.float64)  # type: ignore[call-overload]
    entry = network.mapping(z) if hasattr(network, "mapping") else z.requires_grad_()
    image = getattr(network, "synthesis", network)(entry)
    (slope,) = torch.autograd.grad(image.square().sum(), entry, create_graph=True)
    found = torch.autograd.grad(slope.square().sum(), list(network.parameters()), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def apart(ours: Tensor, usual: Tensor) -> float:
    """The largest difference over the largest value."""
    return float((ours - usual).abs().max() / usual.abs().max())


def measure(case: Case, batch: int, network: nn.Module, rounds: int) -> dict[str, Any]:
    """Seconds of the three ways, and how far the images are apart."""
    z = torch.randn(batch, network.latent)  # type: ignore[call-overload]
    networks = {True: network, False: copy.deepcopy(network).to(memory_format=torch.channels_last)}  # type: ignore[call-overload]

    def timed(usual: bool, keep: bool) -> Callable[[], float]:
        def way() -> float:
            (keep_buffers if keep else give_buffers_back)()
            begin = time.process_time()
            draw(networks[usual], z, usual)
            return time.process_time() - begin

        return way

    ways = {"ours": timed(False, True), "usual": timed(True, False), "usual, kept": timed(True, True)}
    seconds = interleaved(ways, rounds)
    return {
        "name": case.name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch": batch,
        "seconds": seconds,
        "usual": ratio(seconds["usual"], seconds["ours"]),
        "kept": ratio(seconds["usual, kept"], seconds["ours"]),
        "target": case.batches[batch],
        "difference": apart(draw(networks[False], z, False), draw(network, z, True)),
    }


@torch.inference_mode()
def draw(network: nn.Module, z: Tensor, usual: bool) -> Tensor:
    """Images, computed in one way or the other."""
    if not usual:
        return network(z)  # type: ignore[no-any-return]
    with usual_form():
        return network(z)  # type: ignore[no-any-return]


def second_derivatives(case: Case) -> float:
    """How far those of the small network are apart."""
    small = loud(case.small()).double().requires_grad_()
    ours = derivatives(small)
    with usual_form():
        return apart(ours, derivatives(small))


def main() -> None:
    """Measures, prints, and says what missed its target."""
    flags = parser(__doc__ or "", rounds=5)
    flags.add_argument("--only", choices=[case.name for case in CASES])
    arguments = flags.parse_args()
    torch.set_num_threads(1)
    results = []
    for case in CASES:
        if arguments.only in (None, case.name):
            twice = second_derivatives(case)
            build = case.small if arguments.quick else case.build
            network = loud(build())
            for batch in case.batches:
                found = measure(case, batch, network, 2 if arguments.quick else arguments.rounds)
                results.append({**found, "second_derivatives": twice})
    head = [
        "generator",
        "usual / ours",
        "the same, buffers kept",
        "target",
        "images apart",
        "derivatives apart",
    ]
    rows = [
        [
            f"{r['name']}, {r['parameters'] / 1e6:.1f} M, batch {r['batch']}",
            shown(r["usual"]),
            shown(r["kept"]),
            f"{r['target']:g}",
            f"{r['difference']:.0e}",
            f"{r['second_derivatives']:.0e}",
        ]
        for r in results
    ]
    table(head, rows)
    finish({"generators": results}, arguments.out)
    if any(r["difference"] > 1e-3 or r["second_derivatives"] > 1e-8 for r in results):
        sys.exit("ours and the usual form differ")


if __name__ == "__main__":
    main()
