"""What a model costs however fast the machine: parameters, and FLOPs an image."""

from __future__ import annotations

from collections.abc import Mapping

from diptych.exam import Exam
from diptych.metric import metric
from diptych.model import Model
from diptych.scores import Estimate
from diptych.system.flops import FlopCounter


@metric({"parameters": "lower", "flops": "lower"}, cost=True)
def cost(exam: Exam) -> Mapping[str, Estimate]:
    """Parameters, each counted once, and FLOPs to sample one image (a multiply-add is two)."""
    model = exam.asked("parameters and FLOPs")
    note = "exact; matrix products, convolutions and attention"
    return {
        "parameters": Estimate.exact(sum(p.numel() for p in model.parameters()), "lower"),
        "flops": Estimate.exact(flops_per_image(model), "lower", "FLOP", note),
    }


def flops_per_image(model: Model) -> float:
    """FLOPs of sampling one image, counted on a batch of two."""
    with FlopCounter() as counter:
        model.sample(range(2), batch=2)
    return float(counter.flops) / 2
