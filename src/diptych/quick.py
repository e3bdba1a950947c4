"""The small exam of every training tick, in one unit for all families."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.data.images import DataSet
from diptych.evaluation import measured
from diptych.exam import Exam
from diptych.model import Model

QUICK = ("fid", "kid", "density_coverage")


class QuickExam:
    """The same n held-out images at every tick; their features are computed once."""

    def __init__(
        self,
        data: DataSet,
        n: int = 512,
        *,
        seed: int = 0,
        extractor: str = "builtin",
        metrics: Sequence[str] = QUICK,
    ) -> None:
        self.data, self.n, self.seed, self.extractor, self.metrics = data, n, seed, extractor, metrics

    def __call__(self, model: Model) -> dict[str, float]:
        """Score by name; what cannot be measured is left out."""
        exam = Exam(model, self.data, n=self.n, seed=self.seed, extractor=self.extractor, keep=False)
        return {name: estimate.value for name, estimate in measured(exam, self.metrics).items()}
