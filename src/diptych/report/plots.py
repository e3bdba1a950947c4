"""Quality against latency: every contender's curve, the limits and the floor, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from diptych.choice import LATENCY, plain, said
from diptych.choice import bound as typed
from diptych.report.record import Contender, DuelRecord
from diptych.report.svg import (
    Box,
    Labels,
    Scale,
    drawing,
    el,
    marker,
    polyline,
    shorten,
    tick,
    width_of,
)
from diptych.scores import Estimate, Report, number

COLOURS = 8  # the page has so many; shapes differ after that
LEFT, RIGHT, TOP, BOTTOM = 54.0, 18.0, 28.0, 46.0  # of a plot's frame, in pixels
RING = 12.0  # around the chosen point


@dataclass(frozen=True)
class Dot:
    """One report on the plane of quality and latency."""

    index: int  # of its contender
    label: str
    report: Report
    x: Estimate
    y: Estimate


def decisive(record: DuelRecord) -> str:
    """The score on the plots' vertical axis: the one that decides, or the first other than latency."""
    names = dict.fromkeys(name for point in record.points for name in point.scores if name != LATENCY)
    best = record.choice.best
    return best if best != LATENCY or not names else next(iter(names))


def dots(record: DuelRecord, score: str) -> list[list[Dot]]:
    """For each contender its points that have both numbers, from fast to slow."""
    found = []
    for index, contender in enumerate(record.contenders):
        here = [
            Dot(index, dial_label(contender, point), point, point.scores[LATENCY], point.scores[score])
            for point in contender.points
            if _finite(point, LATENCY) and _finite(point, score) and point.scores[LATENCY].value > 0
        ]
        found.append(sorted(here, key=lambda dot: dot.x.value))
    return found


def dial_label(contender: Contender, point: Report) -> str:
    """What sets a point apart from its contender's others: "18" for "edm, 18 steps"."""
    if len(contender.points) < 2:
        return ""
    if set(point.options) <= {"steps"} and "steps" in point.options:
        return str(point.options["steps"])
    return point.name.removeprefix(contender.name).lstrip(", ")


def quality_plot(record: DuelRecord, key: str = "quality", width: float = 960, height: float = 470) -> Markup:
    """Each contender's curve over its dial, 95 % intervals, limits and floor; empty without latency."""
    score = decisive(record)
    curves = dots(record, score)
    every = [dot for curve in curves for dot in curve]
    if not every:
        return Markup("")
    x, y = plane(record, every, score, width, height)
    labels = Labels(Box(x.start, y.end, x.end, y.start))
    for curve in curves:
        labels.avoid_line([(x(dot.x.value), y(dot.y.value)) for dot in curve])
        for dot in curve:
            reach = RING if is_chosen(record, dot.report) else 6.0
            at, up = x(dot.x.value), y(dot.y.value)
            labels.avoid(at - reach, up - reach, at + reach, up + reach)
            labels.avoid(x(dot.x.low), up - 3, x(dot.x.high), up + 3)
            labels.avoid(at - 3, y(dot.y.high), at + 3, y(dot.y.low))
    side = every[0].y.better
    parts = [
        axes(x, y, "latency of one image, ms (log scale)", axis_title(score, every[0].y, y.log)),
        limits(record, x, y, score, labels),
        floor_line(record, y, x, score, labels),
        *(drawn_curve(record, curve, x, y) for curve in curves if curve),
        *(drawn_labels(record, curve, x, y, labels) for curve in curves if curve),
    ]
    told = "; ".join(f"{d.report.name}: {said(score, d.y)}, {said(LATENCY, d.x)}" for d in every)
    title = f"{score} against latency; {side} is better" if side != "neither" else f"{score} against latency"
    return drawing(key, title, told, width, height, *parts)


