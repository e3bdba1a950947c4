"""Several models, or sets of images, measured against the same images with the same rulers, and compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diptych.data.decode import Channels, Fit
from diptych.data.images import DataSet
from diptych.errors import WrongUse
from diptych.measuring.comparison import Difference, differences, disagreements
from diptych.measuring.evaluation import exam_of, floor_of, measured, metrics_named, report_of
from diptych.measuring.reference import Split, check_used, open_all
from diptych.measuring.subject import Source, Subject, check_prompts
from diptych.model import Model
from diptych.scores import Report, point_name

log = logging.getLogger("diptych")

Adjust = Callable[[Model], tuple[Model, dict[str, Any]]]
LEADS = ("fid", "kid", "coverage")  # pairs are compared by the first that was measured, or by every score


@dataclass(frozen=True)
class Grading:
    """A report for each subject and ruler, and what the paired tests say about each two."""

    reports: tuple[Report, ...]
    differences: tuple[Difference, ...] = ()  # by the leading score or by all of them, ruler by ruler
    warnings: tuple[str, ...] = ()  # where rulers disagree about an order, and that no pair could be tested

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        return {
            "reports": [report.to_json() for report in self.reports],
            "differences": [difference.to_json() for difference in self.differences],
            "warnings": list(self.warnings),
        }

    @property
    def rulers(self) -> dict[str, list[Report]]:
        """The reports of each ruler."""
        found: dict[str, list[Report]] = {}
        for report in self.reports:
            found.setdefault(report.ruler.extractor, []).append(report)
        return found


def grade(
    sources: Sequence[Source],
    against: Source | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    rulers: Sequence[str] = ("builtin",),
    metrics: Sequence[str] | None = None,
    split: Split = "auto",
    size: int | None = None,
    fit: Fit | None = None,
    channels: Channels | None = None,
    adjust: Adjust | None = None,
    device: str = "auto",
    price: float | None = None,
    floor: bool = True,
) -> Grading:
    """Measures every source (see `diptych.measuring.subject`) against the same images with each ruler.

    adjust: gives a model with other options (steps, guidance), and which; a model that has no such option is
    measured as it is, unless none has. price: of an hour of this machine; models are given what images cost.
    Raises WrongUse where a name, an option or n cannot be meant, and what opening a source raises.
    """
    if not sources:
        raise WrongUse("there is nothing to measure", "name runs, folders, .npz files or pipelines")
    if price is not None and not 0 <= price < math.inf:
        raise WrongUse(f"the price of an hour is {price:g}", "it is 0 or more, as in --price 2.5")
    chosen = metrics_named(metrics)
    priced = [] if price is None else [m for m in metrics_named(["price"]) if m not in chosen]
    check_used(sources, against, split=split, size=size, fit=fit, channels=channels)
    subjects, reference = open_all(
        sources, against, split=split, size=size, fit=fit, channels=channels, n=n, seed=seed, device=device
    )
    points = adjusted(distinct(subjects), adjust)
    for subject, _ in points:
        check_prompts(subject, reference.held_out.captions)
    n = common_n(n, reference, subjects)
    if priced and all(subject.model is None for subject in subjects):
        raise WrongUse("images have no price, and there is no model among these", "leave --price out")
    floors = {
        ruler: floor_of(reference, n=n, seed=seed, extractor=ruler, metrics=metrics) if floor else {}
        for ruler in rulers
    }
    reports = []
    for subject, name in points:
        exam = exam_of(subject.asked, reference, n=n, seed=seed, extractor=rulers[0], price=price)
        panel = chosen if subject.model is None else [*chosen, *priced]
        for i, ruler in enumerate(rulers):
            exam = exam.seen_by(ruler)
            # what a machine does is the same under every ruler
            seen = [m.name for m in panel if not (i and m.timed)]
            scores = measured(exam, seen, strict=metrics is not None)
            reports.append(
                report_of(
                    exam,
                    scores,
                    floors[ruler],
                    name=name,
                    recipe=subject.recipe,
                    run=subject.run,
                    training=subject.training,
                )
            )
    return compared(reports)


def compared(reports: Sequence[Report]) -> Grading:
    """Reports with the paired differences of their leading score, and what the rulers disagree about.

    Where there is no leading score, of every score: none says more than another.
    """
    grading = Grading(tuple(reports))
    every = list(dict.fromkeys(score for report in reports for score in report.scores))
    lead = next((score for score in LEADS if all(score in report.scores for report in reports)), "")
    tested, groups = [lead] if lead else every, grading.rulers.values()
    pairs = [found for group in groups for score in tested for found in differences(group, score)]
    warnings = [said for score in tested for said in disagreements(reports, score)]
    if not pairs and any(len(group) > 1 for group in groups):
        need = "a paired test needs a score of images that both have"
        warnings.append(f"no pair was tested: {need}, not {', '.join(every) or 'nothing'}")
    return replace(grading, differences=tuple(pairs), warnings=tuple(warnings))


def adjusted(subjects: Sequence[Subject], adjust: Adjust | None) -> list[tuple[Subject, str]]:
    """Each subject with other options where it has them, and the name that says so."""
    if adjust is None:
        return [(subject, subject.name) for subject in subjects]
    if all(subject.model is None for subject in subjects):
        raise WrongUse("images have no options, and there is no model among these", "leave the options out")
    points: list[tuple[Subject, str]] = []
    refused: list[WrongUse] = []
    for subject in subjects:
        model, changes = subject.model, dict[str, Any]()
        if model is not None:
            try:
                model, changes = adjust(model)
            except WrongUse as error:
                refused.append(error)
        points.append((replace(subject, model=model), point_name(subject.name, changes)))
    if refused and len(refused) == sum(subject.model is not None for subject in subjects):
        raise refused[0]
    return points


def distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects, numbered where two have the same name."""
    names = [subject.name for subject in subjects]
    return [
        replace(subject, name=f"{subject.name} ({names[: i + 1].count(subject.name)})")
        if names.count(subject.name) > 1
        else subject
        for i, subject in enumerate(subjects)
    ]


def common_n(n: int, reference: DataSet, subjects: Sequence[Subject]) -> int:
    """How many images all can be measured at; said where it is fewer than were asked for."""
    counts = {"the reference": len(reference.held_out)}
    counts |= {subject.name: len(subject.images) for subject in subjects if subject.images is not None}
    fewest = min(counts, key=lambda name: counts[name])
    if counts[fewest] < n:
        log.info("measured at n = %s, as many as %s has", f"{counts[fewest]:,}", fewest)
    return min(n, counts[fewest])
