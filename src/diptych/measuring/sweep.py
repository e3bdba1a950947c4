"""An option of a model swept over its values: what it buys in quality, what it costs in diversity."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from diptych.errors import WrongUse
from diptych.measuring.grading import grade
from diptych.measuring.subject import Source, Subject, open_subject
from diptych.report.lines import Line, Panel, Point, figure
from diptych.report.table import ARROWS
from diptych.scores import Estimate, Report, point_name
from diptych.system.files import write_json, write_text

MOST = 50  # values of one sweep
Value = float | str
SHOWN = (("fid",), ("precision", "recall"), ("density", "coverage"))  # a panel each; others have their own


@dataclass(frozen=True)
class Sweep:
    """Reports of one model, one for each value of an option."""

    option: str
    values: tuple[Value, ...]
    reports: tuple[Report, ...]
    name: str = ""  # of the model, with its other options
    beside: str = ""  # those of its other options that were asked for

    @property
    def best(self) -> dict[str, Value]:
        """For each score that has a better side, the value at which it is best."""
        found = {}
        for name, estimate in self.reports[0].scores.items():
            if estimate.better != "neither" and all(name in report.scores for report in self.reports):
                sign = 1 if estimate.better == "lower" else -1
                found[name] = min(
                    zip(self.values, self.reports, strict=True),
                    key=lambda pair, name=name, sign=sign: sign * pair[1].scores[name].value,  # type: ignore[misc]
                )[0]
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        reports = [report.to_json() for report in self.reports]
        return {
            "model": self.name,
            "option": self.option,
            "values": list(self.values),
            "best": self.best,
            "reports": reports,
        }

    def drawn(self) -> str:
        """Scores over the option, and quality against diversity along it, as one SVG."""
        together = [names for names in SHOWN if self._has(*names)]
        alone = [(name,) for name in self.scores if name not in sum(together, ()) and self._drawable(name)]
        panels = [self._over(names) for names in (*together, *alone)]
        if self._has("precision", "recall"):
            panels.append(self._against("recall", "precision"))
        note = f"{self.name}; n = {self.reports[0].ruler.n:,}; bars: 95 % intervals"
        if any(panel.floors for panel in panels):
            note += "; broken: real images"
        columns = 2 if len(panels) <= 4 else 3
        return str(figure("sweep", f"Sweep of {self.option}", panels, columns=columns, note=note))

    @property
    def scores(self) -> list[str]:
        """Every score that was measured at one value or another."""
        return list(dict.fromkeys(name for report in self.reports for name in report.scores))

    def titled(self, name: str) -> str:
        """A score with the arrow to its better side, and how many observations it rests on."""
        found = [report.scores[name] for report in self.reports if name in report.scores]
        counts = sorted({e.n for e in found if e.low < e.high})
        n = (
            f" (n = {' to '.join(f'{n:,}' for n in dict.fromkeys((counts[0], counts[-1])))})"
            if counts
            else ""
        )
        return f"{name} {ARROWS[found[0].better]}".rstrip() + n

    def rows(self) -> list[list[str]]:
        """A row for each value, its scores with their intervals, and one for the floor where there is one."""
        rows = [
            [written(value), *(text_of(report.scores.get(name)) for name in self.scores)]
            for value, report in zip(self.values, self.reports, strict=True)
        ]
        floor = self.reports[0].floor
        return (
            [*rows, ["floor (real images)", *(text_of(floor.get(n)) for n in self.scores)]] if floor else rows
        )

    @property
    def stem(self) -> str:
        """What its files are called: by its option, and by the others that were asked for."""
        return "-".join(filter(None, (self.option, re.sub(r"[^\w.]+", "-", self.beside)[:100])))

    def save(self, directory: Path) -> None:
        """Leaves `stem` with .json, .svg and .md."""
        write_json(directory / f"{self.stem}.json", self.to_json())
        write_text(directory / f"{self.stem}.svg", self.drawn())
        write_text(directory / f"{self.stem}.md", markdown(self))

    def _has(self, *names: str) -> bool:
        return all(name in report.scores for report in self.reports for name in names)

    def _drawable(self, name: str) -> bool:
        return any(math.isfinite(r.scores[name].value) for r in self.reports if name in r.scores)

    def _over(self, names: Sequence[str]) -> Panel:
        texts = [value for value in self.values if isinstance(value, str)]
        places = [v if isinstance(v, float | int) else i for i, v in enumerate(self.values)]
        found = list(zip(places, self.reports, strict=True))
        lines = [
            Line(
                name,
                [point(x, r.scores[name]) for x, r in found if name in r.scores],
                joined=not texts,
            )
            for name in names
        ]
        floor = self.reports[0].floor
        floors = [floor[name].value for name in names] if all(name in floor for name in names) else []
        arrows = dict.fromkeys(ARROWS[r.scores[n].better] for n in names for _, r in found if n in r.scores)
        title = " ".join([" and ".join(names), *arrows]).strip()
        return Panel(title, self.option, lines, names=texts, floors=floors)

    def _against(self, x: str, y: str) -> Panel:
        points = []
        for value, report in zip(self.values, self.reports, strict=True):
            across, up = report.scores[x], report.scores[y]
            points.append(
                Point(across.value, up.value, written(value), up.low, up.high, across.low, across.high)
            )
        line = Line(self.option, points, joined=not isinstance(self.values[0], str))
        return Panel(f"{y} against {x}, by {self.option}", x, [line])


def sweep(
    source: Source,
    option: str,
    values: Sequence[Value],
    *,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Sweep:
    """Measures a model at each value of one of its options, with the same seeds and the same real images.

    values: numbers, or names, as of samplers. options: others of its options, the same for all values.
    Keyword arguments are those of `diptych.measuring.grading.grade` (`against`, `n`, `metrics`, `rulers`).
    Raises WrongUse for an option that the model does not have, too many values, or one twice.
    """
    if not 2 <= len(values) <= MOST:
        raise WrongUse(f"a sweep has 2 to {MOST} values, not {len(values)}", "write --guidance 1:4:0.5")
    if len(set(values)) < len(values):
        raise WrongUse(f"a value of {option} is given twice", "each value is measured once")
    subject = open_subject(source, device=settings.get("device", "auto"))
    if subject.model is None:
        raise WrongUse(f"{subject.name} is no model: it has no options to sweep")
    points = [at(subject, {**(options or {}), option: value}) for value in values]
    graded = grade(points, settings.pop("against", None), **settings)
    own = [report for report in graded.reports if report.ruler == graded.reports[0].ruler]
    name = point_name(subject.name, options or {})
    beside = " ".join(f"{key} {value}" for key, value in (options or {}).items())
    return Sweep(option, tuple(values), tuple(own), name, beside)


def at(subject: Subject, changes: Mapping[str, Any]) -> Subject:
    """The subject with other options of its model, and the name that says so."""
    assert subject.model is not None
    whole = {f.name for f in fields(subject.model.options) if f.type in (int, "int")}
    typed = {
        k: int(v) if k in whole and not isinstance(v, str) and float(v).is_integer() else v
        for k, v in changes.items()
    }
    return replace(subject, model=subject.model.using(**typed), name=point_name(subject.name, typed))


def written(value: Value) -> str:
    """A value as a person reads it."""
    return value if isinstance(value, str) else f"{value:g}"


def steps_between(text: str) -> list[float]:
    """From "1:4:0.5" (both ends) or "1,2,4" to a list. Raises WrongUse for anything else.

    >>> steps_between("1:2:0.5")
    [1.0, 1.5, 2.0]
    """
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        first, last, step = (float(part) for part in text.split(":"))
        if step == 0 or (last - first) / step < 0 or not math.isfinite(first + last + step):
            raise ValueError
        n = int((last - first) / step + 1e-9)
        if n >= 10 * MOST:
            raise ValueError
        return [round(first + i * step, 12) for i in range(n + 1)]
    except ValueError:
        raise WrongUse(
            f"{text!r} is not a range of values", "write first:last:step, as 1:4:0.5, or 1,2,4"
        ) from None


def point(x: float, estimate: Estimate) -> Point:
    """An estimate at x, with its interval."""
    return Point(x, estimate.value, low=estimate.low, high=estimate.high)


def markdown(found: Sweep) -> str:
    """A table with a row for each value, and the floor below."""
    names = [found.option, *(found.titled(name) for name in found.scores)]
    rows = [names, ["---:"] * len(names), *found.rows()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def text_of(estimate: Estimate | None) -> str:
    """A cell: value, interval and unit."""
    return "–" if estimate is None else str(estimate)