def plane(
    record: DuelRecord, every: Sequence[Dot], score: str, width: float, height: float
) -> tuple[Scale, Scale]:
    """The two scales, wide enough for intervals, limits and the floor."""
    across = [v for dot in every for v in (dot.x.value, dot.x.low, dot.x.high)]
    up = [v for dot in every for v in (dot.y.value, dot.y.low, dot.y.high)]
    for limit in bounds(record).values():
        across += limit.get(LATENCY, [])
        up += limit.get(score, [])
    if floor := floor_of(record, score):
        up.append(floor.value)
    positive = [dot.y.value for dot in every]
    log = min(positive) > 0 and min(up) > 0 and max(positive) / min(positive) > 6
    x = Scale.over(across, LEFT, width - RIGHT, log=True)
    return x, Scale.over(up, height - BOTTOM, TOP, log=log)


def bounds(record: DuelRecord) -> dict[str, dict[str, list[float]]]:
    """{"at_most": {score: [bound]}, "at_least": ...} with finite bounds only."""
    return {
        side: {name: [bound] for name, bound in limits.items() if math.isfinite(bound)}
        for side, limits in record.choice.constraints.items()
    }


def floor_of(record: DuelRecord, score: str) -> Estimate | None:
    """The score that real images get."""
    found = (point.floor[score] for point in record.points if score in point.floor)
    return next((floor for floor in found if math.isfinite(floor.value)), None)


def axis_title(score: str, estimate: Estimate, log: bool) -> str:
    """Name, unit, direction, scale."""
    unit = f", {estimate.unit}" if estimate.unit else ""
    notes = [f"{estimate.better} is better"] if estimate.better != "neither" else []
    notes += ["log scale"] if log else []
    return f"{score}{unit}" + (f" ({', '.join(notes)})" if notes else "")


def axes(x: Scale, y: Scale, below: str, above: str, unit: float = 1.0) -> Markup:
    """Grid lines, ticks, and the two titles; ticks of x count in `unit`."""
    parts = []
    for value in y.ticks(6):
        parts.append(el("path", class_="grid", d=f"M{x.start:g} {y(value):.1f}H{x.end:g}"))
        parts.append(el("text", tick(value), class_="tick", x=x.start - 8, y=y(value) + 4, text_anchor="end"))
    scaled = Scale(x.low / unit, x.high / unit, x.start, x.end, x.log)
    for value in scaled.ticks(max(3, int((x.end - x.start) / 90))):
        parts.append(el("path", class_="grid", d=f"M{scaled(value):.1f} {y.start:g}v5"))
        parts.append(
            el("text", tick(value), class_="tick", x=scaled(value), y=y.start + 19, text_anchor="middle")
        )
    parts.append(el("path", class_="axis", d=f"M{x.start:g} {y.start:g}H{x.end:g}"))
    parts.append(el("text", escape(above), class_="title", x=6, y=14))
    parts.append(el("text", escape(below), class_="title", x=x.end, y=y.start + 38, text_anchor="end"))
    return el("g", *parts)


def limits(record: DuelRecord, x: Scale, y: Scale, score: str, labels: Labels) -> Markup:
    """The constraints on either axis: what they exclude is shaded."""
    parts = []
    for side, sign in (("at_most", 1), ("at_least", -1)):
        for bound in bounds(record).get(side, {}).get(LATENCY, []):
            at, far = x(bound), x.end if sign > 0 else x.start
            area = {"x": min(at, far), "y": y.end, "width": abs(far - at), "height": y.start - y.end}
            parts.append(el("rect", class_="out", **area))
            parts.append(el("path", class_="limit", d=f"M{at:.1f} {y.start:g}V{y.end:g}"))
            text = f"{LATENCY} {'≤' if sign > 0 else '≥'} {typed(bound)}"
            labels.avoid(at - 2, y.end, at + 2, y.start)
            parts.append(labels.place(text, [(at, y.end + 8), (at, y.start - 8)], "limit-label", 11, 6))
        for bound in bounds(record).get(side, {}).get(score, []):
            at, far = y(bound), y.end if sign > 0 else y.start
            area = {"x": x.start, "y": min(at, far), "width": x.end - x.start, "height": abs(far - at)}
            parts.append(el("rect", class_="out", **area))
            parts.append(el("path", class_="limit", d=f"M{x.start:g} {at:.1f}H{x.end:g}"))
            text = f"{score} {'≤' if sign > 0 else '≥'} {typed(bound)}"
            labels.avoid(x.start, at - 2, x.end, at + 2)
            half = width_of(text, 11) / 2
            parts.append(labels.place(text, [(x.end - half, at), (x.start + half, at)], "limit-label", 11, 4))
    return el("g", *parts)


