"""diptych alarms RUN: does this model collapse, copy, or know its training images by heart?"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diptych.cli.common import OUTPUT, RULES, Json, say_on_stderr, show, table
from diptych.cli.sample import SHEETS
from diptych.errors import NotMeasurable, WrongUse

if TYPE_CHECKING:
    from diptych.measuring.judging import Judged

RINGS = 3  # exit code: neither an error nor wrong use


def alarms(
    run: Annotated[Path, Parameter(help="A run, finished or not, or a saved model.")],
    *,
    against: Annotated[
        str | None, Parameter(name=("--against", "--data"), group=RULES, help="Else the run's own data.")
    ] = None,
    n: Annotated[int, Parameter(group=RULES, help="Samples looked at; 0: 1,000, or as many as can be.")] = 0,
    level: Annotated[
        float, Parameter(group=RULES, help="The share of healthy exams that may be called beyond chance.")
    ] = 0.05,
    copies: Annotated[
        Path | None, Parameter(group=OUTPUT, help="A picture of the worst copies, where there are any.")
    ] = None,
    fail: Annotated[
        bool,
        Parameter(
            group=OUTPUT,
            negative="",
            help="For pipelines: exit code 3 where an alarm rings, 1 where too little could be judged.",
        ),
    ] = False,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """What alarms say of a run: collapse, quality, copying, and what its log tells.

    The exam is taken anew with n samples. Real images of the same data in the samples' place say what is
    usual, so that the rate of false positives is known. An alarm is beyond chance, and much beside what the
    run had reached, or beside half of what real images reach.
    """
    from diptych import pictures
    from diptych.alarms.verdict import ALARM
    from diptych.measuring.judging import EXAMINED, judge

    say_on_stderr()
    if copies is not None:
        check_place(copies)
    found = judge(run, against, n=n, level=level, device=device)
    if copies is not None and found.copies is not None:
        pictures.save(pictures.sheet(found.copies, 8), copies)
    elif copies is not None:
        copying = found.verdicts.get("copying", {}).get("state", "not judged")
        logging.getLogger("diptych").warning("copying is %s: %s is not written", copying, copies)
    if as_json:
        show(found.to_json())
    else:
        say(found, level)
    if fail and any(verdict["state"] == ALARM for verdict in found.verdicts.values()):
        sys.exit(RINGS)
    if fail and not found.calibrated:
        raise NotMeasurable(
            f"{', '.join(EXAMINED)} could not be judged: {found.not_judged[EXAMINED[0]]}",
            "name a data set with --against that has more images, or another --n",
        )


def check_place(copies: Path) -> None:
    """Raises WrongUse where no picture can be written: before samples are judged for it."""
    if copies.suffix.lower() not in ("", *SHEETS) or copies.is_dir():
        raise WrongUse(f"--copies {copies} is no picture", f"its suffix is {', '.join(SHEETS)}")
    if not copies.parent.is_dir() or not os.access(copies.parent, os.W_OK):
        what = "cannot be written to" if copies.parent.is_dir() else "is no folder"
        raise WrongUse(f"--copies {copies}: {copies.parent} {what}", "make it first, or choose another place")


def say(found: Judged, level: float) -> None:
    """A row for each alarm, and at what level they are judged."""
    rows = [
        [name, v["state"], f"{v['value']:.2f}", f"{v['limit']:.2f}", v["sentence"]]
        for name, v in found.verdicts.items()
    ]
    rows += [[name, "not judged", "", "", why] for name, why in found.not_judged.items()]
    table(rows, ["alarm", "state", "deviation", "limit", "what was seen"])
    if found.calibrated:
        print(f"n = {found.n:,}; each alarm: of healthy models {level:.0%} are beyond chance")
    else:
        print(f"n = {found.n:,}; judged by what the log tells")
