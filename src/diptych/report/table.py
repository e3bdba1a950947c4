"""The table: points against scores, with intervals, floors, and what may be called best."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.report.record import DuelRecord
from diptych.scores import Estimate, Report, number

PREFIXES = ("", "k", "M", "G", "T", "P", "E")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
ARROWS = {"lower": "↓", "higher": "↑", "neither": ""}


@dataclass(frozen=True)
class Column:
    """One score: its unit with the prefix that suits all its values, its better side, its n."""

    name: str
    unit: str
    better: str
    n: str  # "" where it differs from row to row
    scale: float
    notes: tuple[str, ...]

    @property
    def arrow(self) -> str:
        """Down where lower is better, up where higher is."""
        return ARROWS[self.better]


@dataclass(frozen=True)
class Cell:
    """A score as it is read: value, interval (nothing for what was counted), n where the column has none."""

    value: str
    interval: str = ""
    n: str = ""
    best: bool = False  # its interval is apart from all others in the column, on the better side


@dataclass(frozen=True)
class Row:
    """One point of one contender, or the floor."""

    name: str
    contender: int
    cells: tuple[Cell | None, ...]
    chosen: bool = False
    tied: bool = False
    pareto: bool = False
    first: bool = False  # of its contender
    failed: str = ""


@dataclass(frozen=True)
class Table:
    """Columns of one kind, a row for each point, and the floor where these scores have one."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    floor: tuple[Cell | None, ...] | None


def tables(record: DuelRecord) -> list[Table]:
    """Quality, which has a floor; copying, which has none; and cost, which is not of images."""
    points = record.points
    names = list(dict.fromkeys(name for point in points for name in point.scores))
    floored = {name for point in points for name in point.floor}
    sampled = {name for point in points for name, score in point.scores.items() if score.replicates}
    parts = (
        ("Quality", [n for n in names if n in floored]),
        ("Copying", [n for n in names if n in sampled - floored]),  # scores of images that have no floor
        ("Cost", [n for n in names if n not in floored | sampled]),
    )
    filled = [table(record, title, chosen) for title, chosen in parts if chosen]
    return filled or [table(record, "Scores", [])]


def table(record: DuelRecord, title: str, names: Sequence[str]) -> Table:
    """These scores of every point; failed contenders have a row that says so."""
    columns = tuple(column(record.points, name) for name in names)
    choice, rows = record.choice, []
    tied = {report.name for report in choice.tied}
    for index, contender in enumerate(record.contenders):
        for place, point in enumerate(contender.points):
            chosen = choice.chosen is not None and point.name == choice.chosen.name
            marks = (chosen, point.name in tied, point.name in choice.pareto, place == 0)
            rows.append(Row(point.name, index, tuple(cell(record, point, c) for c in columns), *marks))
        if contender.failed or not contender.points:
            reason = contender.failed or "nothing was measured"
            rows.append(Row(contender.name, index, (), first=True, failed=reason))
    floors: dict[str, Estimate] = {}
    for point in record.points:
        floors = {**point.floor, **floors}
    floor = tuple(shown(floors[c.name], c) if c.name in floors else None for c in columns)
    return Table(title, columns, tuple(rows), floor if any(floor) else None)


def column(points: Sequence[Report], name: str) -> Column:
    """A score's header."""
    found = [point.scores[name] for point in points if name in point.scores]
    sampled = {estimate.n for estimate in found if estimate.low < estimate.high}
    power = prefix([estimate.value for estimate in found])
    unit = found[0].unit
    spelt = (
        f"{PREFIXES[power]}{unit}"
        if unit
        else {0: "", 2: "millions", 3: "billions"}.get(power, PREFIXES[power])
    )
    n = f"{next(iter(sampled)):,}" if len(sampled) == 1 else ""
    return Column(name, spelt, found[0].better, n, 1000.0**power, notes(points, name))


def notes(points: Sequence[Report], name: str) -> tuple[str, ...]:
    """How a score's intervals were made: one sentence for all points whose notes differ in numbers only.

    Numbers that differ are told as the range that they lie in; sentences that differ, with the points.
    """
    alike: dict[str, dict[str, str]] = {}
    for point in points:
        note = point.scores[name].note if name in point.scores else ""
        if note and note != "exact":
            alike.setdefault(NUMBER.sub("#", note), {})[point.name] = note
    told = {", ".join(group): ranged(list(group.values())) for group in alike.values()}
    return tuple(told.values()) if len(told) == 1 else tuple(f"{who}: {note}" for who, note in told.items())


def ranged(sentences: Sequence[str]) -> str:
    """Sentences that differ in numbers only as one, with the range of each.

    >>> ranged(["biased by 0.21, 2 sides", "biased by 1.5, 2 sides"])
    'biased by 0.21 to 1.5, 2 sides'
    """
    places = iter(list(zip(*(NUMBER.findall(sentence) for sentence in sentences), strict=True)))

    def span(_: re.Match[str]) -> str:
        found = sorted(set(next(places)), key=lambda text: float(text.replace(",", "")))
        return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"

    return NUMBER.sub(span, sentences[0])


def prefix(values: Sequence[float]) -> int:
    """The power of 1000 that a column counts in: 0 unless a value reaches a million."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    if not sizes or max(sizes) < 1e6:
        return 0
    return min(max(0, math.floor(math.log(min(sizes), 1000) + 1e-9)), len(PREFIXES) - 1)


def cell(record: DuelRecord, point: Report, column: Column) -> Cell | None:
    """A point's score, marked where it beats every other point's."""
    if (mine := point.scores.get(column.name)) is None:
        return None
    others = [p.scores[column.name] for p in record.points if p is not point and column.name in p.scores]
    return shown(mine, column, best=bool(others) and all(mine.beats(other) for other in others))


def shown(estimate: Estimate, column: Column, best: bool = False) -> Cell:
    """An estimate in its column's unit."""
    value, low, high = (figure(v / column.scale) for v in (estimate.value, estimate.low, estimate.high))
    if estimate.low == estimate.high == estimate.value:
        return Cell(value, best=best)
    n = "" if column.n == f"{estimate.n:,}" else f"{estimate.n:,}"
    return Cell(value, f"[{low}, {high}]", n, best)


def figure(value: float) -> str:
    """`number`, in words where it is none."""
    return number(value) if not math.isnan(value) else "not a number"
