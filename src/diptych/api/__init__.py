"""The verbs of the command line, in Python, with names and paths where objects are expected.

What is not an argument of a verb is refused with the nearest name; numbers of numpy, paths and devices are
taken as plain ones.
"""

from diptych.api.latents import invert, mix
from diptych.api.measures import choose, compare, evaluate, judge, sweep_averages, sweep_option
from diptych.api.models import average, class_names, convert_pickle, export, guide, load, tune_steps
from diptych.api.trainings import duel, rerun, train

__all__ = [
    "average",
    "choose",
    "class_names",
    "compare",
    "convert_pickle",
    "duel",
    "evaluate",
    "export",
    "guide",
    "invert",
    "judge",
    "load",
    "mix",
    "rerun",
    "sweep_averages",
    "sweep_option",
    "train",
    "tune_steps",
]
