"""diptych evaluate RUN ...: the ruler on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.common import Json, Options, data_of, say_on_stderr, show, table, with_options


def evaluate(
    runs: Annotated[list[Path], Parameter(help="Run directories.")],
    /,
    *,
    n: Annotated[int, Parameter(help="Fakes and reals looked at, at most.")] = 2000,
    seed: Annotated[int, Parameter(help="First sampling seed.")] = 0,
    metric: Annotated[
        list[str] | None, Parameter(negative="", help="Only these; repeatable. Else all.")
    ] = None,
    data: Annotated[str | None, Parameter(help="Where the run's data is now, if it was moved.")] = None,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
    **options: Options,
) -> None:
    """Measure runs on the held-out images of their data.

    The model's own options are flags: --steps 4, --guidance 2.

    Each score has a 95 % interval; the floor is what real images score in the fakes' place. The report
    is kept in RUN/reports, where `diptych choose` finds it.
    """
    from diptych.contest import point_name, slug
    from diptych.device import keep_buffers
    from diptych.evaluation import evaluate as measure
    from diptych.files import write_json
    from diptych.runs import open_run

    say_on_stderr()
    keep_buffers()
    reports = []
    for path in runs:
        run = open_run(path)
        model, changes = with_options(run.model(device), options)
        name = point_name(path.name, changes)
        report = measure(
            model,
            data_of(path, data),
            name=name,
            recipe=run.recipe["recipe"],
            n=n,
            seed=seed,
            metrics=metric,
            run=str(path),
            training=run.spent,
        )
        write_json(path / "reports" / f"{slug(name)}.json", report.to_json())
        reports.append(report)
    if as_json:
        show([report.to_json() for report in reports])
        return
    scores = list(dict.fromkeys(name for report in reports for name in report.scores))
    rows = [
        [score, *(str(r.scores.get(score, "")) for r in reports), str(reports[0].floor.get(score, ""))]
        for score in scores
    ]
    table(rows, ["score", *(report.name for report in reports), "floor (real images)"])
