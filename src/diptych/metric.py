"""What a metric is: a function from an exam to named estimates, and what is known of it beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diptych.scores import Better, Estimate

if TYPE_CHECKING:
    from diptych.exam import Exam

Measure = Callable[["Exam"], Mapping[str, Estimate]]


@dataclass(frozen=True)
class Metric:
    """A measure by name. Made by @metric."""

    name: str
    measure: Measure
    scores: Mapping[str, Better]  # what it may give, and which side is better; none: any
    cost: bool = False  # of what sampling takes, not of what images look like: stands last in a table
    asked_only: bool = False  # too dear, or too special, to be measured unless it is named
    timed: bool = False  # measures this machine: one process does it while the others wait
    floored: bool = True  # training images in the fakes' place give a floor

    @property
    def doc(self) -> str:
        """The function's docstring."""
        return self.measure.__doc__ or ""

    def __call__(self, exam: Exam) -> Mapping[str, Estimate]:
        """What it finds. Raises TypeError for a score that was not declared: tables and limits need it."""
        found = self.measure(exam)
        for name, estimate in found.items():
            if self.scores and self.scores.get(name) != estimate.better:
                raise TypeError(f"@metric of {self.name} does not say that {name} is {estimate.better}")
        return found


def metric(
    scores: Mapping[str, Better],
    *,
    cost: bool = False,
    asked_only: bool = False,
    timed: bool = False,
    floored: bool = True,
) -> Callable[[Measure], Metric]:
    """Makes a metric of a function and of what it may give; its name is the function's.

    >>> @metric({"brightness": "neither"})
    ... def brightness(exam: Exam) -> Mapping[str, Estimate]:
    ...     '''The fakes' mean pixel.'''
    """
    return lambda measure: Metric(measure.__name__, measure, scores, cost, asked_only, timed, floored)
