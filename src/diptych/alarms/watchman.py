"""The watchman: from the log lines so far and the calibration to a verdict for each alarm.

A pure function of both, so that a training that was interrupted decides as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from diptych.alarms.calibration import LEVEL, Calibration
from diptych.alarms.memory import overfit
from diptych.alarms.progress import Line, divergence, overtraining
from diptych.alarms.statistics import BY_NAME, NEAR_LIMIT, STATISTICS, Statistic
from diptych.alarms.verdict import ALARM, OK, Verdict, state_of
from diptych.method import Clock

HALF = 0.5  # of training, and of what real images reach
YOUNG = 1 / 3  # of training so far: how a model began does not tell whether it still improves


@dataclass(frozen=True)
class Watchman:
    """Judges log lines. Without a calibration, by what log lines alone can tell."""

    calibration: Calibration | None = None
    level: float = LEVEL

    def judge(self, history: Sequence[Line], clock: Clock) -> dict[str, Verdict]:
        """A verdict for each alarm that the last of these log lines has something to say to.

        clock: of that line; its total says how far training is.
        """
        if not history:
            return {}
        found = {"divergence": divergence(history, self.level)}
        if (verdict := overtraining(history, self.level)) is not None:
            found["overtraining"] = verdict
        if (verdict := overfit(history, self.level)) is not None:
            found["overfit"] = verdict
        if self.calibration is not None:
            for alarm in self.calibration.limits:
                if (verdict := self._examined(alarm, history, clock)) is not None:
                    found[alarm] = verdict
        return found

    def _examined(self, alarm: str, history: Sequence[Line], clock: Clock) -> Verdict | None:
        """The verdict on what the exam measured; None where this line has no exam of this size."""
        calibration = self.calibration
        assert calibration is not None
        names = [s for s in STATISTICS if s.alarm == alarm and s.name in calibration.usual]
        exams = [line for line in history if measured(line, names, calibration.n)]
        if not exams or exams[-1] is not history[-1]:
            return None
        now = exams[-1]["exam"]
        off = {s.name: calibration.deviation(s.name, now[s.name]) for s in names}
        worst = max(off, key=lambda name: off[name])
        limit = calibration.limits[alarm]
        beyond = {name for name in off if off[name] > limit}
        why = [reason for s in names if s.name in beyond and (reason := self._material(s, exams, clock))]
        state = state_of(bool(beyond), bool(why))
        sentence = why[0] if state == ALARM else self._beside(worst, now[worst], state == OK)
        return Verdict(alarm, state, round(off[worst], 3), round(limit, 3), calibration.level, sentence)

    def _beside(self, name: str, value: float, chance: bool) -> str:
        assert self.calibration is not None
        usual, statistic = self.calibration.usual[name], BY_NAME[name]
        told = f"{statistic.words} is {value:.3g}; real images have {usual.mean:.3g} ± {usual.spread:.2g}"
        return told if chance else f"{told}, but that is not much"

    def _material(self, statistic: Statistic, exams: Sequence[Line], clock: Clock) -> str:
        """Why a statistic that is beyond chance matters, or nothing."""
        assert self.calibration is not None
        name, usual = statistic.name, self.calibration.usual[statistic.name]
        values = [float(line["exam"][name]) for line in exams]
        *earlier, now = values
        if earlier:
            best = max(earlier) if statistic.higher_is_better else min(earlier)
            much = statistic.lost * (1 if name == "near_training" else max(abs(best), usual.spread))
            lost = statistic.sign * (best - now)
            chance = self.calibration.fall_limit(statistic.alarm, len(earlier))
            then = exams[values.index(best)]
            if lost > much and self.calibration.fall(name, then["exam"], exams[-1]["exam"]) > chance:
                return f"{statistic.words} is {now:.3g}; it was {best:.3g} after {then['images']:,} images"
        looser = self.calibration.looser(name, exams[-1]["exam"])
        limit = self.calibration.limits[statistic.alarm] * usual.spread * looser
        if name == "near_training" and now - limit > NEAR_LIMIT:
            return f"{statistic.words} is {now:.3g}; {usual.mean:.2g} is usual"
        late = clock.progress >= HALF or statistic.alarm == "copying"
        low = statistic.half and now + limit < HALF * usual.mean
        if low and late and not self._better(name, exams, clock):
            return f"{statistic.words} is {now:.3g}, less than half of the {usual.mean:.3g} of real images"
        return ""

    def _better(self, name: str, exams: Sequence[Line], clock: Clock) -> bool:
        """Whether a statistic has risen over the later two thirds of training: by the least-squares line,
        more than its standard error. To be sure is not asked for: this only keeps an alarm from ringing."""
        assert self.calibration is not None
        late = [line for line in exams if line["images"] >= YOUNG * clock.images]
        at = [line["images"] / max(1, clock.images) for line in late]
        values = [BY_NAME[name].sign * float(line["exam"][name]) for line in late]
        middle = fmean(at)
        width = math.sqrt(sum((t - middle) ** 2 for t in at))
        if len(late) < 2 or not width:
            return False
        slope = sum((t - middle) * value for t, value in zip(at, values, strict=True)) / width**2
        spread = self.calibration.usual[name].change / math.sqrt(2)
        return bool(slope * width > spread * self.calibration.looser(name, late[-1]["exam"]))


def measured(line: Line, names: Sequence[Statistic], n: int) -> bool:
    """Whether a line has an exam of so many images with all of these statistics."""
    exam: Mapping[str, float] = line.get("exam", {})
    return line.get("exam_n", n) == n and all(s.name in exam for s in names)
