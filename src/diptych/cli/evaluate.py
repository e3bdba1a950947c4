"""diptych evaluate A B C --against photos/: the ruler on the command line."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from diptych.cli.common import METRICS, Json, Options, say_on_stderr, show, table, together, with_options
from diptych.errors import RunError, WrongUse, did_you_mean

if TYPE_CHECKING:
    from diptych.measuring.grading import Grading

RULER = Group("Ruler", sort_key=0)
IMAGES = Group("Images", sort_key=1)


def evaluate(
    subjects: Annotated[
        list[str],
        Parameter(help="Runs, saved models, diffusers pipelines; image folders, zips, .npz, .npy."),
    ],
    /,
    *,
    against: Annotated[
        str | None,
        Parameter(group=IMAGES, help="A data set, or another subject. Else the held-out data of the runs."),
    ] = None,
    split: Annotated[
        Literal["auto", "held_out", "all"],
        Parameter(group=IMAGES, help="Which images of it. auto: held out from a run among them, else all."),
    ] = "auto",
    size: Annotated[int | None, Parameter(group=IMAGES, help="Pixels that all are brought to.")] = None,
    fit: Annotated[
        Literal["crop", "pad", "stretch"] | None,
        Parameter(group=IMAGES, help="How an image becomes square. Else as the runs recorded it, or crop."),
    ] = None,
    channels: Annotated[
        Literal[1, 3, 4] | None, Parameter(group=IMAGES, help="1 grey, 3 colour, 4 with alpha.")
    ] = None,
    n: Annotated[int, Parameter(group=RULER, help="Fakes and reals looked at, at most.")] = 2000,
    ruler: Annotated[
        list[str] | None,
        Parameter(
            group=RULER,
            negative="",
            help="builtin, inception:FILE, dinov2:DIRECTORY, clip:DIRECTORY, diptych-0; repeatable.",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        Parameter(
            name=METRICS, group=RULER, negative="", help="Only these; repeatable. Else all but the dear ones."
        ),
    ] = None,
    seed: Annotated[int, Parameter(group=RULER, help="First sampling seed.")] = 0,
    floor: Annotated[
        bool, Parameter(group=RULER, help="Measure real images in the fakes' place too.")
    ] = True,
    price: Annotated[float | None, Parameter(group=RULER, help="Of this machine, per hour.")] = None,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    out: Annotated[Path | None, Parameter(help="A .json file for the reports.")] = None,
    as_json: Json = False,
    **options: Options,
) -> None:
    """Measure runs, models and images against the same images: one table, each score with its interval.

    The floor is what real images score in the fakes' place. Pairs are compared by a paired test. Models'
    own options are flags: --steps 4, --guidance 2. Reports of runs are kept in RUN/reports, where
    `diptych choose` finds them. Started by torchrun, several processes share the sampling.
    """
    from diptych.measuring.grading import grade
    from diptych.system.device import keep_buffers
    from diptych.system.files import write_json

    say_on_stderr()
    if out is not None and out.suffix != ".json":
        raise WrongUse(f"--out {out} is not a .json file")
    check_options(subjects, options)
    keep_buffers()
    with together() as rank:
        grading = grade(
            subjects,
            against,
            n=n,
            seed=seed,
            rulers=ruler or ["builtin"],
            metrics=metrics,
            split=split,
            size=size,
            fit=fit,
            channels=channels,
            adjust=(lambda model: with_options(model, options)) if options else None,
            device=device,
            price=price,
            floor=floor,
        )
        if rank:
            return
    try:
        if out is not None:
            write_json(out, grading.to_json())
        if as_json:
            show(grading.to_json())
        else:
            tell(grading)
    finally:  # what took long to measure is left in one place where another cannot be written to
        keep(grading, "" if against is None and split == "auto" else f"{split}-{against or 'data'}")


def check_options(subjects: Iterable[str], options: Iterable[str]) -> None:
    """Raises WrongUse for options that no flag is called, where there is no model that may have them."""
    from diptych.measuring.subject import recognise

    unknown = next(iter(options), None)
    if unknown is None or any(recognise(subject) != "images" for subject in subjects):
        return
    kinds = inspect.signature(evaluate).parameters.values()
    flags = [p.name.removeprefix("as_").replace("_", "-") for p in kinds if p.kind is p.KEYWORD_ONLY]
    raise WrongUse(
        f"there is no flag --{unknown}, and images have no options of their own",
        did_you_mean(unknown, flags),
    )


def keep(grading: Grading, reference: str) -> None:
    """Leaves reports of runs in their directories.

    Reports of one folder are compared, and a later one of the same name takes the place of an earlier, less
    what that alone has measured of the same: other rulers, and a reference that is not the run's own held-out
    images, have folders of their own. A directory that cannot be written to is said, and is no error.
    """
    from diptych.cli.reports import reports_of
    from diptych.features.extractor import BUILTIN
    from diptych.scores import slug
    from diptych.system.files import expanded, write_json

    for report in grading.reports:
        if report.run:
            ruler = "" if report.ruler.extractor == BUILTIN else report.ruler.extractor
            own = re.sub(r"[^\w.]+", "-", "-".join(filter(None, (ruler, reference)))).strip("-.")
            place = expanded(report.run) / "reports" / own / f"{slug(report.name)}.json"
            with contextlib.suppress(RunError):  # the place of a damaged one is taken whole
                for older in reports_of(place):
                    report = older.renewed(report)
            try:
                write_json(place, report.to_json())
            except (RunError, OSError) as error:
                said = error.message if isinstance(error, RunError) else f"{place}: {error.strerror}"
                logging.getLogger("diptych").warning("the report of %s is not kept: %s", report.name, said)


def tell(grading: Grading) -> None:
    """The tables, the paired differences, the warnings."""
    for name, reports in grading.rulers.items():
        card = reports[0].ruler
        print(f"{name}, n = {card.n:,}, against {card.data}")
        scores = list(dict.fromkeys(score for report in reports for score in report.scores))
        floor, head = reports[0].floor, ["score", *(report.name for report in reports)]
        rows = [[score, *(str(r.scores.get(score, "")) for r in reports)] for score in scores]
        if floor:
            head.append("floor (real images)")
            rows = [[*row, str(floor.get(row[0], ""))] for row in rows]
        table(rows, head)
    if grading.differences:
        rows = [
            [f"{d.score}, {d.ruler}", " - ".join(d.names), str(d), d.winner if d.decided else "not decidable"]
            for d in grading.differences
        ]
        table(rows, ["paired test", "difference", "value [95 %], p", "better"])
    for warning in grading.warnings:
        logging.getLogger("diptych").warning("%s", warning)