def floor_line(record: DuelRecord, y: Scale, x: Scale, score: str, labels: Labels) -> Markup:
    """What real images get on the same ruler."""
    floor = floor_of(record, score)
    if floor is None:
        return Markup("")
    top, bottom = sorted((y(floor.low), y(floor.high)))
    text = f"floor: real images, {number(floor.value)}"
    half = width_of(text, 11) / 2
    labels.avoid(x.start, top - 1, x.end, bottom + 1)
    beside = [(at, edge) for at in (x.end - half, x.start + half) for edge in (top, bottom)]
    return el(
        "g",
        el("rect", class_="floor-band", x=x.start, y=top, width=x.end - x.start, height=bottom - top),
        el("path", class_="floor", d=f"M{x.start:g} {y(floor.value):.1f}H{x.end:g}"),
        labels.place(text, beside, "floor-label", 11, 3),
    )


def drawn_curve(record: DuelRecord, curve: Sequence[Dot], x: Scale, y: Scale) -> Markup:
    """A contender's line, its intervals and its markers; hollow where a constraint is broken."""
    index = curve[0].index
    parts = [polyline([(x(d.x.value), y(d.y.value)) for d in curve], "curve")] if len(curve) > 1 else []
    passing = record.passing
    for dot in curve:
        at, up, name = x(dot.x.value), y(dot.y.value), dot.report.name
        told = f"{name}: {plain(dot.y)} at {plain(dot.x)} ms"
        inside = [
            el("title", escape(told)),
            el("path", class_="bar", d=f"M{at:.1f} {y(dot.y.low):.1f}V{y(dot.y.high):.1f}"),
            el("path", class_="bar", d=f"M{x(dot.x.low):.1f} {up:.1f}H{x(dot.x.high):.1f}"),
            el("circle", class_="ring", cx=at, cy=up, r=RING - 1)
            if is_chosen(record, dot.report)
            else Markup(""),
            marker(index, at, up, 4, "mark" if name in passing else "mark hollow"),
        ]
        parts.append(el("g", *inside))
    return el("g", *parts, class_=colour(index))


def drawn_labels(record: DuelRecord, curve: Sequence[Dot], x: Scale, y: Scale, labels: Labels) -> Markup:
    """The contender's name beside its curve, the dial's setting beside each point."""
    index = curve[0].index
    ends = [(x(dot.x.value), y(dot.y.value)) for dot in (curve[-1], curve[0])]
    name = labels.place(shorten(record.contenders[index].name), ends, "name", 13, 11)
    parts = []
    for dot in (dot for dot in curve if dot.label):
        gap = RING + 2 if is_chosen(record, dot.report) else 8
        parts.append(labels.place(dot.label, [(x(dot.x.value), y(dot.y.value))], "dial", 11, gap))
    return el("g", name, *parts, class_=colour(index))


def is_chosen(record: DuelRecord, report: Report) -> bool:
    """Whether this is the point that was chosen."""
    return record.choice.chosen is not None and record.choice.chosen.name == report.name


def colour(index: int) -> str:
    """The class that gives a contender its colour, here and everywhere on the page."""
    return f"k{index % COLOURS}"


def _finite(point: Report, score: str) -> bool:
    return score in point.scores and math.isfinite(point.scores[score].value)
