"""A figure of its own: panels of lines with intervals, one SVG that is readable in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from diptych.report.svg import Box, Labels, Scale, drawing, el, marker, polyline, tick

LEFT, RIGHT, TOP, BOTTOM = 54.0, 16.0, 46.0, 44.0  # of a panel's frame, in pixels
COLOURS = 6
STYLE = """
.plot { --paper: #fdfcfa; --rule: #e3dfd6; --strong: #b9b3a6; --ink: #1d1b18; --mute: #655f55;
  --c0: #0067a6; --c1: #b24700; --c2: #00725a; --c3: #93358c; --c4: #8a6a00; --c5: #5a5a66;
  font-family: -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif }
@media (prefers-color-scheme: dark) { .plot { --paper: #141518; --rule: #303238; --strong: #5c5f67;
  --ink: #ecebe6; --mute: #a6a49d; --c0: #62b5ee; --c1: #f39a60; --c2: #44c9a5; --c3: #e29bd8;
  --c4: #d8b94a; --c5: #b0b0bc } }
.k0 { --k: var(--c0) } .k1 { --k: var(--c1) } .k2 { --k: var(--c2) } .k3 { --k: var(--c3) }
.k4 { --k: var(--c4) } .k5 { --k: var(--c5) }
.paper { fill: var(--paper) } .grid { stroke: var(--rule) } .axis { stroke: var(--strong) }
.head { fill: var(--ink); font-size: 13px; font-weight: 600 }
.tick, .title { fill: var(--mute); font-size: 11px }
.name { fill: var(--k); font-weight: 600 } .dial { fill: var(--k) }
.curve { fill: none; stroke: var(--k); stroke-width: 1.8; stroke-linejoin: round }
.floor { fill: none; stroke: var(--k); stroke-width: 1.2; stroke-dasharray: 2 3; opacity: .8 }
.bar { stroke: var(--k); stroke-width: 1.2; opacity: .6 } .mark { fill: var(--k) }
"""


@dataclass(frozen=True)
class Point:
    """A place on a line, its intervals and its label, where it has them."""

    x: float
    y: float
    label: str = ""
    low: float | None = None
    high: float | None = None
    left: float | None = None
    right: float | None = None

    @property
    def across(self) -> list[float]:
        """x and its interval."""
        return [v for v in (self.x, self.left, self.right) if v is not None and math.isfinite(v)]

    @property
    def up(self) -> list[float]:
        """y and its interval."""
        return [v for v in (self.y, self.low, self.high) if v is not None and math.isfinite(v)]


@dataclass(frozen=True)
class Line:
    """A name and its points, in the order that the line takes."""

    name: str
    points: Sequence[Point]
    dots: bool = True
    joined: bool = True


@dataclass(frozen=True)
class Panel:
    """Lines on one pair of axes."""

    title: str
    x: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    colours: Sequence[int] = field(default_factory=tuple)  # else in the order of the lines
    names: Sequence[str] = ()  # of the places 0, 1, ... where x counts things that are no numbers
    floors: Sequence[float] = ()  # what real images get: a broken line in the colour of each line


def figure(
    key: str,
    title: str,
    panels: Sequence[Panel],
    *,
    columns: int = 3,
    width: float = 340,
    height: float = 270,
    note: str = "",
) -> Markup:
    """The SVG. Raises ValueError where a panel has no finite point."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    whole = (columns * width, rows * height + (22 if note else 0))
    parts = [el("style", Markup(STYLE)), el("rect", class_="paper", width=whole[0], height=whole[1])]
    for i, panel in enumerate(panels):
        parts.append(drawn(panel, (i % columns) * width, (i // columns) * height, width, height))
    if note:
        parts.append(el("text", escape(note), class_="title", x=12, y=whole[1] - 8))
    told = "; ".join(f"{p.title}: {', '.join(line.name for line in p.lines)}" for p in panels)
    svg = drawing(key, title, told, *whole, *parts)
    return Markup(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def drawn(panel: Panel, left: float, top: float, width: float, height: float) -> Markup:
    """One panel with its axes, lines and names."""
    every = [p for line in panel.lines for p in line.points if math.isfinite(p.x) and math.isfinite(p.y)]
    if not every:
        raise ValueError(f"there is nothing to draw in {panel.title}")
    across = [v for p in every for v in p.across] + [float(i) for i in range(len(panel.names))]
    x = scale(across, left + LEFT, left + width - RIGHT, panel.log_x)
    floors = [floor for floor in panel.floors if math.isfinite(floor)]
    y = scale([*(v for p in every for v in p.up), *floors], top + height - BOTTOM, top + TOP, panel.log_y)
    labels = Labels(Box(x.start, y.end, x.end, y.start))
    for line in panel.lines:
        labels.avoid_line([(x(p.x), y(p.y)) for p in line.points if p in every])
    parts = [axes(panel, x, y)]
    several = len(panel.lines) > 1
    for i, line in enumerate(panel.lines):
        colour = (panel.colours[i] if panel.colours else i) % COLOURS
        parts.append(el("g", *curve(line, x, y, colour, labels, several), class_=f"k{colour}"))
        if i < len(panel.floors) and math.isfinite(panel.floors[i]):
            at = f"M{x.start:g} {y(panel.floors[i]):.1f}H{x.end:g}"
            parts.append(el("g", el("path", class_="floor", d=at), class_=f"k{colour}"))
    return el("g", *parts)


def scale(values: Sequence[float], start: float, end: float, log: bool) -> Scale:
    """Wide enough for the values; logarithmic where asked for and possible."""
    return Scale.over(list(values), start, end, log=log and min(values) > 0)


def axes(panel: Panel, x: Scale, y: Scale) -> Markup:
    """Title, grid, ticks."""
    parts = [el("text", escape(panel.title), class_="head", x=x.start - 40, y=y.end - 22)]
    for value in y.ticks(5):
        parts.append(el("path", class_="grid", d=f"M{x.start:g} {y(value):.1f}H{x.end:g}"))
        parts.append(el("text", tick(value), class_="tick", x=x.start - 7, y=y(value) + 4, text_anchor="end"))
    lanes = lanes_for(panel.names, x)
    numbers = [(value, tick(value)) for value in x.ticks(5)]
    places = [(float(i), name) for i, name in enumerate(panel.names)] or numbers
    for i, (value, text) in enumerate(places):
        down = y.start + 16 + 12 * (i % lanes)
        parts.append(el("path", class_="grid", d=f"M{x(value):.1f} {y.start:g}v4"))
        parts.append(el("text", escape(text), class_="tick", x=x(value), y=down, text_anchor="middle"))
    parts.append(el("path", class_="axis", d=f"M{x.start:g} {y.start:g}H{x.end:g}"))
    if panel.names:  # they say what x is
        return el("g", *parts)
    parts.append(el("text", escape(panel.x), class_="title", x=x.end, y=y.start + 33, text_anchor="end"))
    return el("g", *parts)


def lanes_for(names: Sequence[str], x: Scale) -> int:
    """In how many rows names along an axis do not touch, two at most."""
    room = abs(x.end - x.start) / max(1, len(names))
    return 2 if any(6.5 * len(name) > room for name in names) else 1


def curve(line: Line, x: Scale, y: Scale, colour: int, labels: Labels, named: bool) -> list[Markup]:
    """The line, its intervals, markers and labels."""
    points = [p for p in line.points if math.isfinite(p.x) and math.isfinite(p.y)]
    pixels = [(x(p.x), y(p.y)) for p in points]
    parts = [polyline(pixels, "curve")] if line.joined and len(pixels) > 1 else []
    for p, (at, up) in zip(points, pixels, strict=True):
        if p.low is not None and p.high is not None:
            parts.append(el("path", class_="bar", d=f"M{at:.1f} {y(p.low):.1f}V{y(p.high):.1f}"))
        if p.left is not None and p.right is not None:
            parts.append(el("path", class_="bar", d=f"M{x(p.left):.1f} {up:.1f}H{x(p.right):.1f}"))
        if line.dots:
            parts.append(marker(colour, at, up, 3))
    if named and pixels:
        parts.append(labels.place(line.name, [pixels[-1], pixels[0], pixels[len(pixels) // 2]], "name", 12))
    for p, pixel in zip(points, pixels, strict=True):
        if p.label:
            parts.append(labels.place(p.label, [pixel], "dial", 10, 7))
    return parts
