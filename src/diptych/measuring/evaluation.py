"""Metrics put to use: one model or set of images measured whole, as a report with its floor."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from diptych.data.images import DataSet, Images
from diptych.errors import NotMeasurable, WrongUse, did_you_mean
from diptych.exam import Exam
from diptych.metric import Metric
from diptych.model import Model
from diptych.scores import Estimate, Report
from diptych.system import parallel
from diptych.system.machine import machine
from diptych.system.provenance import command, tensors_sha256, versions

log = logging.getLogger("diptych")

# the first in a table, and what a duel puts side by side: quality, diversity, copying, cost
PANEL = ("fid", "fid_infinity", "kid", "precision_recall", "density_coverage", "vendi", "copying", "cost")


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
    strict: bool | None = None,
) -> Report:
    """A model at one setting, or images, measured against held-out images.

    Metrics that are named must succeed (NotMeasurable otherwise, unless not `strict`); of all, those that
    cannot be had are logged and left out. A floor that was measured before (`floor_of`) can be handed in.
    """
    exam = exam_of(subject, data, n=n, seed=seed, extractor=extractor, price=price)
    if exam.n < n:
        log.info("%s images were asked for; %s are there and are looked at", f"{n:,}", f"{exam.n:,}")
    if isinstance(floor, bool):
        floor = floor_of(data, n=exam.n, seed=seed, extractor=extractor, metrics=metrics) if floor else {}
    strict = metrics is not None if strict is None else strict
    scores = measured(exam, metrics, strict=strict)
    report = report_of(exam, scores, floor, name=name, recipe=recipe, run=run, training=training)
    return report if options is None else replace(report, options=options)


def exam_of(subject: Model | Images, data: DataSet, **settings: Any) -> Exam:
    """The exam of a model, or of images in a model's place."""
    if isinstance(subject, Images):
        return Exam(None, data, fakes=subject, **settings)
    return Exam(subject, data, **settings)


def report_of(
    exam: Exam,
    scores: Mapping[str, Estimate],
    floor: Mapping[str, Estimate],
    *,
    name: str,
    recipe: str,
    run: str = "",
    training: Mapping[str, Any] | None = None,
) -> Report:
    """Scores with all that they were made with."""
    options = None if exam.model is None else exam.model.options
    plain = asdict(options) if is_dataclass(options) else {}  # type: ignore[arg-type]
    return Report(
        name=name,
        recipe=recipe,
        options={k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()},  # as a file has them
        scores=scores,
        floor=floor,
        ruler=exam.card,
        machine=machine(exam.device),
        training=training or {},
        run=run,
        provenance=provenance(exam.model),
    )


def provenance(model: Model | None) -> dict[str, Any]:
    """What a report says of its own origin."""
    found: dict[str, Any] = {"command": command(), "versions": versions()}
    return found if model is None else found | {"weights_sha256": tensors_sha256(model.state_dict())}


def measured(
    exam: Exam, metrics: Sequence[str] | None = None, *, strict: bool = False
) -> dict[str, Estimate]:
    """Scores of these metrics (None: of all). What is not measurable raises if `strict`, else is logged."""
    scores: dict[str, Estimate] = {}
    for each in metrics_named(metrics):
        try:
            scores |= each(exam) if not each.timed or parallel.rank() == 0 else {}
        except NotMeasurable as error:
            if strict:
                raise
            # what cannot be had of all is said once, quietly; real images in a model's place have no latency
            log.log(
                logging.DEBUG if exam.model is None else logging.WARNING, "%s: %s", each.name, error.message
            )
        finally:
            if each.timed:
                parallel.wait()
    return scores


@contextmanager
def warned_once() -> Iterator[None]:
    """Within, a warning in the same words is given once."""
    given: set[str] = set()

    def new(entry: logging.LogRecord) -> bool:
        known = entry.getMessage() in given
        given.add(entry.getMessage())
        return entry.levelno < logging.WARNING or not known

    log.addFilter(new)
    try:
        yield
    finally:
        log.removeFilter(new)


def metrics_named(names: Sequence[str] | None) -> list[Metric]:
    """These metrics, by their own names or their scores', or all but the dear ones.

    Raises WrongUse with the nearest name where there is none.
    """
    from diptych.catalog import metrics  # the catalog lists the metrics by importing each

    known = metrics()
    giving = {score: name for name, each in known.items() for score in each.scores}
    for name in names or ():
        if name not in known and name not in giving:
            raise WrongUse(f"there is no metric called {name}", did_you_mean(name, [*known, *giving]))
    if names is not None:  # once each, where two are scores of one
        return [known[name] for name in dict.fromkeys(giving.get(name, name) for name in names)]
    usual = sorted(known.values(), key=lambda each: (each.cost, *place(each.name)))
    return [each for each in usual if not each.asked_only]


def place(name: str) -> tuple[int, str]:
    """Where a metric stands in a table: as in the panel, then by name."""
    return (PANEL.index(name) if name in PANEL else len(PANEL), name)


def floor_of(
    data: DataSet,
    *,
    n: int = 2000,
    seed: int = 0,
    extractor: str = "builtin",
    metrics: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """What real training images score in the fakes' place: no model can be expected to do better.

    Nothing where fewer training images than n are known: most scores depend on how many images there are.
    """
    if len(data.train) < (looked_at := min(n, len(data.held_out))):
        if len(data.train):
            log.warning("no floor: of %d images, %d training images tell none", looked_at, len(data.train))
        return {}
    floored = [each.name for each in metrics_named(metrics) if each.floored and not each.timed]
    return measured(Exam(None, data, n=n, seed=seed, extractor=extractor).against_real(), floored)
