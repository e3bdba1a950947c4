"""The best under the constraints, and why not the others. No torch, so that choosing is instant."""

from diptych.choice.choosing import COSTS, LATENCY, choose
from diptych.choice.outcome import Choice, Limit, bound, plain, said

__all__ = ["COSTS", "LATENCY", "Choice", "Limit", "bound", "choose", "plain", "said"]
