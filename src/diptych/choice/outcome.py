"""A choice as plain data, the limits it keeps, and how scores are said in a sentence. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from diptych.checking import made, need
from diptych.scores import Estimate, Report


@dataclass(frozen=True)
class Choice:
    """What to ship, what cannot be told apart from it, and why the others were dropped."""

    best: str  # the score that decides
    constraints: Mapping[str, Mapping[str, float]]  # {"at_most": {...}, "at_least": {...}}
    chosen: Report | None  # the best value among those that pass; None where none passes
    tied: tuple[Report, ...] = ()  # these pass too, and cannot be told from the chosen one
    pareto: tuple[str, ...] = ()  # no other is as good on every axis and better on one, by their values
    dropped: tuple[tuple[str, str], ...] = ()  # (name, measured reason)
    sentence: str = ""
    tie_break: str = ""  # of chosen and tied, the one that is measurably faster or cheaper than the chosen
    notes: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()  # the scores that `pareto` is the front of

    @property
    def others(self) -> tuple[tuple[str, str], ...]:
        """Every other report: what cannot be told from the chosen one, then why the rest was dropped."""
        tied = ((r.name, f"not told apart, {said(self.best, r.scores[self.best])}") for r in self.tied)
        return (*tied, *self.dropped)

    @property
    def decided(self) -> bool:
        """Whether there is one, and its interval is apart from every other's that passes."""
        return self.chosen is not None and not self.tied

    @property
    def verdict(self) -> str:
        """The shortest form, a headline.

        >>> Choice("fid", {}, None).verdict
        'Nothing to ship'
        """
        if self.chosen is None:
            return "Nothing to ship"
        return f"{'Ship' if self.decided else 'Not decidable at this n: best so far is'} {self.chosen.name}"

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        tree = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen = None if self.chosen is None else self.chosen.to_json()
        tree |= {"chosen": chosen, "tied": [report.to_json() for report in self.tied]}
        return tree | {"verdict": self.verdict, "decided": self.decided}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Choice:
        """The inverse of `to_json`; unknown fields are ignored. Raises RunError where it is none."""
        known = {**need(tree, {"chosen": Mapping[str, Any] | None, "tied": Sequence[Any]}, "a choice")}
        known["chosen"] = None if known["chosen"] is None else Report.from_json(known["chosen"])
        known["tied"] = tuple(map(Report.from_json, known["tied"]))
        return made(cls, known, "a choice")

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Limit:
    """A bound on one score: `sign` 1 is at most, -1 is at least."""

    score: str
    bound: float
    sign: int

    def excess(self, report: Report) -> float:
        """How far the value is on the wrong side, as a share of the bound; at most 0 where it passes."""
        estimate = report.scores.get(self.score)
        if estimate is None or math.isnan(estimate.value):
            return math.inf
        gap = self.sign * (estimate.value - self.bound)
        return gap / abs(self.bound) if self.bound and math.isfinite(self.bound) else gap

    def straddled(self, report: Report) -> bool:
        """Whether the score's interval contains the bound."""
        estimate = report.scores.get(self.score)
        return (
            estimate is not None
            and estimate.low < estimate.high
            and estimate.low <= self.bound <= estimate.high
        )

    def broken(self, report: Report, by: str = "") -> str:
        """The sentence that says so, and by how much where that is asked."""
        if (estimate := report.scores.get(self.score)) is None:
            return f"it has no {self.score}"
        side = "over" if self.sign > 0 else "under"
        text = f"{said(self.score, estimate)} is {side} the limit of {bound(self.bound)}{by}"
        return text + (", but its interval contains the limit" if self.straddled(report) else "")

    def __str__(self) -> str:
        return f"{self.score} at {'most' if self.sign > 0 else 'least'} {bound(self.bound)}"


def bound(value: float) -> str:
    """A limit as it was typed.

    >>> bound(50.0), bound(0.25), bound(20000.0)
    ('50', '0.25', '20,000')
    """
    return f"{value:,g}"


def plain(estimate: Estimate) -> str:
    """Value and interval, without the unit."""
    return str(estimate).removesuffix(f" {estimate.unit}") if estimate.unit else str(estimate)


def said(name: str, estimate: Estimate) -> str:
    """A score in a sentence; the unit is not repeated where the name ends in it."""
    return f"{name} {plain(estimate) if name.endswith(f'_{estimate.unit}') else estimate}"
