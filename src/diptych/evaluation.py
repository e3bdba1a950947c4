"""Metrics put to use: one model or set of images measured whole, as a report with its floor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from diptych.data.images import DataSet, Images
from diptych.errors import NotMeasurable, WrongUse, did_you_mean
from diptych.exam import Exam, Metric
from diptych.machine import machine
from diptych.model import Model
from diptych.scores import Estimate, Report

log = logging.getLogger("diptych")


def evaluate(
    subject: Model | Images,
    data: DataSet,
    *,
    name: str,
    recipe: str,
    options: Mapping[str, Any] | None = None,
    n: int = 2000,
    seed: int = 0,
    extractor: str = "builtin",
    metrics: Sequence[str] | None = None,
    floor: bool | Mapping[str, Estimate] = True,
    run: str = "",
    training: Mapping[str, Any] | None = None,
    price: float | None = None,
) -> Report:
    """A model at one setting, or images, measured against held-out images.

    Metrics that are named must succeed (NotMeasurable otherwise); of all, those that cannot be had are
    logged and left out. A floor that was measured before (`floor_of`) can be handed in.
    """
    model, fakes = (None, subject) if isinstance(subject, Images) else (subject, None)
    exam = Exam(model, data, n=n, seed=seed, extractor=extractor, fakes=fakes, price=price)
    if exam.n < n:
        log.info("%s images were asked for; %s are there and are looked at", f"{n:,}", f"{exam.n:,}")
    if options is None:
        options = asdict(model.options) if model is not None and is_dataclass(model.options) else {}  # type: ignore[arg-type]
    if isinstance(floor, bool):
        floor = floor_of(data, n=exam.n, seed=seed, extractor=extractor, metrics=metrics) if floor else {}
    return Report(
        name=name,
        recipe=recipe,
        options=options,
        scores=measured(exam, metrics, strict=metrics is not None),
        floor=floor,
        ruler=exam.card,
        machine=machine(exam.device),
        training=training or {},
        run=run,
    )


def measured(
    exam: Exam, metrics: Sequence[str] | None = None, *, strict: bool = False
) -> dict[str, Estimate]:
    """Scores of these metrics (None: of all). What is not measurable raises if `strict`, else is logged."""
    scores: dict[str, Estimate] = {}
    for each in metrics_named(metrics):
        try:
            scores |= each(exam)
        except NotMeasurable as error:
            if strict:
                raise
            # what cannot be had of all is said once, quietly; real images in a model's place have no latency
            log.log(
                logging.DEBUG if exam.model is None else logging.WARNING, "%s: %s", each.name, error.message
            )
    return scores


def metrics_named(names: Sequence[str] | None) -> list[Metric]:
    """These metrics, or all but the dear ones. Raises WrongUse with the nearest name where there is none."""
    from diptych.catalog import metrics  # the catalog lists the metrics by importing each

    known = metrics()
    for name in names or ():
        if name not in known:
            raise WrongUse(f"there is no metric called {name}", did_you_mean(name, list(known)))
    if names is None:
        return [each for each in known.values() if not each.asked_only]
    return [known[name] for name in names]


def floor_of(
    data: DataSet,
    *,
    n: int = 2000,
    seed: int = 0,
    extractor: str = "builtin",
    metrics: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """What real training images score in the fakes' place: no model can be expected to do better.

    Nothing where no training images are known.
    """
    if not len(data.train):
        return {}
    return measured(Exam(None, data, n=n, seed=seed, extractor=extractor).against_real(), metrics)
