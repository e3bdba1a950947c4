"""How training went: quality against time for all contenders on one plot, and each one's losses."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup, escape

from diptych.report.plots import BOTTOM, LEFT, TOP, axes, colour, decisive
from diptych.report.record import Contender, DuelRecord
from diptych.report.svg import Scale, drawing, el, marker, polyline, shorten, spread, width_of
from diptych.scores import number

Series = list[tuple[float, float]]
ROW = 46.0  # of one loss, in pixels


def examined(record: DuelRecord) -> str:
    """The score that is followed through training: the decisive one where the exam has it."""
    names = dict.fromkeys(n for c in record.contenders for line in c.curve for n in line.get("exam", {}))
    return decisive(record) if decisive(record) in names else next(iter(names), "")


def looked_at(record: DuelRecord) -> str:
    """At how many images the exams looked, as far as the logs say."""
    sizes = sorted({line["exam_n"] for c in record.contenders for line in c.curve if line.get("exam_n")})
    ends = dict.fromkeys(sizes[:1] + sizes[-1:])
    return f" of {' to '.join(f'{n:,}' for n in ends)} images" if ends else ""


def series(contender: Contender, part: str, name: str) -> Series:
    """(seconds of training, value) for each log line that has both as finite numbers."""
    found = []
    for line in contender.curve:
        seconds, value = _number(line.get("seconds")), _number(line.get(part, {}).get(name))
        if math.isfinite(seconds) and math.isfinite(value):
            found.append((seconds, value))
    return found


def training_plot(
    record: DuelRecord, key: str = "training", width: float = 960, height: float = 400
) -> Markup:
    """Quality against seconds of training, one line a contender; empty where nothing was examined."""
    score = examined(record)
    lines = [series(contender, "exam", score) for contender in record.contenders]
    every = [point for line in lines for point in line]
    if not every:
        return Markup("")
    values = [value for _, value in every]
    log = min(values) > 0 and max(values) / min(values) > 6
    names = [shorten(contender.name, 18) for contender in record.contenders]
    room = 22 + max(width_of(name, 13) for name, line in zip(names, lines, strict=True) if line)
    span = max(seconds for seconds, _ in every)
    x = Scale(0.0, span or 1.0, LEFT, width - room)
    y = Scale.over(values, height - BOTTOM, TOP, log=log)
    unit, word = time_unit(span)
    better = next((p.scores[score].better for p in record.points if score in p.scores), "neither")
    notes = ([f"{better} is better"] if better != "neither" else []) + (["log scale"] if log else [])
    above = score + looked_at(record) + (f" ({', '.join(notes)})" if notes else "")
    shown = [index for index, line in enumerate(lines) if line]
    late = [index for index in shown if x(lines[index][-1][0]) > x.end - room]
    heights = dict(zip(late, spread([y(lines[i][-1][1]) for i in late], 16, y.end, y.start), strict=True))
    parts = [axes(x, y, f"time spent training, {word}", above, unit)]
    for index in shown:
        pixels = [(x(seconds), y(value)) for seconds, value in lines[index]]
        at = (x.end, heights[index]) if index in heights else pixels[-1]
        parts.append(drawn(index, names[index], pixels, at, bool(record.contenders[index].failed)))
    told = "; ".join(f"{names[i]}: from {number(lines[i][0][1])} to {number(lines[i][-1][1])}" for i in shown)
    return drawing(key, f"{score} against training time", told, width, height, *parts)


def drawn(index: int, name: str, pixels: Series, beside: tuple[float, float], failed: bool) -> Markup:
    """One contender's line with its name beside a place near its end; a cross where it failed."""
    x, y = pixels[-1]
    end = el("path", class_="cross", d=f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10")
    leader = polyline([(x + 6, y), (beside[0] + 8, beside[1])], "leader")
    label = el("text", escape(name), class_="name", x=beside[0] + 12, y=beside[1] + 4, font_size=13)
    line = polyline(pixels, "curve") if len(pixels) > 1 else Markup("")
    return el("g", line, leader, end if failed else marker(index, x, y, 4), label, class_=colour(index))


def loss_plot(contender: Contender, index: int, key: str, width: float = 340) -> Markup:
    """A row for each thing that its phases log, each on its own scale, with its first and last value."""
    names = list(dict.fromkeys(name for line in contender.curve for name in line.get("losses", {})))
    rows = {name: line for name in names if (line := series(contender, "losses", name))}
    if not rows:
        return Markup("")
    span = max(seconds for line in rows.values() for seconds, _ in line)
    x = Scale(0.0, span or 1.0, 2, width - 70)
    unit, word = time_unit(span)
    height = ROW * len(rows) + 20
    parts = [loss_row(name, line, x, ROW * i, width) for i, (name, line) in enumerate(rows.items())]
    parts.append(el("text", "0", class_="tick", x=2, y=height - 4))
    parts.append(
        el("text", f"{span / unit:.3g} {word}", class_="tick", x=x.end, y=height - 4, text_anchor="end")
    )
    told = "; ".join(
        f"{name}: from {number(line[0][1])} to {number(line[-1][1])}" for name, line in rows.items()
    )
    return drawing(
        key,
        f"losses of {contender.name} against training time",
        told,
        width,
        height,
        el("g", *parts, class_=colour(index)),
    )


def loss_row(name: str, line: Series, x: Scale, top: float, width: float) -> Markup:
    """One loss: its name above, its line, its last value at the right."""
    y = Scale.over([value for _, value in line], top + ROW - 6, top + 18, pad=0.02)
    pixels = [(x(seconds), y(value)) for seconds, value in line]
    return el(
        "g",
        el("text", escape(shorten(name.replace("_", " "), 36)), class_="tick", x=2, y=top + 12),
        el("path", class_="grid", d=f"M2 {top + ROW - 4:g}H{x.end:g}"),
        polyline(pixels, "thin") if len(pixels) > 1 else Markup(""),
        el("circle", class_="mark", cx=pixels[-1][0], cy=pixels[-1][1], r=2.5),
        el("text", number(line[-1][1]), class_="value", x=width - 2, y=pixels[-1][1] + 4, text_anchor="end"),
    )


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds, minutes or hours, whichever reads best."""
    return (3600.0, "h") if seconds >= 7200 else (60.0, "min") if seconds >= 180 else (1.0, "s")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
