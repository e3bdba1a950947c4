"""Small multiples: rows are scores, columns kinds of damage, lines sets; readable in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from diptych.report.svg import Scale, drawing, el, marker, polyline, tick
from diptych.scores import Estimate

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "planted_damage.svg"
LEFT, TOP, RIGHT, BOTTOM = 158.0, 66.0, 14.0, 40.0
WIDE, HIGH, GAP = 100.0, 44.0, 14.0  # of a cell, and between cells
Points = Sequence[tuple[float, Mapping[str, Estimate]]]  # scores by strength
Curves = Mapping[str, Mapping[str, Points]]  # [set][kind]
Change = Callable[[float, float, float], float]  # value, undamaged, largest of the set


@dataclass(frozen=True)
class Row:
    """One score: what is drawn of it, and what that is called."""

    score: str
    said: str
    change: Change


def largest(value: float, undamaged: float, most: float) -> float:
    return value / most if most else 0.0


def rooted(value: float, undamaged: float, most: float) -> float:
    """Of a squared distance, which may be estimated below 0."""
    return math.copysign(math.sqrt(abs(value) / most), value) if most else 0.0


def relative(value: float, undamaged: float, most: float) -> float:
    return value / undamaged if undamaged else math.nan


def plain(value: float, undamaged: float, most: float) -> float:
    return value


ROWS = (
    Row("fid", "root, of its largest", rooted),
    Row("fid_infinity", "root, of its largest", rooted),
    Row("kid", "root, of its largest", rooted),
    Row("sfid", "root, of its largest", rooted),
    Row("cmmd", "root, of its largest", rooted),
    Row("mind", "root, of its largest", rooted),
    Row("precision", "share", plain),
    Row("recall", "share", plain),
    Row("density", "reals: about 1", plain),
    Row("coverage", "share", plain),
    Row("vendi_ratio", "reals: 1", plain),
    Row("diversity", "reals: 1", plain),
    Row("intra_class_diversity", "reals: 1", plain),
    Row("inception_score", "of undamaged", relative),
    Row("class_divergence", "bits", plain),
    Row("bin_divergence", "bits", plain),
    Row("modes_reached", "of undamaged", relative),
    Row("bins_reached", "of undamaged", relative),
    Row("label_accuracy", "share", plain),
    Row("spectrum_distance", "of its largest", largest),
    Row("sharpness_ratio", "reals: 1", plain),
    Row("authpct", "%", plain),
    Row("nn_ratio", "no copies: 1", plain),
    Row("near_training", "share", plain),
    Row("c_t", "z, of its largest", largest),
)
STYLE = """
.plot { --paper: #fdfcfa; --rule: #e3dfd6; --strong: #b9b3a6; --ink: #1d1b18; --mute: #655f55;
  --c0: #0067a6; --c1: #b24700; --c2: #00725a; --c3: #93358c;
  font-family: -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif }
