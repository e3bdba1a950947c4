"""Samplers: agreement with diffusers and k-diffusion, orders of convergence, time, and quality over steps.

    python benchmarks/samplers.py                       agreement, and the samplers' own time
    python benchmarks/samplers.py --plot RUN ...        docs/images/quality-against-steps.svg of these runs

diffusers and k-diffusion are used where they are installed. Times: the processor's, of one thread, in turn.
Target: a DDIM and a DPM++2M step in at most a third of diffusers' time. Whole runs: sampling.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.diffusion.denoiser import Denoiser
from diptych.diffusion.samplers import SAMPLERS
from diptych.diffusion.samplers.grids import trailing
from diptych.diffusion.schedules import Discrete
from diptych.diffusion.sight import Sight
from diptych.model import Condition, Noise
from diptych.system.device import keep_buffers
from paired import finish, interleaved, parser, ratio, shown, table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
PLOT = ROOT / "docs" / "images" / "quality-against-steps.svg"
PLOTTED = ("ddim", "heun", "dpm++2m", "unipc", "ddpm")
VP = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def orders() -> dict[str, float]:
    """The measured order of each deterministic sampler on a mixture of two normals, from noise, float64."""
    from test_samplers import measured

    return {
        name: measured(name, 80.0, 120, 180)[0] for name, found in SAMPLERS.items() if found.deterministic
    }


def agreement() -> dict[str, Any]:
    """For each sampler its calls, its order, and the largest differences from the peers'."""
    from sampler_peers import CASES
    from samplers_k import differences

    theirs: dict[str, float] = {}
    if importlib.util.find_spec("diffusers"):
        for case in CASES:
            mine, other = case.run()
            theirs[case.name] = max(theirs.get(case.name, 0.0), (mine - other).abs().max().item())
    k, order = differences(), orders()
    return {
        name: {
            "calls": found.calls,
            "order": order.get(name),
            "diffusers": theirs.get(name),
            "k-diffusion": k.get(name),
        }
        for name, found in sorted(SAMPLERS.items())
    }


class Constant(Denoiser):
    """Sees the same image always, at once."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image, self.schedule = image, Discrete("linear")
        self.image_shape, self.classes = (3, 32, 32), 0

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The image."""
        return self.image


def outside_the_network(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of DDIM and DPM++2M, ours and diffusers', with a network that takes no time."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    steps, shape = 50, (args.images, 3, 32, 32)
    image, x = torch.randn(shape), torch.randn(shape)
    denoiser = Constant(image)
    sight, schedule = Sight(denoiser, Condition()), denoiser.schedule
    sigmas = trailing(steps, *schedule.ends(), schedule)

    def peer(scheduler: Any) -> Callable[[], None]:
        def loop() -> None:
            scheduler.set_timesteps(steps)
            y = x
            for t in scheduler.timesteps:
                y = scheduler.step(image, t, scheduler.scale_model_input(y, t)).prev_sample

        return loop

    def mine(name: str) -> Callable[[], object]:
        return lambda: SAMPLERS[name](sight, x, sigmas, Noise(()))

    pairs: dict[str, tuple[str, Callable[[], None]]] = {
        "ddim": ("DDIMScheduler", peer(DDIMScheduler(**VP, clip_sample=False))),
        "dpm++2m": ("DPMSolverMultistepScheduler", peer(DPMSolverMultistepScheduler(**VP))),
    }
    results = {}
    for name, (peer_name, loop) in pairs.items():
        with torch.inference_mode():
            taken = interleaved({"ours": mine(name), "theirs": loop}, args.rounds, time.process_time)
        results[name] = {
            "peer": peer_name,
            "ours_ms": statistics.median(taken["ours"]) / steps * 1e3,
            "theirs_ms": statistics.median(taken["theirs"]) / steps * 1e3,
            "faster": ratio(taken["theirs"], taken["ours"]),
        }
    return results


def plot(args: argparse.Namespace) -> None:
    """The ruler's fid over steps, a panel a run, a line a sampler."""
    from diptych.measuring.sweep import point, sweep
    from diptych.report.lines import Line, Panel, figure

    panels = []
    for run in args.plot:
        lines = []
        for sampler in PLOTTED:
            options = {"sampler": sampler, **({"grid": args.grid} if args.grid else {})}
            found = sweep(run, "steps", args.plot_steps, options=options, n=args.n, metrics=["fid"])
            both = zip(found.values, found.reports, strict=True)
            points = [point(value, report.scores["fid"]) for value, report in both]
            lines.append(Line(sampler, points))
            print(Path(run).name, sampler, *(f"{p.x:g}: {p.y:.4g}" for p in points), flush=True)
        panels.append(Panel(f"{Path(run).name}: fid", "steps", lines, log_x=True, log_y=True))
    title = "Quality against steps, by sampler"
    note = f"n = {args.n}; bars: 95 % intervals; heun takes two network calls a step, the others one"
    args.image.parent.mkdir(parents=True, exist_ok=True)
    drawn = figure("quality-against-steps", title, panels, columns=2, width=460, note=note)
    args.image.write_text(str(drawn))
    print(args.image)


def said(value: float | None, form: str) -> str:
    """A number or nothing."""
    return "" if value is None or math.isnan(value) else format(value, form)


def report(args: argparse.Namespace) -> dict[str, Any]:
    """Measures and prints the tables."""
    results: dict[str, Any] = {"agreement": agreement()}
    rows = [
        [
            name,
            str(found["calls"]),
            said(found["order"], ".2f") or "draws noise",
            *(said(found[k], ".0e") for k in ("diffusers", "k-diffusion")),
        ]
        for name, found in results["agreement"].items()
    ]
    head = ["sampler", "calls a step", "measured order", "from diffusers", "from k-diffusion"]
    print("largest differences of images of unit size; order from noise, on a mixture of two normals\n")
    table(head, rows)
    if importlib.util.find_spec("diffusers"):
        results["outside"] = outside_the_network(args)
        print(f"\na step outside the network, {args.images}x3x32x32, processor's ms of one thread\n")
        cells = [
            [
                name,
                f"{found['ours_ms']:.3f}",
                f"{found['peer']} {found['theirs_ms']:.3f}",
                shown(found["faster"]),
            ]
            for name, found in results["outside"].items()
        ]
        table(["", "ours", "diffusers", "ours is faster"], cells)
    return results


def main() -> None:
    """Prints Markdown tables, or draws the plot."""
    flags = parser(__doc__ or "", rounds=15)
    flags.set_defaults(threads=1)
    flags.add_argument("--images", type=int, default=64, help="a batch")
    flags.add_argument("--plot", nargs="+", default=[], metavar="RUN", help="draw quality against steps")
    flags.add_argument("--n", type=int, default=1000, help="images a point of the plot")
    flags.add_argument("--plot-steps", type=float, nargs="+", default=[3, 5, 10, 20, 50])
    flags.add_argument("--grid", default="", help="of the plot; else the run's own")
    flags.add_argument("--image", type=Path, default=PLOT)
    args = flags.parse_args()
    if args.quick:
        args.rounds = 3
    torch.set_num_threads(args.threads)
    keep_buffers()
    warnings.simplefilter("ignore")  # diffusers' of numpy and of its own deprecations
    if args.plot:
        plot(args)
        return
    finish(report(args), args.out)


if __name__ == "__main__":
    main()
