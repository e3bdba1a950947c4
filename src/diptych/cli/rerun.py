"""diptych rerun RUN: repeats a run from what it recorded, and says whether the repetition agrees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diptych.cli.common import OUTPUT, Json, say_on_stderr, show, together
from diptych.cli.watch import watching

if TYPE_CHECKING:
    from diptych.training.agreement import Agreement


def rerun(
    run: Annotated[Path, Parameter(help="A run directory, or a duel's: all its contenders then.")],
    *,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Where the repetition goes; by default RUN-again.")
    ] = None,
    data: Annotated[
        str, Parameter(help="Where the data lies now, if elsewhere; its hash must be the same.")
    ] = "",
    device: Annotated[str, Parameter(help="Another device than then: auto, cpu, cuda or mps.")] = "",
    loosely: Annotated[
        bool, Parameter(negative="", help="Agreement of scores will do: another machine, other versions.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Repeat a run from what it recorded, and say whether it agrees: bit for bit or, if not, by how much.

    Data and the weights that it began from are verified first. Exit code 0 where it agrees, 1 where not.
    Where the weights differ, both models are measured, and --loosely takes intervals that overlap for
    agreement. A duel's contenders are trained again, not measured again.
    """
    from diptych.api.trainings import repetitions
    from diptych.training.rerun import rerun as repeated

    say_on_stderr()
    with together() as rank:
        found: list[Agreement] = []
        for one, again in repetitions(run, out):
            with watching(rank) as watch:
                found.append(repeated(one, again, source=data, device=device, watch=watch(one.path.name)))
    if rank == 0:
        trees = [agreement.to_json() for agreement in found]
        if as_json:
            show(trees[0] if len(trees) == 1 and found[0].run == str(run) else trees)
        else:
            print("\n\n".join(told(agreement) for agreement in found))
    if not all(agreement.close if loosely else agreement.exact for agreement in found):
        sys.exit(1)


def told(found: Agreement) -> str:
    """An agreement in lines."""
    sheets = f"{found.sheets or 'no'} sheet{'' if found.sheets == 1 else 's'} of samples"
    if found.exact:
        what = f"weights, {found.lines} lines of the log, {sheets}"
        lines = [f"{found.again} is {found.run} again, bit for bit: {what}"]
    else:
        alike = f"the same, {sheets}" if found.sheets else "none that both have"
        lines = [
            f"{found.again} is not {found.run} bit for bit",
            f"  weights  {found.weights or 'the same'}",
            f"  log      {found.log or 'the same'}",
            f"  samples  {found.samples or alike}",
        ]
    if found.scores:
        lines.append(
            "  scores   " + (f"apart: {', '.join(found.apart)}" if found.apart else "intervals overlap")
        )
    lines += [f"    {name}: {then} then, {now} now" for name, (then, now) in found.scores.items()]
    if found.circumstances:
        lines += ["  what was otherwise", *(f"    {line}" for line in found.circumstances)]
    return "\n".join(lines)
