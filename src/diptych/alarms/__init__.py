"""Alarms with a known rate of false positives, the same for every family.

statistics: what an exam's samples are compared by; calibration, draws, learning: what real images score;
memory: what networks know by heart; progress: log lines alone; watchman: the verdicts.
"""

from diptych.alarms.calibration import LEVEL, Calibration, calibrate
from diptych.alarms.verdict import Verdict
from diptych.alarms.watchman import Watchman

__all__ = ["LEVEL", "Calibration", "Verdict", "Watchman", "calibrate"]
