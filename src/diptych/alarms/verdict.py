"""What an alarm says: ok, beyond chance, or alarm; with the number, the limit and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from diptych.training.track import ALARM, BEYOND, OK, State

__all__ = ["ALARM", "BEYOND", "OK", "State", "Verdict", "state_of"]


@dataclass(frozen=True)
class Verdict:
    """The state of one alarm at one log line.

    value: by how much it deviates, in the unit of `limit`. false_positives: the share of healthy trainings'
    log lines (exams of real images) at which it says more than "ok"; "alarm" is rarer.
    """

    name: str
    state: State
    value: float
    limit: float
    false_positives: float
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain types, for a log line."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**tree)


def state_of(beyond: bool, material: bool) -> State:
    """An alarm is what is beyond chance and much."""
    return OK if not beyond else ALARM if material else BEYOND
