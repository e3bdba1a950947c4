"""What alarms say of a finished run, or of any model beside a data set: by the same rules as in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.alarms import LEVEL
from diptych.data.images import DataSet
from diptych.errors import WrongUse
from diptych.method import Clock
from diptych.quick import QuickExam
from diptych.reference import open_all
from diptych.runs import Run
from diptych.subject import Source

USUAL = 1000  # images of an exam where nobody says how many


@dataclass(frozen=True)
class Judged:
    """The verdict of each alarm, as plain dicts, with what it rests on."""

    verdicts: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, float]
    n: int
    calibrated: bool
    copies: Tensor | None = None  # uint8 (64, C, H, W): the worst, each before its training image; or none

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "n": self.n,
            "calibrated": self.calibrated,
            "scores": dict(self.scores),
            "alarms": {name: dict(verdict) for name, verdict in self.verdicts.items()},
        }


def judge(
    source: Source,
    against: str | Path | DataSet | None = None,
    *,
    n: int = 0,
    level: float = LEVEL,
    device: str = "auto",
) -> Judged:
    """Takes the exam anew with n images (0: 1,000, or as many as there are) and judges it with the run's log.

    Earlier exams count where they had as many images. Raises WrongUse for n below 0 or a level out of range.
    """
    if n < 0:
        raise WrongUse(f"n is {n}", "n is how many images are looked at; 0: 1,000, or as many as there are")
    if not 0 < level < 0.5:
        raise WrongUse(f"a level is between 0 and 0.5, not {level}", "0.05: one healthy exam in twenty")
    (subject,), data = open_all([source], against, device=device)
    if subject.model is None:
        raise WrongUse(f"{subject.name} holds images", "alarms judge a run; diptych evaluate measures images")
    log, recipe = past(source)
    n = n or min(USUAL, len(data.held_out), max(1, len(data.train) // 2))
    exam = QuickExam(data, n, level=level).settled(subject.model, 0.0, 1, recipe.get("exam", {}))
    scores = exam(subject.model)
    line = {**(log[-1] if log else {"images": 0}), "exam": scores, "exam_n": exam.n}
    clock = Clock(line["images"], recipe.get("images", 0), line.get("step", 0))
    verdicts = exam.judge([*log[:-1], line], clock)
    return Judged(verdicts, scores, exam.n, bool(exam.calibration), exam.copies(verdicts))


def past(source: Source) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The log lines of a run and its recipe.json; nothing where it is none."""
    if not isinstance(source, str | Path) or not (Path(source) / "recipe.json").is_file():
        return [], {}
    run = Run(Path(source))
    return run.log(), run.recipe
