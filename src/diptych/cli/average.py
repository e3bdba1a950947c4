"""diptych average RUN: other averages of a training's weights, made after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from diptych.cli.common import METRICS, OUTPUT, RULES, TRADE, Json, answer, say_on_stderr, show, table
from diptych.errors import WrongUse

if TYPE_CHECKING:
    from diptych.training.posthoc import Averaged


def average(
    run: Annotated[Path, Parameter(help="A run that was trained with --averages 8 or more.")],
    *,
    sigma_rel: Annotated[
        float | None, Parameter(help="Deviation of a power profile, as a share of the training: 0.15.")
    ] = None,
    half_life: Annotated[
        str | None, Parameter(help="Images in which half of the past is forgotten: 500k-images.")
    ] = None,
    ramp: Annotated[
        float, Parameter(help="A half-life is at most this share of the images seen so far; 0: no ramp.")
    ] = 0.05,
    sweep: Annotated[
        str | None, Parameter(help="Values of sigma-rel to measure: 0.03:0.25:0.02, or 0.05,0.1,0.15.")
    ] = None,
    images: Annotated[int | None, Parameter(help="The moment in training; else the last stored.")] = None,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="A directory for the model; of a sweep, for the best.")
    ] = None,
    against: Annotated[
        str | None,
        Parameter(
            name=("--against", "--data"), group=RULES, help="A data set. Else the run's held-out data."
        ),
    ] = None,
    split: Annotated[
        Literal["auto", "held_out", "all"], Parameter(group=RULES, help="Which images of it.")
    ] = "auto",
    n: Annotated[int, Parameter(group=RULES, help="Fakes and reals looked at, at most.")] = 2000,
    ruler: Annotated[
        str, Parameter(group=RULES, help="builtin, inception:FILE, dinov2:DIRECTORY, clip:DIRECTORY.")
    ] = "builtin",
    metrics: Annotated[
        list[str] | None,
        Parameter(
            name=METRICS, group=RULES, negative="", help="Only these; repeatable. Else quality and diversity."
        ),
    ] = None,
    seed: Annotated[int, Parameter(group=RULES, help="First sampling seed.")] = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Averages of a training's weights that it did not follow, from those that it stored: post-hoc EMA.

    Karras et al., 2024, arXiv:2312.02696. Either one average, by --sigma-rel or --half-life, written to --out
    as a run directory like any other; or with --sweep the scores of many, with which is best and whether that
    can be told, in RUN/sweeps. How long an average is best differs from method to method.
    """
    from diptych.measuring.profile_sweep import sweep_averages
    from diptych.measuring.sweep import steps_between
    from diptych.training.posthoc import average as averaged

    say_on_stderr()
    if sweep is None:
        if out is None:
            raise WrongUse("there is no place for the averaged model", "name one with --out")
        made = averaged(
            run, sigma_rel=sigma_rel, half_life=half_life, ramp=ramp, images=images, device=device
        )
        finish(made, out, as_json)
        return
    if sigma_rel is not None or half_life is not None:
        raise WrongUse("a sweep is of many values, and one was named too", "leave out one of both")
    found = sweep_averages(
        run,
        steps_between(sweep),
        against,
        images=images,
        split=split,
        n=n,
        rulers=[ruler],
        metrics=metrics or TRADE,
        seed=seed,
        device=device,
    )
    found.save(run / "sweeps")
    if out is not None:
        found.averages[found.best].save(out)
    if as_json:
        show(found.to_json())
        return
    scores = list(found.sweep.reports[0].scores)
    named = [*zip((f"{value:g}" for value in found.sweep.values), found.sweep.reports, strict=True)]
    rows = [
        [name, *(str(report.scores.get(score, "")) for score in scores)]
        for name, report in [*named, ("as trained", found.trained)]
    ]
    table(rows, ["sigma_rel", *scores])
    print(found.verdict)
    print(run / "sweeps" / "sigma_rel.svg")


def finish(made: Averaged, out: Path, as_json: bool) -> None:
    """Writes one average and says what it is."""
    made.save(out)
    moment, residual = made.profile.images, made.mixture.residual
    said = f"{out}: {made.name} after {moment:,.0f} images, missed by {residual:.1%}"
    answer(as_json, {"out": str(out), **made.describe()}, said)
