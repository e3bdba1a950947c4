"""What a duel leaves, as plain data: the contenders, what they were measured at, and the choice. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from diptych.checking import made, need
from diptych.choice import Choice, Limit
from diptych.scores import Report
from diptych.system.privacy import cleaned


@dataclass(frozen=True)
class Contender:
    """One trained recipe. Paths are relative to the duel's directory."""

    name: str
    recipe: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    points: tuple[Report, ...] = ()  # one for each setting of its dial
    curve: tuple[Mapping[str, Any], ...] = ()  # log lines: images, seconds, losses {name: value}, exam {...}
    samples: Mapping[str, str] = field(
        default_factory=dict
    )  # point name -> PNG, the same seeds and labels for all
    neighbours: str = ""  # PNG: a row is a sample and its nearest training images
    neighbours_of: str = ""  # the point that it was drawn at
    spent: Mapping[str, float] = field(default_factory=dict)  # images, seconds, flop
    failed: str = ""  # why, where it did
    weights_sha256: str = ""  # of the averaged weights at the end

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        tree = {f.name: getattr(self, f.name) for f in fields(self)}
        return tree | {"points": [point.to_json() for point in self.points]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Contender:
        """From what `DuelRecord.to_json` wrote; unknown fields are ignored."""
        known = {**need(tree, {}, "a contender")}
        points = need({"points": [], **known}, {"points": Sequence[Any]}, "a contender")["points"]
        known["points"] = tuple(map(Report.from_json, points))
        return made(cls, known, "a contender")


@dataclass(frozen=True)
class DuelRecord:
    """All that the page shows."""

    title: str
    data: Mapping[str, Any]  # the DataCard
    contenders: tuple[Contender, ...]
    choice: Choice
    budget: str  # as it was asked for
    seeds: list[int]
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""  # that makes it again
    real_samples: str = ""  # PNG: held-out images with the labels of the samples
    created: str = ""  # ISO 8601
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps, without secrets and home directories (see system/privacy.py)."""
        tree = {f.name: getattr(self, f.name) for f in fields(self)}
        tree["contenders"] = [contender.to_json() for contender in self.contenders]
        return cleaned(tree | {"choice": self.choice.to_json()})

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> DuelRecord:
        """The inverse of `to_json`; unknown fields are ignored, so that older code reads newer records."""
        known = {**need(tree, {"contenders": Sequence[Any], "choice": Mapping[str, Any]}, "a duel's record")}
        known["contenders"] = tuple(map(Contender.from_json, known["contenders"]))
        known["choice"] = Choice.from_json(known["choice"])
        return made(cls, known, "a duel's record")

    @property
    def points(self) -> list[Report]:
        """Every report of every contender."""
        return [point for contender in self.contenders for point in contender.points]

    @property
    def passing(self) -> set[str]:
        """Names of the points that keep every constraint."""
        return {p.name for p in self.points if all(limit.excess(p) <= 0 for limit in self.limits)}

    @property
    def limits(self) -> list[Limit]:
        """The constraints."""
        sides, rules = (("at_most", 1), ("at_least", -1)), self.choice.constraints
        return [Limit(*item, sign) for side, sign in sides for item in rules.get(side, {}).items()]

    def headline(self, contender: Contender) -> str:
        """The point that stands for a contender: the chosen one, else its best that keeps the constraints.

        Where none keeps them its best, where none was measured the first, "" where it has none.
        """
        best, chosen = self.choice.best, self.choice.chosen
        if chosen is not None and chosen.name in contender.samples:
            return chosen.name
        measured = [p for p in contender.points if p.name in contender.samples and best in p.scores]
        measured = [p for p in measured if p.name in self.passing] or measured
        if not measured:
            return next(iter(contender.samples), "")
        sign = -1 if measured[0].scores[best].better == "higher" else 1
        return min(measured, key=lambda point: sign * point.scores[best].value).name
