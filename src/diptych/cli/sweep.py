"""diptych sweep RUN --guidance 1:4:0.5: an option of a model over its values."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal, get_origin, get_type_hints

from cyclopts import Parameter

from diptych.cli.common import Json, Options, say_on_stderr, show, table, values_of
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
    metric: Annotated[
        list[str] | None, Parameter(negative="", help="Only these; repeatable. Else quality and diversity.")
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
    from diptych.system.parallel import joined

    say_on_stderr()
    keep_buffers()
    texts = {"compose", "sigmas", "prompt"}  # options that are lists or sentences themselves
    signs = {"schedule": ","}  # of a range: a schedule's own name may have a colon, flow:3
    ranges = {
        k: text for k, text in options.items() if k not in texts and set(text) & set(signs.get(k, ":,"))
    }
    if len(ranges) != 1:
        raise WrongUse("a sweep is of one option, given as a range", "diptych sweep RUN --guidance 1:4:0.5")
    ((name, text),) = ranges.items()
    with joined() as rank:
        logging.getLogger("diptych").setLevel(logging.ERROR if rank else logging.INFO)
        subject = open_subject(run, device=device)
        if subject.model is None:
            raise WrongUse(f"{run} is no model: it has no options to sweep")
        option = name.replace("-", "_")
        kind = get_type_hints(type(subject.model.options)).get(option)
        words = kind in (str, str | None) or get_origin(kind) is Literal
        found = swept(
            subject,
            option,
            [part.strip() for part in text.split(",")] if words else steps_between(text),
            options=values_of(subject.model, {k: v for k, v in options.items() if k not in ranges}),
            against=against,
            split=split,
            n=n,
            rulers=[ruler],
            metrics=metric or ["fid", "precision_recall", "density_coverage"],
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
