"""Pictures of what a schedule does: image and noise over time, and an image on its way to noise."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from markupsafe import Markup, escape
from torch import Tensor

from diptych.diffusion.schedules import Schedule, schedule
from diptych.errors import WrongUse
from diptych.model import Noise, from_uint8, to_uint8
from diptych.pictures import sheet
from diptych.report.lines import Line, Panel, Point, figure
from diptych.report.svg import el
from diptych.runs import load_model

TIMES = 65  # of a curve
COLUMNS = 11  # of a strip: t = 0, 0.1 ... 1
ROW, EDGE = 84.0, 12.0  # of a strip, in pixels
LETTER = 7.5  # the width of one in a strip's name


def named_schedule(name: str) -> Schedule:
    """The schedule of this name, or that of a run. Raises WrongUse where it is neither."""
    if not Path(name).is_dir():
        return schedule(name)
    model = load_model(name, "cpu")
    denoiser = getattr(model, "denoiser", None)
    if denoiser is None:
        raise WrongUse(f"{name} has no schedule", "it is not a run of a diffusion model")
    return denoiser.schedule  # type: ignore[no-any-return]


def drawn_schedules(schedules: Mapping[str, Schedule], images: Tensor | None = None) -> str:
    """An SVG: alpha and sigma over time (of variance 1 together), log SNR over time, and, where uint8 images
    (N, C, H, W) are given, the first of them on its way to noise along each schedule."""
    t = torch.linspace(0, 1, TIMES, dtype=torch.float64)
    signal, noise, log_snr = [], [], []
    for name, one in schedules.items():
        level = one.level(t)
        size = (1 + level.square()).sqrt()
        signal.append(curve(name, t, 1 / size))
        noise.append(curve(name, t, level / size))
        log_snr.append(curve(name, t, -2 * level.log()))
    panels = [
        Panel("image: alpha, noise: sigma (alpha² + σ² = 1)", "time", [*signal, *map(unnamed, noise)])
        if len(schedules) == 1
        else Panel("alpha (of alpha² + σ² = 1)", "time", signal),
        Panel("log signal-to-noise ratio", "time", log_snr),
    ]
    svg = str(figure("schedules", f"Schedules: {', '.join(schedules)}", panels, columns=2, width=460))
    return svg if images is None else with_strips(svg, 920, schedules, images)


def curve(name: str, t: Tensor, values: Tensor) -> Line:
    """A line without dots."""
    return Line(name, [Point(x, y) for x, y in zip(t.tolist(), values.tolist(), strict=True)], dots=False)


def unnamed(line: Line) -> Line:
    """The noise that belongs to an image's line."""
    return Line("sigma", line.points, dots=False)


def noised(images: Tensor, schedule: Schedule, times: Sequence[float], seed: int = 0) -> Tensor:
    """uint8 (N, T, C, H, W): each image at each time, scaled to variance 1; the same noise in all."""
    clean = from_uint8(images)
    eps = Noise(range(seed, seed + len(images))).normal(*images.shape[1:])
    alpha, sigma = schedule(torch.tensor(times, dtype=torch.float64))
    size = (alpha.square() + sigma.square()).sqrt()
    a, s = ((v / size).float().view(1, -1, 1, 1, 1) for v in (alpha, sigma))
    return to_uint8(a * clean[:, None] + s * eps[:, None])


def with_strips(svg: str, width: float, schedules: Mapping[str, Schedule], images: Tensor) -> str:
    """The figure with a row of pictures a schedule below it."""
    head, _, rest = svg.partition('viewBox="0 0 ')
    size, _, tail = rest.partition('"')
    top = float(size.split()[1])
    height = top + ROW * len(schedules) + EDGE
    rows: list[Markup] = [el("rect", class_="paper", y=top - 1, width=width, height=height - top + 1)]
    times = [j / (COLUMNS - 1) for j in range(COLUMNS)]
    left = min(max(120.0, EDGE + LETTER * max(map(len, schedules))), 240.0)  # a run may lie deep
    for i, (name, one) in enumerate(schedules.items()):
        y = top + i * ROW
        strip = data_uri(noised(images[:1], one, times)[0])
        rows.append(el("text", escape(name), class_="head", x=EDGE, y=y + ROW / 2))
        place = {"x": left, "y": y, "width": width - left - 10, "height": ROW - 8}
        rows.append(el("image", href=strip, style="image-rendering:pixelated", **place))
    whole = f'{head}viewBox="0 0 {width:g} {height:g}"{tail}'
    return whole.replace("</svg>", "".join(map(str, rows)) + "</svg>")


def data_uri(images: Tensor) -> str:
    """uint8 (N, C, H, W) in a row, as a PNG that a page can hold."""
    file = io.BytesIO()
    sheet(images, columns=len(images), gap=2).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
