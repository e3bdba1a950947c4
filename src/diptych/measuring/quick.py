"""The small exam of training ticks, in one unit for all families, and how much of it can be afforded."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from torch import Tensor

from diptych.alarms.calibration import LEVEL, Calibration
from diptych.alarms.learning import learned, usual_training
from diptych.alarms.memory import remembered
from diptych.alarms.observer import known_scores, reference_of, rehearsed, statistics, worst_copies
from diptych.alarms.verdict import OK
from diptych.alarms.watchman import Watchman
from diptych.data.images import DataSet
from diptych.errors import WrongUse
from diptych.exam import Exam
from diptych.measuring.evaluation import measured
from diptych.method import Clock, Method
from diptych.model import Model
from diptych.system.parallel import of_first as alike  # what follows from a time, all processes must do

log = logging.getLogger("diptych")

QUICK = ("fid", "kid", "density_coverage")
TERMS = ("n", "every", "seconds", "sheet", "train", "calibration")
Asked = int | Literal["auto"]  # samples scored at ticks; 0: none; "auto": as many as can be afforded
SHEET = 64  # samples that a tick draws for people
SMALLEST, LARGEST = 64, 2048
SHARE = 0.05  # of the expected time of training that all exams and sheets together may take
MARGIN = 0.6  # of that is given out: other exams may take longer than the one that was timed
NUMBERS = "--exam auto, --exam 0 for none, or --exam 500"
SET_UP = 0.4  # of it may be spent once, to learn what is usual for alarms


def check_asked(exam: Asked) -> None:
    """Raises WrongUse where so many samples cannot be scored."""
    if exam != "auto" and exam < 0:
        raise WrongUse(f"an exam cannot look at {exam} samples", NUMBERS)


@dataclass(frozen=True)
class QuickExam:
    """The same held-out images at every exam; their features are computed once."""

    data: DataSet
    size: int | None = None  # how many, 1 or more; None: that is decided before training, see `affordable`
    every: int = 1  # ticks from exam to exam, and from sheet to sheet; the last tick always has both
    seconds: float = 0.0  # that one exam is expected to take; 0: not known
    sheet: float = 0.0  # the same for the 64 samples that a tick draws for people
    seed: int = 0
    extractor: str = "builtin"
    metrics: Sequence[str] = QUICK
    level: float = LEVEL  # the share of healthy exams at which an alarm may ring; 0: no alarms
    train: int = 0  # training images that alarms compare with; 0: none
    calibration: Mapping[str, Any] = field(
        default_factory=dict
    )  # what is usual, as `Calibration.to_json` has it
    _last: dict[str, Exam] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise WrongUse(f"an exam cannot look at {self.size} samples", NUMBERS)

    @classmethod
    def asked(cls, data: DataSet, exam: Asked) -> Self | None:
        """The exam that `--exam` and `exam=` ask for: None for 0. Raises WrongUse for a number below."""
        check_asked(exam)
        if exam == 0:
            return None
        return cls(data, None if exam == "auto" else exam)

    @property
    def n(self) -> int:
        """How many images it looks at, once that is decided."""
        assert self.size is not None, "an exam is settled before anything is examined"
        return self.size

    def __call__(self, model: Model) -> dict[str, float]:
        """Score by name, and what alarms look at; what cannot be measured is left out."""
        exam = self._last["exam"] = self._of(model)
        scores = measured(exam, self.metrics)
        found = {name: estimate.value for name, estimate in scores.items()}
        if "fid" in scores:
            found["fid_error"] = (scores["fid"].high - scores["fid"].low) / 3.92  # of a 95 % interval
        if self.calibration:
            found |= statistics(exam, reference_of(exam, self.train))
        return found

    def judge(self, history: Sequence[Mapping[str, Any]], clock: Clock) -> dict[str, dict[str, Any]]:
        """The verdict of each alarm on the last of these log lines, as plain dicts: see Watchman."""
        if not self.level:
            return {}
        known = Calibration.from_json(self.calibration) if self.calibration else None
        found = Watchman(known, self.level).judge(history, clock)
        return {name: verdict.to_json() for name, verdict in found.items()}

    def memory(self, method: Method, clock: Clock) -> dict[str, float]:
        """Whether the networks tell training images from held-out ones: see alarms/memory.py."""
        if not self.level or not len(self.data.held_out):
            return {}
        return remembered(known_scores(method, self.data, clock, self.n))

    def copies(self, verdicts: Mapping[str, Mapping[str, Any]]) -> Tensor | None:
        """The last exam's 32 worst copies, each with its training image: uint8 (64, C, H, W).

        None where copying is not suspected.
        """
        suspect = verdicts.get("copying", {}).get("state", OK) != OK
        if not suspect or "exam" not in self._last or not self.calibration:
            return None
        exam = self._last["exam"]
        return worst_copies(exam, reference_of(exam, self.train), self.train)

    @property
    def cost(self) -> float:
        """Seconds of a tick that has an exam and a sheet."""
        return self.seconds + self.sheet

    def terms(self) -> dict[str, Any]:
        """What recipe.json remembers."""
        return {key: getattr(self, key) for key in TERMS}

    def settled(self, model: Model, seconds: float, ticks: int, recorded: Mapping[str, Any]) -> QuickExam:
        """This exam with an n: its own, or what was recorded before, or what can be afforded.

        seconds, ticks: of the whole training. Raises WrongUse where the model cannot be examined.
        """
        known = recorded.get("n")
        if self.size is not None:
            exam = replace(self, size=self._of(model).n)
            if known != exam.n or "calibration" not in recorded:
                return exam.calibrated(model, SET_UP * SHARE * seconds if self.seconds else math.inf)
            return replace(exam, **{key: recorded[key] for key in ("train", "calibration")})
        if known:
            terms = {key: recorded[key] for key in TERMS if key in recorded and key != "n"}
            return replace(self, size=known, **terms)
        return self.affordable(model, seconds, ticks).calibrated(model, SET_UP * SHARE * seconds)

    def calibrated(self, model: Model, seconds: float) -> QuickExam:
        """This exam, once it is known what is usual for real images; as it is where that takes too long."""
        train, known = learned(self._of(model), self.level, seconds) if self.level else (0, None)
        return replace(self, train=train, calibration=known.to_json() if known else {})

    def affordable(self, model: Model, seconds: float, ticks: int) -> QuickExam:
        """The largest exam, of 64 to 2,048 images, that with the sheets takes 5 % of these seconds at most.

        Where even the smallest takes more, it is for every k-th tick. Found by doing it: sizes are doubled
        while there is hope, which takes about as long as two of the exams that are chosen.
        """
        start = time.perf_counter()
        model.sample(range(8))
        least = alike(time.perf_counter() - start) * SHEET / 16  # of a sheet: in large batches it is cheaper
        if least > SHARE * seconds:
            hopeless = replace(self, size=self._sizes()[0], seconds=2 * least, sheet=2 * least)
            return hopeless._at_the_end(seconds, ticks)
        allowed = MARGIN * SHARE * seconds / ticks
        trials = self._timed(model)
        best = next(trials)
        if best.cost > SHARE * seconds:
            return best._at_the_end(seconds, ticks)
        if best.cost > allowed:
            return replace(best, every=-(-ticks // max(1, int(allowed * ticks / best.cost))))
        while 1.5 * best.cost <= allowed and (larger := next(trials, None)) is not None:
            if larger.cost > allowed:
                break
            best = larger
        return best

    def _at_the_end(self, seconds: float, ticks: int) -> QuickExam:
        share = 100 * self.cost / max(seconds, 1e-9)
        log.info("samples and an exam of %d take %.0f %% of the training: at its end only", self.n, share)
        return replace(self, every=ticks)

    def _timed(self, model: Model) -> Iterator[QuickExam]:
        """Exams of 64 images and more with the seconds that one takes, and the sheet."""
        sizes = self._sizes()
        real = self.data.train.subset(slice(0, sizes[0]))
        # the first of all exams loads and allocates what later ones find: that one is not timed
        first = Exam(None, self.data, n=sizes[0], extractor=self.extractor, fakes=real, keep=False)
        measured(first, self.metrics)
        sheet = 0.0
        for n in sizes:
            exam = replace(self, size=n)._of(model)
            exam.features("real")  # computed once, whatever the number of exams
            start = time.perf_counter()
            drawn = len(exam.fake)
            sheet = sheet or alike(time.perf_counter() - start) * SHEET / drawn
            measured(exam, self.metrics)
            if self.level and len(self.data.train) >= 2 * n:
                rehearsed(exam, min(len(self.data.train), usual_training(n)))
            yield replace(self, size=n, seconds=alike(time.perf_counter() - start), sheet=sheet)

    def _sizes(self) -> list[int]:
        known = len(self.data.held_out)
        return sorted({min(known, SMALLEST << i) for i in range((LARGEST // SMALLEST).bit_length())})

    def _of(self, model: Model) -> Exam:
        return Exam(model, self.data, n=self.n, seed=self.seed, extractor=self.extractor, keep=False)
