"""Measuring in Python: runs, models and images against the same images, and the choice among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.arguments import picked, several, single, spelled
from diptych.data.decode import Channels, Fit
from diptych.data.images import DataSet, Images
from diptych.measuring.grading import Grading, grade
from diptych.measuring.reference import Split
from diptych.model import Model
from diptych.scores import Report

if TYPE_CHECKING:
    from diptych.choice import Choice
    from diptych.measuring.judging import Judged
    from diptych.measuring.profile_sweep import ProfileSweep
    from diptych.measuring.sweep import Sweep

Measurable = str | Path | Model | Images | DataSet
# what all measurings are told alike
ALIKE = ("n", "seed", "metrics", "split", "size", "fit", "channels", "price", "floor", "device")


@spelled
def evaluate(
    source: Measurable,
    against: Measurable | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    ruler: str | Sequence[str] = "builtin",
    metrics: Sequence[str] | None = None,
    split: Split = "auto",
    size: int | None = None,
    fit: Fit | None = None,
    channels: Channels | None = None,
    price: float | None = None,
    floor: bool = True,
    device: str = "auto",
    **options: Any,
) -> Report:
    """Measures a run, a saved model, a diffusers pipeline or images, with one ruler: its report.

    All arguments are as in `compare`: `evaluate("runs/b", n=500, steps=8)`.
    """
    how = picked(locals(), ALIKE)
    return compare([source], against, ruler=single(ruler), **how, **options).reports[0]


@spelled
def compare(
    sources: Sequence[Measurable],
    against: Measurable | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    ruler: str | Sequence[str] = "builtin",
    metrics: Sequence[str] | None = None,
    split: Split = "auto",
    size: int | None = None,
    fit: Fit | None = None,
    channels: Channels | None = None,
    price: float | None = None,
    floor: bool = True,
    device: str = "auto",
    **options: Any,
) -> Grading:
    """Measures several sources against the same images: a report for each, and paired tests of each two.

    against: a data set, or another source; without it the held-out images of the data that the runs were
    trained on. n: fakes and reals looked at, at most. seed: the first sampling seed. ruler: "builtin",
    "inception:FILE", "dinov2:DIRECTORY", "clip:DIRECTORY", "diptych-0", or several of them. metrics: only
    these; None: all but the dear ones. split: "held_out", "all", or "auto": held out from a run among the
    sources, else all. size, fit, channels: how images are brought to one shape; None: as the runs recorded
    it. price: of this machine, per hour. floor: measure real images in the fakes' place too. device: "cpu",
    "cuda", "mps", "auto". All other keyword arguments are options of the models (`steps`, `guidance`).
    Raises WrongUse for what cannot be meant, and what opening a source raises.
    """
    how = picked(locals(), ALIKE)
    adjust = (lambda model: (model.using(**options), options)) if options else None
    return grade(sources, against, rulers=several(ruler), adjust=adjust, **how)


@spelled
def sweep_option(
    source: Measurable,
    option: str,
    values: Sequence[float | str],
    *,
    options: Mapping[str, Any] | None = None,
    against: Measurable | None = None,
    n: int = 2000,
    seed: int = 0,
    ruler: str | Sequence[str] = "builtin",
    metrics: Sequence[str] | None = None,
    split: Split = "auto",
    size: int | None = None,
    fit: Fit | None = None,
    channels: Channels | None = None,
    price: float | None = None,
    floor: bool = True,
    device: str = "auto",
) -> Sweep:
    """Measures a model at each value of one of its options: `sweep_option("runs/b", "guidance", [1, 2, 3])`.

    values: 2 to 50, each once. options: others of its options, the same for all values. ruler: one; all
    others are as in `compare`. `.best` says at which value each score is best, `.save(directory)` leaves
    tables and a drawing. Raises WrongUse for an option that the model does not have.
    """
    from diptych.measuring.sweep import sweep

    how = picked(locals(), ALIKE)
    return sweep(source, option, values, options=options, against=against, rulers=[single(ruler)], **how)


@spelled
def sweep_averages(
    run: str | Path,
    values: Sequence[float],
    against: Measurable | None = None,
    *,
    images: float | None = None,
    n: int = 2000,
    seed: int = 0,
    ruler: str | Sequence[str] = "builtin",
    metrics: Sequence[str] | None = None,
    split: Split = "auto",
    size: int | None = None,
    fit: Fit | None = None,
    channels: Channels | None = None,
    price: float | None = None,
    floor: bool = True,
    device: str = "auto",
) -> ProfileSweep:
    """Measures a run with power averages of each sigma_rel: which is best, and whether that can be told.

    values: 2 to 50, of 0.03 to 0.25. images: the moment in training; None: the last that is stored. ruler:
    one; all others are as in `compare`. Raises RunError where the run has stored no averages (`averages=16`).
    """
    from diptych.measuring.profile_sweep import sweep_averages as swept

    how = picked(locals(), ALIKE)
    return swept(run, values, against, images=images, rulers=[single(ruler)], **how)


@spelled
def judge(
    source: Measurable,
    against: str | Path | DataSet | None = None,
    *,
    n: int = 0,
    level: float = 0.05,
    device: str = "auto",
) -> Judged:
    """What alarms say of a run or a saved model: collapse, quality, copying, and what its log tells.

    against: a data set; None: the run's own. n: samples looked at; 0: 1,000, or as many as can be. level: the
    share of healthy exams that may be called beyond chance, between 0 and 0.5. Raises WrongUse for images,
    and for numbers out of range.
    """
    from diptych.measuring.judging import judge as judged

    return judged(source, against, **picked(locals(), ("n", "level", "device")))


@spelled
def choose(
    reports: Iterable[Report],
    *,
    best: str = "fid",
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
) -> Choice:
    """The best report under the constraints, the Pareto set, and the reason for each that was dropped."""
    from diptych.choice import choose as decide

    return decide(list(reports), best=best, at_most=at_most or {}, at_least=at_least or {})
