"""diptych choose RUN ...: the best of measured runs under constraints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.common import RULES, AtLeast, AtMost, Json, pairs, show
from diptych.cli.reports import reports_in


def choose(
    runs: Annotated[list[Path], Parameter(help="Measured runs, duels, or .json files of reports.")],
    /,
    *,
    best: Annotated[
        str, Parameter(group=RULES, help="The score that decides among those that pass.")
    ] = "fid",
    at_most: AtMost = None,
    at_least: AtLeast = None,
    as_json: Json = False,
) -> None:
    """The best of measured runs under constraints, with the measured reason for each that was dropped."""
    from diptych.choice import choose as decide

    choice = decide(reports_in(runs), best=best, at_most=pairs(at_most), at_least=pairs(at_least))
    if as_json:
        show(choice.to_json())
        return
    print(choice.sentence)
    for name, reason in choice.others:
        print(f"  {name}: {reason}")