@media (prefers-color-scheme: dark) { .plot { --paper: #141518; --rule: #303238; --strong: #5c5f67;
  --ink: #ecebe6; --mute: #a6a49d; --c0: #62b5ee; --c1: #f39a60; --c2: #44c9a5; --c3: #e29bd8 } }
.k0 { --k: var(--c0) } .k1 { --k: var(--c1) } .k2 { --k: var(--c2) } .k3 { --k: var(--c3) }
.paper { fill: var(--paper) } .cell { fill: none; stroke: var(--rule) }
.zero { stroke: var(--strong); stroke-dasharray: 2 3 }
.name { fill: var(--ink); font-size: 12.5px; font-weight: 600 }
.said, .tick { fill: var(--mute); font-size: 10.5px }
.head { fill: var(--ink); font-size: 13px; font-weight: 600 }
.key { fill: var(--k); font-size: 13px; font-weight: 600 }
.curve { fill: none; stroke: var(--k); stroke-width: 1.8; stroke-linejoin: round }
.band { fill: var(--k); opacity: .18 } .mark { fill: var(--k) }
"""


def draw(found: Curves, ruler: str, path: str | Path) -> list[str]:
    """Writes the SVG; returns the scores that it shows."""
    rows = [
        row for row in ROWS if any(_has(row, points) for kinds in found.values() for points in kinds.values())
    ]
    columns = list(dict.fromkeys(kind for kinds in found.values() for kind in kinds))
    width = LEFT + len(columns) * (WIDE + GAP) - GAP + RIGHT
    height = TOP + len(rows) * (HIGH + GAP) - GAP + BOTTOM
    parts = [
        el("style", Markup(STYLE)),
        el("rect", class_="paper", width=width, height=height),
        *keys(list(found), width),
        *heads(columns),
    ]
    for i, row in enumerate(rows):
        parts += line_of(row, found, columns, TOP + i * (HIGH + GAP))
    bottom = height - BOTTOM + 16
    for j, _ in enumerate(columns):
        left = LEFT + j * (WIDE + GAP)
        parts += [
            el("text", "0", class_="tick", x=left, y=bottom),
            el("text", "1", class_="tick", x=left + WIDE, y=bottom, text_anchor="end"),
        ]
    foot = "strength of the damage, 0 (none) to 1; bands: 95 % intervals"
    parts.append(el("text", foot, class_="said", x=LEFT, y=height - 8))
    told = f"{len(rows)} scores, measured with {ruler}, against {len(columns)} kinds of planted damage."
    svg = drawing("damage", "Planted damage against each metric", told, width, height, *parts)
    text = str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text + "\n", encoding="utf-8")
    return [row.score for row in rows]


def keys(names: Sequence[str], width: float) -> list[Markup]:
    """Which line is which set."""
    parts, x = [], LEFT
    for i, name in enumerate(names):
        parts.append(
            el(
                "g",
                marker(i, x + 5, 18, 4),
                el("text", escape(name), class_="key", x=x + 15, y=22),
                class_=f"k{i}",
            )
        )
        x += 40 + 8 * len(name)
    return parts


def heads(columns: Sequence[str]) -> list[Markup]:
    return [
        el("text", kind.replace("_", " "), class_="head", x=LEFT + j * (WIDE + GAP), y=TOP - 12)
        for j, kind in enumerate(columns)
    ]


def line_of(row: Row, found: Curves, columns: Sequence[str], top: float) -> list[Markup]:
    """The row's name, its axis, and a cell for each kind."""
    lines = {
        (name, kind): changed(row, kinds, kind)
        for name, kinds in found.items()
        for kind in columns
        if kind in kinds and _has(row, kinds[kind])
    }
    values = [point[1] for line in lines.values() for point in line]
    # a long interval must not flatten the curves, and what is about 1 must not look like a fall
    low, high = min(0.0, *values), max(values)
    if high <= low:
        high = max(point[3] for line in lines.values() for point in line)
    y = Scale.over([low, high], top + HIGH, top, pad=0.08)
    parts = [
        el("text", row.score.replace("_", " "), class_="name", x=8, y=top + 17),
        el("text", row.said, class_="said", x=8, y=top + 32),
    ]
    parts += [
        el("text", short(value), class_="tick", x=LEFT - 6, y=y(value) + 4, text_anchor="end")
        for value in (low, high)
    ]
    for j, kind in enumerate(columns):
        left = LEFT + j * (WIDE + GAP)
        x = Scale(0.0, 1.0, left + 3, left + WIDE - 3)
        parts.append(el("rect", class_="cell", x=left, y=top, width=WIDE, height=HIGH))
        for i, name in enumerate(found):
            if line := lines.get((name, kind)):
                parts.append(el("g", *curve_of(line, x, y, i), class_=f"k{i}"))
    return parts


def curve_of(
    line: Sequence[tuple[float, float, float, float]], x: Scale, y: Scale, index: int
) -> list[Markup]:
    """The undamaged level, the band of the intervals, the line, and a marker at its end."""
    upper = [(x(s), y(high)) for s, _, _, high in line]
    lower = [(x(s), y(low)) for s, _, low, _ in reversed(line)]
    points = [(x(s), y(value)) for s, value, _, _ in line]
    band = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in [*upper, *lower]) + "Z"
    return [
        el("path", class_="zero", d=f"M{x.start:.1f} {points[0][1]:.1f}H{x.end:.1f}"),
        el("path", class_="band", d=band),
        polyline(points, "curve"),
        marker(index, *points[-1], 2.4),
    ]


def changed(row: Row, kinds: Mapping[str, Points], kind: str) -> list[tuple[float, float, float, float]]:
    """(strength, value, low, high) as the row draws them."""
    every = [
        scores[row.score].value for points in kinds.values() for _, scores in points if row.score in scores
    ]
    most = max(map(abs, every))
    points = [(s, scores[row.score]) for s, scores in kinds[kind] if row.score in scores]
    undamaged = points[0][1].value

    def change(value: float) -> float:
        return row.change(value, undamaged, most)

    return [(s, change(e.value), change(e.low), change(e.high)) for s, e in points]


def short(value: float) -> str:
    return tick(float(f"{value:.2g}"))


def _has(row: Row, points: Points) -> bool:
    return sum(row.score in scores and math.isfinite(scores[row.score].value) for _, scores in points) > 1
