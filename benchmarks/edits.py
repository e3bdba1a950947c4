"""A page of edits on a run's held-out images: index.html, with its pictures inside, and numbers.json.

    python benchmarks/edits.py RUN --out docs/results/editing [--n 6] [--device auto] [--guidance 2]

Images and labels are those that the run held out; seeds are fixed, so that the page is the same each time.
"""

from __future__ import annotations

import argparse
import base64
import io
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jinja2 import Environment
from torch import Tensor

import diptych
from diptych import edit, pictures
from diptych.data.images import Images
from diptych.diffusion.editing import Bicubic, Blur, Grey, Masked, Operator, Pooling, diffusion_of, wide
from diptych.diffusion.model import DiffusionModel
from diptych.edit import degraded
from diptych.measuring.reference import open_reference
from diptych.measuring.subject import open_subject
from diptych.model import from_uint8, to_uint8
from diptych.system.device import keep_buffers
from diptych.system.files import write_json, write_text
from diptych.system.machine import machine

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Editing with {{ run }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 32px auto; padding: 0 18px;
  color: #1d1b18; background: #fdfcfa }
h1, h2 { line-height: 1.15 } h2 { margin-top: 52px } p { max-width: 46em }
figure { display: inline-block; margin: 10px 22px 10px 0; vertical-align: top }
figcaption { color: #655f55; font-size: 14px; max-width: 26em }
img { image-rendering: pixelated; max-width: 100% }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 12px 0 }
td, th { text-align: left; padding: 3px 18px 3px 0; border-bottom: 1px solid #e3dfd6 }
.mute { color: #655f55 }
@media (prefers-color-scheme: dark) { body { color: #ecebe6; background: #141518 }
  figcaption, .mute { color: #a6a49d } td, th { border-color: #303238 } }
</style>
<h1>Editing with {{ run }}</h1>
<p class="mute">{{ about }}</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
<p>{{ section.text }}</p>
{% for figure in section.figures %}<figure><img src="{{ figure.source }}" alt="{{ figure.caption }}">
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{% if section.rows %}<table><tr>{% for cell in section.header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table>{% endif %}
{% endfor %}
<p class="mute">{{ machine }}</p>
</html>
"""


@dataclass
class Figure:
    """A picture inside the page, and what it shows."""

    caption: str
    source: str


@dataclass
class Section:
    """One kind of edit: pictures, and numbers where there are any."""

    title: str
    text: str
    figures: list[Figure] = field(default_factory=list)
    header: tuple[str, ...] = ()
    rows: list[list[str]] = field(default_factory=list)

    def show(self, caption: str, images: Tensor, columns: int = 0) -> None:
        """Adds uint8 images (N, C, H, W)."""
        buffer = io.BytesIO()
        pictures.sheet(images, columns, gap=2, least=64).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        self.figures.append(Figure(caption, f"data:image/png;base64,{data}"))


@dataclass
class Bench:
    """The model, some held-out images with their labels, and how often a held-out image is shown."""

    model: DiffusionModel
    images: Tensor  # uint8 (n, C, H, W)
    labels: list[int | None]
    names: tuple[str, ...]

    def each(self, change: Callable[[int, Tensor, int | None], Tensor]) -> tuple[Tensor, float]:
        """What `change` makes of each image, and the seconds an image."""
        begun = time.perf_counter()
        found = [
            change(i, image, label)
            for i, (image, label) in enumerate(zip(self.images, self.labels, strict=True))
        ]
        images = torch.cat(found)
        return images, (time.perf_counter() - begun) / len(images)


def inpainting(bench: Bench) -> Section:
    """Half of each image is hidden; the jump across the border against that of real images."""
    section = Section(
        "Inpainting",
        "The right half is made anew, with the image's own label where the model knows labels; the left half "
        "is the file's to the last bit. Last column: how much pixels on the two sides of the border differ, "
        "over what they differ in the whole images; 1 is no seam.",
        header=("method", "network calls an image", "seconds an image", "jump at the border"),
    )
    _, _, height, width = bench.images.shape
    border = width // 2
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[:, border:] = True
    section.show("held out", bench.images)
    section.show("hidden", torch.where(mask, 127, bench.images).to(torch.uint8))
    real = jump(bench.images, border)
    ways: dict[str, dict[str, Any]] = {
        "repaint, 1 resampling": {"resamplings": 1},
        "repaint, 10 resamplings": {"resamplings": 10},
        "ddnm": {"method": "ddnm"},
        "pigdm": {"method": "pigdm"},
        "dps": {"method": "dps"},
    }
    for name, how in ways.items():
        with Calls(bench.model) as calls:
            made, seconds = bench.each(
                lambda i, x, k, how=how: edit.inpaint(bench.model, x, mask, seeds=[i], label=k, **how)
            )
        if not torch.equal(made[..., :border], bench.images[..., :border]):
            raise SystemExit(f"{name} changed what it should keep")
        section.show(name, made)
        ratio = f"{jump(made, border) / real:.2f}"
        section.rows.append([name, f"{calls.count / len(made):.0f}", f"{seconds:.2f}", ratio])
    several = edit.inpaint(bench.model, bench.images[0], mask, seeds=range(8), label=bench.labels[0])
    section.show("one image, eight seeds", several, columns=4)
    return section


class Calls:
    """Counts how often the network is called, each call as many times as it has images."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model, self.count = model, 0

    def __enter__(self) -> Calls:
        def count(module: object, given: tuple[Tensor, ...]) -> None:
            self.count += given[0].shape[0]

        self.handle = self.model.denoiser.register_forward_pre_hook(count)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def jump(images: Tensor, border: int) -> float:
    """The root mean square difference of the columns on the two sides of a border."""
    x = images.float()
    return (x[..., border] - x[..., border - 1]).square().mean().sqrt().item()


def outpainting(bench: Bench) -> Section:
    """Larger canvases around an image, and from nothing."""
    section = Section(
        "Outpainting and panoramas",
        "The model's own windows, overlapping by half, agree on one larger image. The middle of the first "
        "picture is a held-out image.",
    )
    height, width = bench.images.shape[2:]
    made = [
        edit.outpaint(bench.model, image, left=width // 2, right=width // 2, seeds=[i], label=label)
        for i, (image, label) in enumerate(zip(bench.images[:4], bench.labels, strict=False))
    ]
    section.show("twice as wide", torch.cat(made), columns=2)
    long = edit.panorama(bench.model, height, 4 * width, seeds=range(4))
    section.show("four times as wide, from noise", long, columns=1)
    return section


def varying(bench: Bench) -> Section:
    """Strengths side by side, and a stroke painting."""
    section = Section(
        "Image to image, strokes and colours",
        "From the left: the image, then strengths 0.2 to 1, the share of the steps that are done again. "
        "A stroke painting here is the image in six by six flat squares.",
    )
    rows = []
    for i, (image, label) in enumerate(zip(bench.images[:3], bench.labels, strict=False)):
        made = [
            edit.vary(bench.model, image, strength=s, seeds=[i], label=label)
            for s in (0.2, 0.4, 0.6, 0.8, 1.0)
        ]
        rows.append(torch.cat([image[None], *made]))
    section.show("strength 0, 0.2, 0.4, 0.6, 0.8, 1", torch.cat(rows), columns=6)
    strokes = [blocks(image, 6) for image in bench.images[:3]]
    painted = [
        torch.cat([stroke[None], edit.vary(bench.model, stroke, strength=0.6, seeds=range(5), label=label)])
        for stroke, label in zip(strokes, bench.labels, strict=False)
    ]
    section.show("strokes, then five seeds at strength 0.6", torch.cat(painted), columns=6)
    coloured = [
        torch.cat([image[None], edit.colour(bench.model, image, cells=3, seeds=range(5))])
        for image in bench.images[:3]
    ]
    section.show(
        "an image, then new ones with the mean colours of its nine parts", torch.cat(coloured), columns=6
    )
    return section


def blocks(image: Tensor, cells: int) -> Tensor:
    """The image in flat squares, uint8."""
    pooled = F.adaptive_avg_pool2d(image.float()[None], min(cells, *image.shape[1:]))
    return F.interpolate(pooled, image.shape[1:], mode="nearest")[0].round().to(torch.uint8)


def interpolation(bench: Bench) -> Section:
    """Pairs of images, and how well the way to noise and back returns."""
    section = Section(
        "Interpolation",
        "Up the ODE from both images, along a great circle, and down; the first and the last picture of a "
        "row are held-out images that went to noise and came back.",
        header=("steps", "mean error there and back, of 255"),
    )
    rows = [
        edit.interpolate(bench.model, bench.images[a], bench.images[a + 1], frames=8, labels=pair(bench, a))
        for a in range(0, min(6, len(bench.images) - 1), 2)
    ]
    section.show("three pairs", torch.cat(rows), columns=8)
    for steps in (10, 20, 50, 100):
        error = []
        for a in range(0, min(6, len(bench.images) - 1), 2):
            ends = bench.images[a : a + 2]
            found = edit.interpolate(
                bench.model, ends[0], ends[1], frames=2, steps=steps, labels=pair(bench, a)
            )
            error.append((found.float() - ends).abs().mean().item())
        section.rows.append([str(steps), f"{sum(error) / len(error):.2f}"])
    return section


def pair(bench: Bench, a: int) -> tuple[int, int] | None:
    """The labels of two neighbouring images."""
    one, other = bench.labels[a : a + 2]
    return None if one is None or other is None else (one, other)


def restoring(bench: Bench) -> Section:
    """What was lost, what came back, and whether it agrees with what was left."""
    section = Section(
        "Restoring",
        "What the operator left of held-out images, then what was made of it without a label. Agreement: how "
        "far the operator of the result is from that of the image, in 8-bit levels (root mean square); "
        "error: how far the result is from the image itself.",
        header=("operator", "method", "agreement", "error", "seconds an image"),
    )
    shape = tuple(bench.images.shape[1:])
    channels, height, width = shape
    section.show("held out", bench.images)
    cases: list[tuple[str, Operator, float]] = [
        ("half the size", Pooling(shape, height // 2, width // 2), 0.0),
        ("a quarter, bicubic", Bicubic(shape, height // 4, width // 4), 0.0),
        ("blur of width / 16", Blur(shape, width / 16), 0.0),
        ("noise of 0.5", Masked(shape), 0.5),
    ]
    if channels == 3:
        cases.append(("grey", Grey(shape), 0.0))
    for name, operator, noise in cases:
        left = torch.cat([observed(operator, image, noise) for image in bench.images])
        section.show(name, left)
        for method in ("ddnm", "pigdm") if noise else ("ddnm", "pigdm", "dps"):
            made, seconds = bench.each(
                lambda i, x, k, operator=operator, noise=noise, method=method: edit.restore(
                    bench.model, x, operator, method=method, noise=noise, degrade=True, seeds=[i]
                )
            )
            section.show(f"{name}: {method}", made)
            again = operator(from_uint8(made)) - operator(from_uint8(bench.images))
            off, error = (
                127.5 * e.square().mean().sqrt().item()
                for e in (again, from_uint8(made) - from_uint8(bench.images))
            )
            section.rows.append([name, method, f"{off:.1f}", f"{error:.1f}", f"{seconds:.2f}"])
    return section


def observed(operator: Operator, image: Tensor, noise: float) -> Tensor:
    """What the operator leaves, as a picture: uint8 (1, C, H, W)."""
    left = degraded(operator, image, noise)
    return (left if left.dtype == torch.uint8 else to_uint8(left))[None]


def composing(bench: Bench) -> Section:
    """Different labels in the halves of one canvas of twice the width."""
    section = Section(
        "Regions",
        "One canvas, twice as wide as the model's images, with another label in each half; the middle "
        "belongs to both.",
    )
    height, width = bench.images.shape[2:]
    canvas = wide(bench.model, height, 2 * width)
    areas = torch.zeros(1, height, 2 * width, dtype=torch.uint8)
    areas[..., width:] = 255
    for one, other in ((0, 1), (1, bench.model.classes - 1)):
        made = edit.regions(canvas, areas, (one, other), feather=width / 8, seeds=range(6))
        names = [bench.names[k] if bench.names else str(k) for k in (one, other)]
        section.show(f"{names[0]} on the left, {names[1]} on the right", made, columns=3)
    return section


def held_out(run: Path, n: int) -> Images:
    """Held-out images of a run, the first of each class in turn."""
    images = open_reference(like=[open_subject(run)]).held_out
    if images.labels is None:
        return images.subset(slice(n))
    seen: Counter[int] = Counter()
    turn = []  # which of its class an image is
    for label in images.labels.tolist():
        turn.append(seen[label])
        seen[label] += 1
    return images.subset(np.argsort(turn, kind="stable")[:n])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results/editing"))
    parser.add_argument("--n", type=int, default=6, help="held-out images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=0, help="of sampling; 0: the model's own")
    parser.add_argument("--guidance", type=float, default=1.0)
    given = parser.parse_args()
    keep_buffers()
    model = diffusion_of(diptych.load(given.run, given.device))
    model = model.using(
        steps=given.steps or model.options.steps, guidance=given.guidance if model.classes else 1.0
    )
    images = held_out(given.run, max(2, given.n))
    labels = [None] * len(images) if images.labels is None else [int(k) for k in images.labels]
    bench = Bench(model, images.tensor(), labels, images.class_names)
    kinds = [
        inpainting,
        outpainting,
        varying,
        interpolation,
        restoring,
        *([composing] if model.classes else []),
    ]
    sections = []
    for kind in kinds:
        print(kind.__name__, flush=True)
        sections.append(kind(bench))
    o, card = model.options, machine(given.device)
    about = (
        f"Held-out images of the run's data, {bench.images.shape[2]} x {bench.images.shape[3]} pixels; "
        f"{o.sampler}, {o.steps} steps, guidance {o.guidance:g}. Seeds are fixed: the same command makes "
        "the same page."
    )
    page = (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            run=given.run.name,
            about=about,
            sections=sections,
            machine=f"{card['cpu']}, {card['threads']} threads, {card['device']}, torch {card['torch']}",
        )
    )
    write_text(given.out / "index.html", page)
    numbers = {s.title: [dict(zip(s.header, row, strict=True)) for row in s.rows] for s in sections if s.rows}
    write_json(given.out / "numbers.json", {"run": given.run.name, "machine": card, "numbers": numbers})
    print(given.out / "index.html")


if __name__ == "__main__":
    main()
