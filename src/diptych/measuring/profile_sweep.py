"""Which average of a training's weights is the best: sigma_rel over its values, measured by one ruler."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.errors import WrongUse
from diptych.measuring.comparison import apart
from diptych.measuring.grading import LEADS, grade
from diptych.measuring.subject import Source, open_subject
from diptych.measuring.sweep import MOST, Sweep, Value, markdown, written
from diptych.runs import open_run
from diptych.scores import Report, number
from diptych.system.files import write_json, write_text
from diptych.training.posthoc import Averaged, Stock, wanted

log = logging.getLogger("diptych")


@dataclass(frozen=True)
class ProfileSweep:
    """Reports of one run with other averages, and of the run as it is."""

    sweep: Sweep  # over sigma_rel
    averages: tuple[Averaged, ...]  # one for each value
    trained: Report  # with the average that the recipe asks for
    score: str  # what the best is chosen by

    @property
    def best(self) -> int:
        """The place of the value that scores best."""
        return self.sweep.values.index(self.sweep.best[self.score])

    @property
    def alike(self) -> list[Value]:
        """Values that a paired test cannot tell from the best, and the best itself."""
        best, reports = self.sweep.reports[self.best], self.sweep.reports
        found = zip(self.sweep.values, reports, strict=True)
        return [value for value, report in found if report is best or not apart(best, report, self.score)[0]]

    @property
    def verdict(self) -> str:
        """Which is best, whether that can be told, and whether it is better than the run as it is."""
        values, best = self.sweep.values, self.sweep.reports[self.best]
        others = [written(value) for value in self.alike if value != values[self.best]]
        first = f"{self.score} is best at sigma_rel {written(values[self.best])}: {best.scores[self.score]}"
        second = (
            f"not told from it by a paired test: {', '.join(others)}" if others else "each other is worse"
        )
        told, how = apart(best, self.trained, self.score)
        gap = self.trained.scores[self.score].value - best.scores[self.score].value
        side = "better" if (gap > 0) == (best.scores[self.score].better == "lower") else "worse"
        third = f"as trained it is {number(self.trained.scores[self.score].value)}: "
        third += f"the best is {side} than that ({how})" if told else f"that is not told from it ({how})"
        return f"{first}\n{second}\n{third}"

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        return self.sweep.to_json() | {
            "trained": self.trained.to_json(),
            "residuals": [average.mixture.residual for average in self.averages],
            "score": self.score,
            "alike": self.alike,
            "verdict": self.verdict,
        }

    def table(self) -> str:
        """Markdown: a row for each value, and one for the run as it is."""
        cells = [number(self.trained.scores[name].value) for name in self.sweep.reports[0].scores]
        return markdown(self.sweep) + f"| as trained | {' | '.join(cells)} |\n\n{self.verdict}\n"

    def save(self, directory: Path) -> None:
        """Leaves sigma_rel.json, sigma_rel.svg and sigma_rel.md."""
        write_json(directory / "sigma_rel.json", self.to_json())
        write_text(directory / "sigma_rel.svg", self.sweep.drawn())
        write_text(directory / "sigma_rel.md", self.table())


def sweep_averages(
    run: str | Path,
    values: Sequence[float],
    against: Source | None = None,
    *,
    images: float | None = None,
    device: str = "auto",
    **settings: Any,
) -> ProfileSweep:
    """Measures a run with power averages of each sigma_rel, and as it is, with the same seeds and images.

    images: the moment; None: the last that is stored. Keyword arguments are those of
    `diptych.measuring.grading.grade` (`n`, `metrics`, `rulers`, `split`). Raises what
    `diptych.training.posthoc.average` raises, and WrongUse for too many values.
    """
    if not 2 <= len(values) <= MOST:
        raise WrongUse(f"a sweep has 2 to {MOST} values, not {len(values)}", "write --sweep 0.03:0.25:0.02")
    stock = Stock(open_run(run), device)
    moment = float(stock.last if images is None else images)
    made = [stock.averaged(*wanted(value, None, 0.0, moment)) for value in values]
    subject = open_subject(run, device=device)
    points = [replace(subject, name=f"{subject.name}, {one.name}", model=one.model) for one in made]
    graded = grade([*points, subject], against, device=device, **settings)
    first = [report for report in graded.reports if report.ruler == graded.reports[0].ruler]
    *reports, trained = first
    found = Sweep("sigma_rel", tuple(values), tuple(reports), subject.name)
    led = [score for score in (*LEADS, *found.best) if score in found.best]
    if not led:
        raise WrongUse("none of these scores has a better side", "--metric fid, say")
    return ProfileSweep(found, tuple(made), trained, led[0])
