"""Money for 1,000 images, at the price of an hour of this machine and the throughput measured on it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from diptych.errors import NotMeasurable, WrongUse
from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.speed import scores, shared_timings
from diptych.scores import Estimate


@metric({"price_per_1000": "lower"}, cost=True, asked_only=True, timed=True)
def price(exam: Exam) -> Mapping[str, Estimate]:
    """Money for 1,000 images at the best batch, in the currency of the price given for an hour."""
    exam.asked("a price")
    if exam.price is None:
        raise NotMeasurable(
            "the price of this machine is not known", "give what an hour of it costs: --price 2.5"
        )
    check_price(exam.price)
    return price_of_1000(scores(shared_timings(exam))["images_per_s"], exam.price)


def price_of_1000(rate: Estimate, hour: float) -> dict[str, Estimate]:
    """What 1,000 images cost at this rate (images/s) on a machine whose hour costs so much."""

    def at(images_per_s: float) -> float:
        return 1000 / images_per_s * hour / 3600 if images_per_s else math.inf

    note = f"at {hour:g} an hour, in its currency; {rate.note}"
    return {"price_per_1000": Estimate(at(rate.value), at(rate.high), at(rate.low), rate.n, note=note)}


def check_price(hour: float) -> None:
    """Raises WrongUse for a price that nobody pays."""
    if not 0 <= hour < math.inf:
        raise WrongUse(f"the price of an hour is {hour:g}", "it is 0 or more, as in --price 2.5")
