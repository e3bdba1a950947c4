"""A U-Net's training step beside the peers', at equal work; and the optimizer with its averages. In one run.

    python benchmarks/step.py [--edm FOLDER] [--width 32] [--batch 64] [--precision bfloat16] [--rounds 9]

Ours is the whole step of an edm training: batch, loss, clipping, fused AdamW, averages, logs. The peers do
less: forward, a mean squared error, backward and their usual optimizer (AdamW; Adam in EDM), no averages.
diffusers is used where it is installed; EDM's SongUNet where --edm names a checkout of github.com/NVlabs/edm.
Each is in a process of its own, ours with the allocator as `train` sets it; torch counts the FLOPs, and the
ratio is of GFLOP/s, on one thread by CPU time: a busy machine can be used. Targets: >= 1.4 times diffusers,
>= 1.1 times SongUNet, optimizer + averages >= 3 times.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych import catalog
from diptych.data.images import Images
from diptych.method import adam
from diptych.networks.unet import UNet
from diptych.system.device import keep_buffers
from diptych.training.state import Settings, Training
from paired import Way, apart, finish, interleaved, parser, per_flop, ratio, shown, table

SIZE = 32  # pixels


def ours(args: argparse.Namespace) -> Way:
    """The real thing."""
    keep_buffers()
    pixels = np.random.default_rng(0).integers(0, 256, (512, SIZE, SIZE, 3), dtype=np.uint8)
    data = Images(pixels, np.arange(512) % 10, tuple("0123456789"))
    recipe = catalog.recipe("edm")(data, width=args.width, batch=args.batch)
    return Training(recipe, data, 10**9, Settings(device="cpu", precision=args.precision)).step


def plain(
    call: Callable[[Tensor, Tensor], Tensor], optimizer: torch.optim.Optimizer, args: argparse.Namespace
) -> Way:
    """Forward, mean squared error, backward, optimizer; call(x, t) has t in 0..1."""
    x, target = torch.randn(2, args.batch, 3, SIZE, SIZE)
    t, mixed = torch.rand(args.batch), args.precision == "bfloat16"

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = (call(x, t) - target).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def diffusers(args: argparse.Namespace) -> Way:
    """UNet2DModel with its defaults: three levels as ours, attention in the last."""
    from diffusers import UNet2DModel

    w = args.width
    network = UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(w, 2 * w, 2 * w),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        num_class_embeds=10,
    )
    label = torch.arange(args.batch) % 10
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    return plain(lambda x, t: network(x, (t * 999).long(), label).sample, optimizer, args)


def song(args: argparse.Namespace) -> Way:
    """EDM's DDPM++ behind its preconditioning, three levels as ours, attention in the last."""
    sys.path.insert(0, args.edm)
    from training.networks import EDMPrecond

    network = EDMPrecond(
        SIZE,
        3,
        label_dim=10,
        model_type="SongUNet",
        model_channels=args.width,
        channel_mult=[1, 2, 2],
        num_blocks=2,
        attn_resolutions=[SIZE // 4],
        dropout=0,
    )
    label = nn.functional.one_hot(torch.arange(args.batch) % 10, 10).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    return plain(lambda x, t: network(x, t.view(-1, 1, 1, 1) + 0.01, label), optimizer, args)


def network_steps(args: argparse.Namespace) -> dict[str, Any]:
    """GFLOP/s of each, and how much more ours does."""
    makes: dict[str, Callable[[argparse.Namespace], Way]] = {"diptych": ours}
    if importlib.util.find_spec("diffusers"):
        makes["diffusers UNet2DModel"] = diffusers
    if args.edm:
        makes["EDM SongUNet"] = song
    flop, seconds = apart(makes, args)
    return {
        name: {
            "GFLOP an image": flop[name] / args.batch / 1e9,
            "images/s": args.batch / statistics.median(taken),
            "GFLOP/s": flop[name] / statistics.median(taken) / 1e9,
            "ours is faster": per_flop(flop, seconds, name),
        }
        for name, taken in seconds.items()
    }


def optimizer_steps(args: argparse.Namespace) -> dict[str, Any]:
    """AdamW and averaged weights on ready gradients: fused and foreach, and as usual."""
    network = UNet((3, SIZE, SIZE), classes=10, width=args.width)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    theirs = copy.deepcopy(network)
    for p, q in zip(theirs.parameters(), network.parameters(), strict=True):
        p.grad = torch.randn_like(q)
    average, fused = copy.deepcopy(network).requires_grad_(False), adam(network, 1e-4)
    kept, moving = list(average.parameters()), list(network.parameters())
    usual = torch.optim.AdamW(theirs.parameters(), lr=1e-4)

    def ours() -> None:
        fused.step()
        with torch.no_grad():
            torch._foreach_lerp_(kept, moving, 0.01)

    ways: dict[str, Way] = {"fused AdamW + foreach lerp": ours}
    if importlib.util.find_spec("diffusers"):
        from diffusers.training_utils import EMAModel

        ema = EMAModel(theirs.parameters())

        def peer() -> None:
            usual.step()
            ema.step(theirs.parameters())

        ways["AdamW + diffusers EMAModel"] = peer
    seconds = interleaved(ways, 3 * args.rounds)
    first = seconds["fused AdamW + foreach lerp"]
    return {
        name: {"ms": statistics.median(taken) * 1e3, "ours is faster": ratio(taken, first)}
        for name, taken in seconds.items()
    }


def main() -> None:
    """Measures and prints two Markdown tables."""
    flags = parser(__doc__ or "", rounds=9)
    flags.add_argument("--edm", default="", help="a checkout of github.com/NVlabs/edm")
    flags.add_argument("--width", type=int, default=32)
    flags.add_argument("--batch", type=int, default=64)
    flags.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of all")
    args = flags.parse_args()
    if args.quick:
        args.batch, args.rounds = 8, 3
    torch.set_num_threads(args.threads)
    keep_buffers()
    networks, optimizers = network_steps(args), optimizer_steps(args)
    print(f"a training step, {SIZE}x{SIZE}x3, width {args.width}, batch {args.batch}, {args.precision}\n")
    rows = [
        [name, *(f"{found[key]:.3g}" for key in list(found)[:3]), shown(found["ours is faster"])]
        for name, found in networks.items()
    ]
    table(["", "GFLOP an image", "images/s", "GFLOP/s", "ours is faster, per FLOP"], rows)
    print("\noptimizer and averages\n")
    table(
        ["", "ms", "ours is faster"],
        [[name, f"{found['ms']:.2f}", shown(found["ours is faster"])] for name, found in optimizers.items()],
    )
    finish({"networks": networks, "optimizer": optimizers}, args.out)


if __name__ == "__main__":
    main()
