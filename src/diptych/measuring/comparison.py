"""Whether two models differ: paired by the images they were measured against. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import stdev
from typing import Any

from diptych.errors import NotComparable, NotMeasurable
from diptych.measuring.student import quantile, two_sided
from diptych.scores import Better, Report, RulerCard, number

LEVEL = 0.05  # differences with a smaller p-value are called differences


@dataclass(frozen=True)
class Difference:
    """How much higher one model's score is than another's, with its 95 % interval and p-value."""

    score: str
    names: tuple[str, str]
    value: float  # first minus second
    low: float
    high: float
    p: float  # two-sided, of no difference
    better: Better = "lower"
    ruler: str = ""  # the extractor's name

    @property
    def decided(self) -> bool:
        """Whether chance alone would seldom make a difference like this one."""
        return self.p < LEVEL

    @property
    def winner(self) -> str:
        """The better one's name by value, "" where they are equal or neither side is better."""
        if self.value == 0 or self.better == "neither":
            return ""
        return self.names[int((self.value > 0) == (self.better == "lower"))]

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        return asdict(self) | {"decided": self.decided, "winner": self.winner}

    def __str__(self) -> str:
        between = f"[{number(self.low)}, {number(self.high)}]"
        return f"{number(self.value)} {between}, {p_value(self.p)}"


def difference(first: Report, second: Report, score: str) -> Difference:
    """The paired difference of a score between two reports.

    The replicates of both were made by the same draws of the same held-out images, so that what both owe to
    those images cancels. Raises NotComparable where the rulers differ, NotMeasurable where a report has no
    such score or it was counted, not sampled.
    """
    check_rulers([first, second])
    for report in (first, second):
        if score not in report.scores:
            raise NotMeasurable(f"{report.name} has no {score}", f"it has: {', '.join(report.scores)}")
        if not report.scores[score].replicates:
            raise NotMeasurable(f"{score} has no replicates: a paired test needs a score of sampled images")
    a, b = first.scores[score], second.scores[score]
    if len(a.replicates) != len(b.replicates) or len(a.replicates) < 2:
        raise NotComparable(f"{first.name} and {second.name} were drawn anew a different number of times")
    value, degrees = a.value - b.value, len(a.replicates) - 1
    error = stdev(x - y for x, y in zip(a.replicates, b.replicates, strict=True))
    half, p = error * quantile(0.975, degrees), float(value == 0)
    if error > 0:
        p = two_sided(value / error, degrees)
    elif any(math.isinf(end) for estimate in (a, b) for end in (estimate.low, estimate.high)):
        half, p = math.inf, 1.0  # both are as large as n can tell
    names, ruler = (first.name, second.name), first.ruler.extractor
    return Difference(score, names, value, value - half, value + half, p, a.better, ruler)


def apart(first: Report, second: Report, score: str) -> tuple[bool, str]:
    """Whether two reports differ in a score, and how that is known.

    By the paired test where both have replicates, else by whether the intervals overlap.
    """
    a, b = first.scores[score], second.scores[score]
    if a.replicates and b.replicates:
        found = difference(first, second, score)
        return found.decided, f"the paired test gives {p_value(found.p)}"
    overlap = a.overlaps(b)
    return not overlap, "the intervals overlap" if overlap else "the intervals do not overlap"


@dataclass(frozen=True)
class Verdict:
    """What is known of a report beside the one that was picked as the best."""

    apart: bool
    how: str
    worse: str  # by how much, where that is tested


def beside_best(best: Report, others: Sequence[Report], score: str) -> dict[str, Verdict]:
    """Of each of the others, by name, whether it is worse than the best of all.

    Which is the best was found by looking at all of them, and that is to test every pair: p-values are
    Holm's of all pairs. Where one has no replicates, intervals that do not overlap are apart.
    """
    pairs = differences([best, *others], score)
    found = {pair.names: p for pair, p in zip(pairs, holm([pair.p for pair in pairs]), strict=True)}
    among = f" among {len(pairs)} pairs" if len(pairs) > 1 else ""
    verdicts = {}
    for other in others:
        if (p := found.get((best.name, other.name))) is None:
            far, how = apart(other, best, score)
            verdicts[other.name] = Verdict(far, how, f": {how}")
            continue
        sides = (other, best) if best.scores[score].better == "lower" else (best, other)
        told = f"{replace(difference(*sides, score), p=p)}{among}"
        verdicts[other.name] = Verdict(p < LEVEL, f"the paired test gives {p_value(p)}{among}", f" by {told}")
    return verdicts


def holm(ps: Sequence[float]) -> list[float]:
    """p-values of which one under LEVEL is by chance in as few families of tests (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, most = [1.0] * len(ps), 0.0
    for place, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        most = max(most, min(1.0, (len(ps) - place) * ps[i]))
        adjusted[i] = most
    return adjusted


def differences(reports: Sequence[Report], score: str) -> list[Difference]:
    """Of each pair of reports that both have it."""
    having = [r for r in reports if score in r.scores and r.scores[score].replicates]
    return [difference(a, b, score) for a, b in combinations(having, 2)]


def disagreements(reports: Sequence[Report], score: str = "fid") -> list[str]:
    """A sentence for each pair of models that two rulers order differently by this score."""
    rulers: dict[str, dict[str, Report]] = {}
    for report in reports:
        rulers.setdefault(report.ruler.extractor, {})[report.name] = report
    found = []
    for (first, ours), (second, theirs) in combinations(rulers.items(), 2):
        for a, b in combinations([name for name in ours if name in theirs], 2):
            sides = [side[name].scores.get(score) for side in (ours, theirs) for name in (a, b)]
            if not all(estimate and estimate.replicates for estimate in sides):
                continue
            one, other = difference(ours[a], ours[b], score), difference(theirs[a], theirs[b], score)
            if one.winner and other.winner and one.winner != other.winner:
                found.append(
                    f"the rulers disagree about {a} and {b}: by {score} {first} prefers {one.winner} "
                    f"({_sure(one)}), {second} prefers {other.winner} ({_sure(other)})"
                )
    return found


def check_rulers(reports: Sequence[Report]) -> None:
    """Raises NotComparable, naming what differs, where the ruler cards are not all the same."""
    for report in reports[1:]:
        check_cards(reports[0].name, reports[0].ruler, report.name, report.ruler)


def check_cards(name: str, card: RulerCard, other_name: str, other: RulerCard) -> None:
    """Raises NotComparable, naming what differs, where two ruler cards are not the same."""
    if different := card.differences(other):
        raise NotComparable(
            f"{name} and {other_name} were measured with different rulers: {'; '.join(different)}",
            "evaluate both with the same data, n, seed, ruler and version",
        )


def p_value(p: float) -> str:
    """As papers print it.

    >>> p_value(0.0312), p_value(1e-7)
    ('p = 0.031', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def _sure(difference: Difference) -> str:
    return p_value(difference.p) + ("" if difference.decided else ", not decided")
