"""The best under the constraints, and why not the others. No torch, so that choosing is instant."""

from diptych.choice.choosing import COSTS, LATENCY, check_names, choose, sides
from diptych.choice.outcome import Choice, Limit, bound, plain, said

__all__ = ["COSTS", "LATENCY", "Choice", "Limit", "bound", "check_names", "choose", "plain", "said", "sides"]
