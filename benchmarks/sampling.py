"""Sampling beside diffusers': time outside the network, and whole runs with networks of equal work.

    python benchmarks/sampling.py [--size 32] [--batch 64] [--width 32] [--rounds 7] [--out results.json]

Outside the network: a network that returns a buffer it keeps, so that what is left is the sampler, the
preconditioning and the loop; of diffusers its scheduler's steps alone. Whole runs: our U-Net behind our
samplers, and UNet2DModel in diffusers' pipelines, DDIM of 50 steps and DPM-Solver++ 2M of 20, seconds divided
by the FLOPs that torch counts; each in a process of its own, ours with the allocator as commands set it,
diffusers' as it comes. On one thread it is CPU time. Targets: a third outside, 1.3 times as fast.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.utils import logging
from torch import Tensor, nn

from diptych.diffusion.denoiser import ScheduleDenoiser
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.schedules import Discrete
from diptych.model import Noise
from diptych.networks.unet import UNet
from diptych.system.device import keep_buffers
from paired import Seconds, Way, apart, finish, interleaved, parser, per_flop, ratio, shown, table

SAMPLERS = {
    "DDIM": ("euler", DDIMScheduler, 50),
    "DPM-Solver++ 2M": ("dpm++2m", DPMSolverMultistepScheduler, 20),
}


class Kept(nn.Module):
    """A network that takes no time."""

    classes = attributes = 0

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.image_shape = tuple(images.shape[1:])
        self.images = images.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """What it keeps."""
        return self.images


def scheduler(kind: Any) -> Any:
    """Of diffusers, on the linear betas, cutting nothing."""
    return kind(clip_sample=False) if kind is DDIMScheduler else kind()


def ours(network: nn.Module, sampler: str, steps: int) -> DiffusionModel:
    """A model that predicts eps along the linear betas."""
    options = DiffusionOptions(steps=steps, sampler=sampler, grid="trailing")
    return DiffusionModel(ScheduleDenoiser(network, Discrete("linear")), options).eval()


def timed(ways: dict[str, Way], args: argparse.Namespace) -> Seconds:
    """Seconds of each, of CPU time on one thread."""
    return interleaved(ways, args.rounds, time.process_time if args.threads == 1 else time.perf_counter)


@torch.inference_mode()
def outside(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step outside the network."""
    noise = torch.randn(args.batch, 3, args.size, args.size)
    kept, results = Kept(torch.randn_like(noise)), {}
    for name, (sampler, kind, steps) in SAMPLERS.items():
        model, plan = ours(kept, sampler, steps), scheduler(kind)
        buffer = torch.randn_like(noise)

        def peer(plan: Any = plan, buffer: Tensor = buffer, steps: int = steps) -> None:
            plan.set_timesteps(steps)
            x = noise * plan.init_noise_sigma
            for t in plan.timesteps:
                x = plan.step(buffer, t, plan.scale_model_input(x, t)).prev_sample

        ways: dict[str, Way] = {"diptych": lambda model=model: model(Noise.given([noise])), "diffusers": peer}
        seconds = timed(ways, args)
        results[name] = {
            **{who: statistics.median(taken) / steps * 1e3 for who, taken in seconds.items()},
            "share": ratio(seconds["diptych"], seconds["diffusers"]),
        }
    return results


def whole(args: argparse.Namespace) -> dict[str, Any]:
    """Images a second of whole runs, and ours beside theirs at equal FLOPs."""
    results = {}
    for name, (_, _, steps) in SAMPLERS.items():
        steps = min(steps, args.steps or steps)
        makes = {"diptych": partial(our_run, name, steps), "diffusers": partial(their_run, name, steps)}
        flops, seconds = apart(makes, args)
        results[name] = {
            "steps": steps,
            "GFLOP a step": {who: flop / args.batch / steps / 1e9 for who, flop in flops.items()},
            **{who: args.batch / statistics.median(taken) for who, taken in seconds.items()},
            "ours is faster": per_flop(flops, seconds, "diffusers"),
        }
    return results


def our_run(name: str, steps: int, args: argparse.Namespace) -> Way:
    """As `diptych sample` does it."""
    keep_buffers()
    shape = (3, args.size, args.size)
    network = UNet(shape, width=args.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = ours(network, SAMPLERS[name][0], steps)
    return lambda: model.sample(range(args.batch), batch=args.batch)


def their_run(name: str, steps: int, args: argparse.Namespace) -> Way:
    """diffusers' pipeline with UNet2DModel: three levels as ours, attention in the last."""
    from diffusers import DDPMPipeline, UNet2DModel

    peer = UNet2DModel(
        sample_size=args.size,
        block_out_channels=(args.width, 2 * args.width, 2 * args.width),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval()
    # DDIM's own pipeline passes arguments that only DDIM's scheduler takes
    pipeline = DDPMPipeline(peer, scheduler(SAMPLERS[name][1]))
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=args.batch, num_inference_steps=steps, output_type="np")


def main() -> None:
    """Measures and prints two Markdown tables."""
    flags = parser(__doc__ or "", rounds=7)
    flags.add_argument("--size", type=int, default=32)
    flags.add_argument("--batch", type=int, default=64)
    flags.add_argument("--width", type=int, default=32)
    flags.add_argument("--steps", type=int, default=0, help="at most so many in the whole runs")
    args = flags.parse_args()
    if args.quick:
        args.batch, args.rounds, args.steps = 4, 3, 4
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    keep_buffers()  # the schedulers profit as well
    print(f"outside the network, ms a step, {args.batch}x3x{args.size}x{args.size}\n")
    around = outside(args)
    table(
        ["", "diptych", "diffusers", "share"],
        [[k, f"{v['diptych']:.3f}", f"{v['diffusers']:.3f}", shown(v["share"])] for k, v in around.items()],
    )
    runs = whole(args)
    print("\nwhole runs, images/s\n")
    rows = [
        [
            f"{k}, {v['steps']} steps",
            f"{v['diptych']:.3g}",
            f"{v['diffusers']:.3g}",
            shown(v["ours is faster"]),
        ]
        for k, v in runs.items()
    ]
    table(["", "diptych", "diffusers", "ours is faster, per FLOP"], rows)
    finish({"outside": around, "whole": runs}, args.out)


if __name__ == "__main__":
    main()
