"""What alarms say of a finished run, or of any model beside a data set: by the same rules as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.alarms import LEVEL
from diptych.alarms.learning import hindrance
from diptych.alarms.statistics import STATISTICS
from diptych.alarms.verdict import OK
from diptych.data.images import DataSet
from diptych.errors import WrongUse
from diptych.measuring.evaluation import provenance
from diptych.measuring.quick import QuickExam
from diptych.measuring.reference import open_all
from diptych.measuring.subject import Source
from diptych.method import Clock
from diptych.runs import Run
from diptych.system.privacy import cleaned

USUAL = 1000  # images of an exam where nobody says how many
EXAMINED = tuple(dict.fromkeys(each.alarm for each in STATISTICS))  # need to know what is usual
Verdicts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Judged:
    """The verdict of each alarm, as plain dicts, with what it rests on."""

    verdicts: Verdicts
    scores: Mapping[str, float]
    n: int
    calibrated: bool
    copies: Tensor | None = None  # uint8 (64, C, H, W): the worst, each before its training image; or none
    not_judged: Mapping[str, str] = field(default_factory=dict)  # alarm -> why not
    origin: Mapping[str, Any] = field(default_factory=dict)  # what was judged, beside what, and by what

    def to_json(self) -> dict[str, Any]:
        """Plain types, without secrets and home directories."""
        return cleaned(
            {
                **self.origin,
                "n": self.n,
                "calibrated": self.calibrated,
                "scores": dict(self.scores),
                "alarms": {name: dict(verdict) for name, verdict in self.verdicts.items()},
                "not_judged": dict(self.not_judged),
            }
        )


def judge(
    source: Source,
    against: str | Path | DataSet | None = None,
    *,
    n: int = 0,
    level: float = LEVEL,
    device: str = "auto",
) -> Judged:
    """Takes the exam anew with n images (0: 1,000, or as many as there are) and judges it with the run's log.

    Earlier exams count where they had as many images. Of a data set the held-out images are looked at, of a
    run and of a bare model alike: the others are what copies are looked for in. Raises WrongUse for n below 0
    or a level out of range.
    """
    if n < 0:
        raise WrongUse(f"n is {n}", "n is how many images are looked at; 0: 1,000, or as many as there are")
    if not 0 < level < 0.5:
        raise WrongUse(f"a level is between 0 and 0.5, not {level}", "0.05: one healthy exam in twenty")
    (subject,), data = open_all([source], against, split="held_out", device=device)
    if subject.model is None:
        raise WrongUse(f"{subject.name} holds images", "alarms judge a run; diptych evaluate measures images")
    log, recipe = past(source)
    n = n or min(USUAL, len(data.held_out), len(data.train) // 2 or USUAL)
    known = {} if against is not None else calibrated(recipe.get("exam", {}), level)
    exam = QuickExam(data, n, level=level).settled(subject.model, 0.0, 1, known)
    scores = exam(subject.model)
    # what has no log is taken as it is: no training will make it better
    line = {**(log[-1] if log else {"images": 1}), "exam": scores, "exam_n": exam.n}
    clock = Clock(line["images"], recipe.get("images", line["images"]), line.get("step", 0))
    verdicts = exam.judge([*log[:-1], line], clock)
    unknown = not_judged(verdicts, log, hindrance(exam.n, len(data.train)))
    told = {name: verdict for name, verdict in verdicts.items() if name not in unknown}
    origin = {
        "name": subject.name,
        "run": subject.run,
        "recipe": subject.recipe,
        "data": data.card.name,
        "held_out_sha256": data.card.held_out_sha256,
        "provenance": provenance(subject.model),
    }
    return Judged(told, scores, exam.n, bool(exam.calibration), exam.copies(verdicts), unknown, origin)


def calibrated(recorded: Mapping[str, Any], level: float) -> Mapping[str, Any]:
    """What a run recorded of its exams, where they were calibrated, and to this level."""
    return recorded if (recorded.get("calibration") or {}).get("level") == level else {}


def not_judged(verdicts: Verdicts, log: Sequence[Mapping[str, Any]], hindered: str) -> dict[str, str]:
    """Each alarm about which nothing can be said, and why."""
    why = dict.fromkeys(EXAMINED, hindered or "the exam could not measure it")
    why["overfit"] = "the last line of the log does not tell what networks make of held-out images"
    found = {name: reason for name, reason in why.items() if name not in verdicts}
    # a limit of 0 says that there was nothing to compare with
    idle = {n: str(v["sentence"]) for n, v in verdicts.items() if v["state"] == OK and not v["limit"]}
    found |= idle
    alone = "no log tells of its training"
    return found if log else {n: r if n in EXAMINED else alone for n, r in found.items()}


def past(source: Source) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The log lines of a run and its recipe.json; nothing where it is none."""
    if not isinstance(source, str | Path) or not (Path(source) / "recipe.json").is_file():
        return [], {}
    run = Run(Path(source))
    return run.log(), run.recipe
