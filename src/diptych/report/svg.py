"""The parts that plots are made of: escaped SVG elements, scales with round ticks, labels that keep apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup, escape

GLYPH = 0.55  # mean width of a letter of a sans-serif face, in font sizes
SHAPES = 6  # how many markers `marker` knows


def el(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element, its text and attributes escaped; `class_` is class and `text_anchor` is text-anchor.

    >>> el("text", "a < b", class_="label", x=1.5)
    Markup('<text class="label" x="1.5">a &lt; b</text>')
    """
    pairs = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    inside = "".join(f' {name}="{escape(_plain(value))}"' for name, value in pairs if value is not None)
    return Markup(f"<{tag}{inside}>{Markup('').join(children)}</{tag}>")


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2):g}"


@dataclass(frozen=True)
class Scale:
    """From values in [low, high] to pixels in [start, end], linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(
        cls, values: Iterable[float], start: float, end: float, log: bool = False, pad: float = 0.06
    ) -> Scale:
        """Wide enough for all finite values (positive ones where it is logarithmic), with a margin."""
        kept = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = (math.log(min(kept)), math.log(max(kept))) if log else (min(kept), max(kept))
        if high - low < 1e-9 * max(1.0, abs(high)):  # one value: a window around it
            low, high = (
                (low - 0.7, high + 0.7) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
            )
        margin = pad * (high - low)
        low, high = low - margin, high + margin
        return cls(math.exp(low), math.exp(high), start, end, True) if log else cls(low, high, start, end)

    def __call__(self, value: float) -> float:
        """The pixel of a value, kept within the frame."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values within the scale, about `most` at the most."""
        return self._log_ticks(most) if self.log else self._linear_ticks(most)

    def _log_ticks(self, most: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for mantissas in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = [m * 10.0**d for d in decades for m in mantissas if self.low <= m * 10.0**d <= self.high]
            if len(ticks) <= most:
                return ticks if len(ticks) > 1 else self._linear_ticks(most)
        every = -(-len(ticks) // most)
        return ticks[::every]

    def _linear_ticks(self, most: int) -> list[float]:
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def tick(value: float) -> str:
    """A tick's label: no digits that say nothing.

    >>> tick(0.5), tick(20.0), tick(1500.0)
    ('0.5', '20', '1,500')
    """
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}").replace("-", "−")


def polyline(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through pixels."""
    return el("path", class_=class_, d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))


def marker(index: int, x: float, y: float, size: float = 5, class_: str = "mark") -> Markup:
    """One shape a contender, so that colour is not needed to tell them apart."""
    s = size
    corners = (
        None,
        ((-s, -s), (s, -s), (s, s), (-s, s)),
        ((0, -1.25 * s), (1.2 * s, s), (-1.2 * s, s)),
        ((0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)),
        ((0, 1.25 * s), (1.2 * s, -s), (-1.2 * s, -s)),
        ((-1.3 * s, -0.6 * s), (1.3 * s, -0.6 * s), (1.3 * s, 0.6 * s), (-1.3 * s, 0.6 * s)),
    )[index % SHAPES]
    if corners is None:
        return el("circle", class_=class_, cx=x, cy=y, r=1.1 * size)
    return el("path", class_=class_, d="M" + "L".join(f"{x + a:.1f} {y + b:.1f}" for a, b in corners) + "Z")


class Box(NamedTuple):
    """Pixels from (left, top) to (right, bottom)."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


@dataclass
class Labels:
    """Direct labels that avoid the marks and each other as far as there is room."""

    frame: Box
    taken: list[Box] = field(default_factory=list)

    def avoid(self, left: float, top: float, right: float, bottom: float) -> None:
        """Keeps labels off these pixels."""
        self.taken.append(Box(left, top, right, bottom))

    def avoid_line(self, points: Sequence[tuple[float, float]], half: float = 3) -> None:
        """Keeps labels off the line through these pixels."""
        for (x0, y0), (x1, y1) in pairwise(points):
            pieces = max(1, int(math.hypot(x1 - x0, y1 - y0) / (2 * half)))
            for i in range(pieces + 1):
                x, y = x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces
                self.avoid(x - half, y - half, x + half, y + half)

    def place(
        self, text: str, near: Sequence[tuple[float, float]], class_: str, size: float = 12, gap: float = 9
    ) -> Markup:
        """A label beside one of these pixels, wherever it covers least."""
        options = [option for x, y in near for option in self._around(text, x, y, size, gap)]
        _, box = min(enumerate(options), key=lambda pair: self._cost(pair[1]) + 0.5 * pair[0])
        self.taken.append(box)
        return el("text", escape(text), class_=class_, x=box.left, y=box.bottom - 0.24 * size, font_size=size)

    def _around(self, text: str, x: float, y: float, size: float, gap: float) -> list[Box]:
        w, h = width_of(text, size), 1.1 * size
        corners = (
            (x - w / 2, y - gap - h),
            (x - w / 2, y + gap),
            (x + gap, y - h / 2),
            (x - gap - w, y - h / 2),
            (x + 0.6 * gap, y - 0.6 * gap - h),
            (x + 0.6 * gap, y + 0.6 * gap),
            (x - 0.6 * gap - w, y - 0.6 * gap - h),
            (x - 0.6 * gap - w, y + 0.6 * gap),
        )
        return [Box(left, top, left + w, top + h) for left, top in corners]

    def _cost(self, box: Box) -> float:
        area = (box.right - box.left) * (box.bottom - box.top)
        outside = area - box.shared(self.frame)
        return 10 * outside + sum(box.shared(other) for other in self.taken)


def width_of(text: str, size: float) -> float:
    """About how many pixels a text takes."""
    return GLYPH * size * len(text)


def spread(wanted: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Heights near the wanted ones, at least so far apart, within [low, high] where they fit.

    >>> spread([10, 11, 50], 12, 0, 100)
    [10, 22, 50]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], placed[-1] + least if placed else low))
    for k in range(len(placed) - 1, -1, -1):
        placed[k] = min(placed[k], high if k == len(placed) - 1 else placed[k + 1] - least)
    return [placed[order.index(i)] for i in range(len(wanted))]


def shorten(text: str, most: int = 24) -> str:
    """A name that fits beside a line."""
    return text if len(text) <= most else text[: most - 1] + "…"


def drawing(key: str, title: str, description: str, width: float, height: float, *parts: str) -> Markup:
    """An svg element that a screen reader can name and describe; `key` is unique on the page."""
    return el(
        "svg",
        el("title", escape(title), id=f"{key}-title"),
        el("desc", escape(description), id=f"{key}-desc"),
        *parts,
        class_="plot",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        style=f"max-width:{width:g}px",
    )
