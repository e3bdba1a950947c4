"""The best under the constraints, with the measured reason for every report that was dropped. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from diptych.choice.outcome import Choice, Limit, bound, plain, said
from diptych.errors import WrongUse, did_you_mean
from diptych.measuring.comparison import Verdict, beside_best, check_rulers
from diptych.scores import Better, Report, number

LATENCY = "latency_ms"
COSTS = (LATENCY, "flops", "parameters")  # what breaks a tie: the first that all of the tied have


def choose(
    reports: Sequence[Report],
    *,
    best: str = "fid",
    at_most: Mapping[str, float] = {},
    at_least: Mapping[str, float] = {},
) -> Choice:
    """The report with the best value of `best` among those that keep the constraints.

    Constraints are checked on values; where an interval contains the limit, that is said. Reports that the
    paired test (without replicates: the intervals) cannot tell from the chosen one are tied with it, at a
    level of all pairs together. Raises WrongUse for an unknown score, NotComparable where the ruler cards
    differ.
    """
    constraints = {"at_most": dict(at_most), "at_least": dict(at_least)}
    if not reports:
        return Choice(best, constraints, None, sentence="There is no report to choose from.")
    check_names(sides(reports), best, at_most, at_least)
    check_rulers(reports)
    field = Field(distinct(reports), best, [Limit(*item, 1) for item in at_most.items()])
    field.limits += [Limit(*item, -1) for item in at_least.items()]
    passing = [report for report in field.reports if not field.violations(report)]
    none = Choice(best, constraints, None, pareto=field.pareto(), axes=field.axes(), notes=field.notes())
    if not passing:
        dropped = tuple((report.name, field.why_out(report)) for report in field.reports)
        return replace(none, dropped=dropped, sentence=field.none_passes())
    chosen = min(passing, key=field.rank)
    others = [report for report in passing if report is not chosen]
    verdicts = beside_best(chosen, others, best)
    tied = tuple(report for report in others if not verdicts[report.name].apart)
    kept = {report.name for report in (chosen, *tied)}
    dropped = tuple((r.name, field.why_not(r, chosen, verdicts)) for r in field.reports if r.name not in kept)
    sentence, tie_break = field.sentence(chosen, tied, passing, verdicts)
    return replace(none, chosen=chosen, tied=tied, dropped=dropped, sentence=sentence, tie_break=tie_break)


@dataclass
class Field:
    """Comparable reports with distinct names, the score that decides, and the limits."""

    reports: list[Report]
    best: str
    limits: list[Limit]

    def rank(self, report: Report) -> float:
        """Smaller is better; missing and NaN come last."""
        estimate = report.scores.get(self.best)
        if estimate is None or math.isnan(estimate.value):
            return math.inf
        return estimate.value if estimate.better == "lower" else -estimate.value

    def violations(self, report: Report) -> list[str]:
        """Why it cannot be taken, whatever the others are."""
        broken = [limit.broken(report) for limit in self.limits if limit.excess(report) > 0]
        estimate = report.scores.get(self.best)
        if estimate is None:
            return [f"it has no {self.best}", *broken]
        return [f"its {self.best} is not a number", *broken] if math.isnan(estimate.value) else broken

    def straddles(self, report: Report) -> list[str]:
        """A sentence for each limit that its value keeps and its interval contains."""
        return [
            f"the {said(limit.score, report.scores[limit.score])} of {report.name} keeps the limit of "
            f"{bound(limit.bound)}, but its interval contains it"
            for limit in self.limits
            if limit.excess(report) <= 0 and limit.straddled(report)
        ]

    def why_out(self, report: Report) -> str:
        """The limits that it breaks; one score may lack for several reasons."""
        return "; ".join(dict.fromkeys(self.violations(report)))

    def why_not(self, report: Report, chosen: Report, verdicts: Mapping[str, Verdict]) -> str:
        """The limits that it breaks, or the better one."""
        if broken := self.why_out(report):
            return broken
        ours, theirs = report.scores[self.best], chosen.scores[self.best]
        worse = f"{said(self.best, ours)} is worse than {chosen.name} {plain(theirs)}"
        worse += verdicts[report.name].worse
        return "; ".join([worse, *self.straddles(report)])

    def axes(self) -> tuple[str, ...]:
        """What the front is of: `best` and latency_ms; where these are one or not two, every common score."""
        common = set.intersection(*(set(report.scores) for report in self.reports))
        if self.best != LATENCY and any(LATENCY in report.scores for report in self.reports):
            axes = [self.best, LATENCY]
        else:
            axes = [name for name in self.reports[0].scores if name in common or name == self.best]
        return tuple(name for name in axes if direction(self.reports, name) != "neither")

    def pareto(self) -> tuple[str, ...]:
        """Names on the front of the axes."""
        axes = self.axes()
        placed = {r.name: place for r in self.reports if (place := coordinates(r, axes)) is not None}
        return tuple(
            name for name, place in placed.items() if not any(dominates(p, place) for p in placed.values())
        )

    def none_passes(self) -> str:
        """Which constraint excludes the nearest one, and by how much."""
        wanted = " and ".join(map(str, self.limits))
        nearest = min(
            self.reports, key=lambda r: max((limit.excess(r) for limit in self.limits), default=math.inf)
        )
        gaps = [self.gap(limit, nearest) for limit in self.limits if 0 < limit.excess(nearest) < math.inf]
        if not gaps:
            missing = "; ".join(f"{report.name}: {self.why_out(report)}" for report in self.reports)
            return f"None of {len(self.reports)} can be taken: {missing}."
        only = len(self.reports) == 1
        start = f"{nearest.name} does not keep" if only else f"None of {len(self.reports)} keeps"
        return f"{start} {wanted}.{'' if only else f' The nearest is {nearest.name}:'} {'; '.join(gaps)}."

    def gap(self, limit: Limit, report: Report) -> str:
        """A broken limit, and by how much."""
        distance = abs(report.scores[limit.score].value - limit.bound)
        share = f" ({100 * distance / abs(limit.bound):.0f} %)" if limit.bound else ""
        return limit.broken(report, f" by {number(distance)}{share}")

    def sentence(
        self,
        chosen: Report,
        tied: Sequence[Report],
        passing: Sequence[Report],
        verdicts: Mapping[str, Verdict],
    ) -> tuple[str, str]:
        """The sentence for people, and the name that the tie-break gives."""
        mine = chosen.scores[self.best]
        wanted = " and ".join(map(str, self.limits))
        among = f" of the {len(passing)} that keep {wanted}" if wanted else f" of {len(passing)}"
        if len(passing) == 1:
            only = f"the only one of {len(self.reports)}" + (f" that keeps {wanted}" if wanted else "")
            text, tie_break = f"{chosen.name} is {only}; its {self.best} is {plain(mine)}", ""
        elif tied:
            near = min(tied, key=self.rank)
            listed = f"{near.name} ({plain(near.scores[self.best])}; {verdicts[near.name].how})"
            if len(tied) > 1:
                listed = f"{len(tied)} others, of which the nearest is {listed}"
            advice, tie_break = self.tie_break(chosen, tied)
            text = (
                f"{chosen.name} has the best {said(self.best, mine)}{among}, but it is not decidable at this "
            )
            text += f"n ({mine.n:,}) whether it is better than {listed}. {advice}"
        else:
            second = min((report for report in passing if report is not chosen), key=self.rank)
            text = f"{chosen.name} has the best {said(self.best, mine)}{among}; the next, {second.name}, has "
            text += f"{plain(second.scores[self.best])}, and {verdicts[second.name].how}"
            tie_break = ""
        caveats = [f"mind that {caveat}" for caveat in self.straddles(chosen)]
        return "; ".join([text, *caveats]) + ".", tie_break

    def tie_break(self, chosen: Report, tied: Sequence[Report]) -> tuple[str, str]:
        """Which of the tied is measurably faster or cheaper: a practical matter, and said to be one."""
        cost = next((name for name in COSTS if all(name in r.scores for r in (chosen, *tied))), None)
        if cost is None or cost == self.best:
            return "No cost was measured that could break the tie", ""
        word = "faster" if cost == LATENCY else "cheaper"
        cheapest = min((chosen, *tied), key=lambda report: report.scores[cost].value)
        mine, theirs = chosen.scores[cost], cheapest.scores[cost]
        mark = f"As a tie-break only, and no finding about {self.best}:"
        if theirs.beats(mine):
            found = f"{mark} {cheapest.name} is {word}, {said(cost, theirs)} against {plain(mine)}"
            return found, cheapest.name
        if all(mine.beats(report.scores[cost]) for report in tied):
            return f"{mark} it is also the {word} one, {said(cost, mine)}", chosen.name
        return f"Nor does {cost} break the tie: none of them is measurably {word} than it", ""

    def notes(self) -> tuple[str, ...]:
        """What a reader must know about the comparison."""
        first = self.reports[0].machine
        names = {key for report in self.reports for key in report.machine}
        keys = sorted(k for k in names if any(first.get(k) != r.machine.get(k) for r in self.reports))
        return (f"not all were measured on the same machine: {', '.join(keys)} differ",) if keys else ()


def check_names(
    known: Mapping[str, Better], best: str, at_most: Mapping[str, float], at_least: Mapping[str, float]
) -> None:
    """Raises WrongUse for an unknown score, one without a better side, or limits that cannot be meant.

    known: the scores that there are, and which side of each is better.
    """
    for name in (best, *at_most, *at_least):
        if name not in known:
            raise WrongUse(f"there is no score called {name}", did_you_mean(name, list(known)))
    if known[best] == "neither":
        raise WrongUse(f"{best} has no better side: it cannot be what decides")
    for name, limit in (*at_most.items(), *at_least.items()):
        if math.isnan(limit):
            raise WrongUse(f"the limit of {name} is not a number")
        if at_least.get(name, -math.inf) > at_most.get(name, math.inf):
            raise WrongUse(f"{name} cannot be at least {at_least[name]:g} and at most {at_most[name]:g}")


def sides(reports: Sequence[Report]) -> dict[str, Better]:
    """Every score that one of these reports has, and which side of it is better."""
    return {name: e.better for report in reversed(reports) for name, e in report.scores.items()}


def distinct(reports: Sequence[Report]) -> list[Report]:
    """The reports, with the run (or the place in the list) added to names that occur twice."""
    by_name = Counter(report.name for report in reports)
    named = [replace(r, name=f"{r.name} ({r.run})") if by_name[r.name] > 1 and r.run else r for r in reports]
    again = Counter(report.name for report in named)
    return [
        replace(report, name=f"{report.name} #{place}") if again[report.name] > 1 else report
        for place, report in enumerate(named, 1)
    ]


def direction(reports: Sequence[Report], name: str) -> Better:
    """Which side of a score is better, as its estimates say."""
    return next(report.scores[name].better for report in reports if name in report.scores)


def coordinates(report: Report, axes: Sequence[str]) -> tuple[float, ...] | None:
    """Its values, turned so that smaller is better; None where one is missing."""
    estimates = [report.scores[name] for name in axes if name in report.scores]
    values = tuple(e.value if e.better == "lower" else -e.value for e in estimates)
    return values if len(values) == len(axes) and not any(map(math.isnan, values)) else None


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
