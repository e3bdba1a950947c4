"""What was measured, as plain data: estimates, ruler cards, reports.

No torch, so that choosing is instant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from diptych.checking import made, need
from diptych.errors import RunError
from diptych.system.privacy import cleaned

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Estimate:
    """A measured number: its value, its 95 % interval, and how many observations it rests on."""

    value: float
    low: float
    high: float
    n: int
    better: Better = "lower"
    unit: str = ""
    note: str = ""  # how the interval was made, or a caveat
    # deviations of the score when the images are drawn anew: the same draws for every model that was measured
    # on the same held-out images, so that the spread of a difference is told (see comparison.py)
    replicates: tuple[float, ...] = ()

    @classmethod
    def exact(cls, value: float, better: Better = "lower", unit: str = "", note: str = "exact") -> Estimate:
        """A number that was counted, not sampled."""
        return cls(value, value, value, 1, better, unit, note)

    def to_json(self) -> dict[str, Any]:
        """Plain types; the replicates are one line of text."""
        # JSON has no infinity: an end that is open is null
        ends = {n: v if math.isfinite(v := getattr(self, n)) else None for n in ("value", "low", "high")}
        return asdict(self) | ends | {"replicates": " ".join(map(repr, self.replicates))}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Estimate:
        """The inverse of `to_json`; unknown fields are ignored. Raises RunError where it is none."""
        ends = dict.fromkeys(("value", "low", "high"), float | None)
        known = {**need(tree, ends | {"n": int}, "a score")}
        for name, open_end in (("value", math.nan), ("low", -math.inf), ("high", math.inf)):
            known[name] = open_end if known[name] is None else known[name]
        told = need({"replicates": "", **known}, {"replicates": str}, "a score")["replicates"]
        try:
            known["replicates"] = tuple(map(float, told.split()))
        except ValueError as error:
            raise RunError(f"a score cannot be read: {error}") from error
        return made(cls, known, "a score")

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two 95 % intervals share a point."""
        return self.low <= other.high and other.low <= self.high

    def beats(self, other: Estimate) -> bool:
        """Whether this one is better and the intervals do not overlap."""
        if self.overlaps(other) or self.better == "neither":
            return False
        return self.value < other.value if self.better == "lower" else self.value > other.value

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.low == self.high == self.value:
            return f"{number(self.value)}{unit}"
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]{unit}"


def number(value: float) -> str:
    """A number as a person reads it: three or four significant digits, thousands separated, a true minus.

    >>> number(0.01234), number(12.345), number(1234567.0), number(-0.5)
    ('0.0123', '12.3', '1,234,567', '−0.500')
    """
    if not math.isfinite(value):
        text = str(value).replace("inf", "∞")
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) < 5e-7:
        text = "0.000"
    else:
        text = f"{value:.{min(max(0, 2 - math.floor(math.log10(abs(value)))), 6)}f}"
    return text.replace("-", "−")


def point_name(name: str, setting: Mapping[str, Any]) -> str:
    """What a person calls a point on the dial: "edm, 18 steps"."""
    return ", ".join(
        [name, *(f"{value} {key if value != 1 else key.rstrip('s')}" for key, value in setting.items())]
    )


def slug(name: str) -> str:
    """A point's name as a file name."""
    return name.replace(", ", "-").replace(" ", "-")


@dataclass(frozen=True)
class RulerCard:
    """What a score was measured with. Scores with different cards are not compared."""

    extractor: str  # name and version of the feature extractor
    extractor_sha256: str
    data: str  # name of the data set
    held_out_sha256: str  # of the held-out images that fakes are measured against
    n: int  # fakes and reals looked at
    resize: str  # how images reach the extractor's input size
    seed: int  # first sampling seed
    version: str  # of the metrics' code; rises when a number could change

    def differences(self, other: RulerCard) -> list[str]:
        """One sentence for each field in which the two cards differ."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name}: {a} against {b}" for name, a, b in pairs if a != b]


@dataclass(frozen=True)
class Report:
    """One model, at one setting of its options, measured on one data set with one ruler."""

    name: str  # "edm, 18 steps"
    recipe: str  # "edm"
    options: Mapping[str, Any]  # {"steps": 18, "guidance": 1.0}
    scores: Mapping[str, Estimate]
    floor: Mapping[str, Estimate]  # the same metrics on real images in the fakes' place
    ruler: RulerCard
    machine: Mapping[str, Any] = field(default_factory=dict)  # what latency and memory were measured on
    training: Mapping[str, Any] = field(default_factory=dict)  # images, seconds, flops that were spent
    run: str = ""  # the run directory, as it was named
    provenance: Mapping[str, Any] = field(default_factory=dict)  # command, versions, hash of the weights

    def renewed(self, later: Report) -> Report:
        """A later report of the same weights and options by the same ruler, with what this one has beside it.

        Of other weights, options or rulers it is the later one alone. What a machine does is of one machine:
        the later one's, where that was asked.
        """
        if self._identity != later._identity:
            return later
        scores, where = self.scores, later.machine
        if self.machine != later.machine:
            # scores of images are the same everywhere, and have replicates
            if all(estimate.replicates for estimate in later.scores.values()):
                where = self.machine
            else:
                scores = {name: estimate for name, estimate in scores.items() if estimate.replicates}
        floor = {**self.floor, **later.floor}
        return replace(later, scores={**scores, **later.scores}, floor=floor, machine=where)

    @property
    def _identity(self) -> dict[str, Any]:
        options = {name: value for name, value in self.options.items() if value not in ("", None)}  # given
        parts = {"ruler": asdict(self.ruler), "training": self.training, "options": options}
        # as a file has it, without home directories
        return cleaned(parts | {"weights": self.provenance.get("weights_sha256")})

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps, without secrets and home directories (see system/privacy.py)."""
        tree = {f.name: getattr(self, f.name) for f in fields(self)}
        for part in ("scores", "floor"):
            tree[part] = {name: estimate.to_json() for name, estimate in tree[part].items()}
        return cleaned(tree | {"ruler": asdict(self.ruler)})

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Report:
        """The inverse of `to_json`; unknown fields are ignored, so that older code reads newer reports.

        Raises RunError where it is something else.
        """
        parts = dict.fromkeys(("scores", "floor", "ruler"), Mapping[str, Any])
        known = {**need(tree, parts, "a report")}
        for part in ("scores", "floor"):
            known[part] = {name: Estimate.from_json(estimate) for name, estimate in known[part].items()}
        known["ruler"] = made(RulerCard, known["ruler"], "a ruler card")
        return made(cls, known, "a report")

    def __str__(self) -> str:
        return json.dumps(self.to_json(), indent=2)
