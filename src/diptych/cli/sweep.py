"""diptych sweep RUN --guidance 1:4:0.5: an option of a model over its values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from cyclopts import Parameter

from diptych.cli.common import (
    METRICS,
    TRADE,
    Json,
    Options,
    kinds,
    say_on_stderr,
    show,
    table,
    together,
    values_of,
)
from diptych.errors import WrongUse


def sweep(
    run: Annotated[str, Parameter(help="A run, a saved model or a diffusers pipeline.")],
    *,
    against: Annotated[str | None, Parameter(help="A data set. Else the held-out data of the run.")] = None,
    split: Annotated[
        Literal["auto", "held_out", "all"],
        Parameter(help="Which images of it. auto: held out where RUN is a run, else all."),
    ] = "auto",
    n: Annotated[int, Parameter(help="Fakes and reals looked at, at most.")] = 2000,
    ruler: Annotated[str, Parameter(help="builtin, inception:FILE, dinov2:DIRECTORY, clip:DIRECTORY.")] = (
        "builtin"
    ),
    metrics: Annotated[
        list[str] | None,
        Parameter(name=METRICS, negative="", help="Only these; repeatable. Else quality and diversity."),
    ] = None,
    seed: Annotated[int, Parameter(help="First sampling seed.")] = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    out: Annotated[Path | None, Parameter(help="A directory; else RUN/sweeps.")] = None,
    as_json: Json = False,
    **options: Options,
) -> None:
    """Measure a model over the values of one of its options, and draw quality against diversity.

    The option that is given as a range, --guidance 1:4:0.5, --steps 5,10,20 or --sampler heun,ddim,dpm++2m,
    is the one that is swept; others (--steps 20) stay as they are. The same seeds and the same real images
    serve every value. Started by torchrun, several processes share the sampling.
    """
    from diptych.measuring.subject import open_subject
    from diptych.measuring.sweep import steps_between
    from diptych.measuring.sweep import sweep as swept
    from diptych.system.device import keep_buffers

    say_on_stderr()
    keep_buffers()
    # options that are lists or sentences themselves
    texts = {"compose", "sigmas", "prompt", "sampler-options", "sampler_options"}
    signs = {"schedule": ","}  # of a range: a schedule's own name may have a colon, flow:3
    ranges = {
        k: text for k, text in options.items() if k not in texts and set(text) & set(signs.get(k, ":,"))
    }
    if len(ranges) != 1:
        raise WrongUse("a sweep is of one option, given as a range", "diptych sweep RUN --guidance 1:4:0.5")
    ((name, text),) = ranges.items()
    with together() as rank:
        subject = open_subject(run, device=device)
        if subject.model is None:
            raise WrongUse(f"{run} is no model: it has no options to sweep")
        option = name.replace("-", "_")
        kind = kinds(subject.model, options.get("sampler", "")).get(option)
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
        values: list[float | str] = [part.strip() for part in text.split(",")]
        if kind is not str and get_origin(kind) is not Literal:
            values = [int(v) if kind is int and v.is_integer() else v for v in steps_between(text)]
        found = swept(
            subject,
            option,
            values,
            options=values_of(subject.model, {k: v for k, v in options.items() if k not in ranges}),
            against=against,
            split=split,
            n=n,
            rulers=[ruler],
            metrics=metrics or TRADE,
            seed=seed,
            device=device,
        )
        if rank:
            return
    place = out or Path(run) / "sweeps"
    found.save(place)
    if as_json:
        show(found.to_json())
        return
    table(found.rows(), [found.option, *map(found.titled, found.scores)])
    print(place / f"{found.stem}.svg")
