"""diptych guide RUN: a model that is led away from a weaker version of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.common import Json, answer


def guide(
    run: Annotated[Path, Parameter(help="A run of a diffusion model.")],
    *,
    out: Annotated[Path, Parameter(help="A directory for the guided model.")],
    weak: Annotated[
        Path | None, Parameter(help="A run of a weaker model; else weights kept early in the same training.")
    ] = None,
    images: Annotated[
        int | None, Parameter(help="The kept weights after so many images; else the earliest.")
    ] = None,
    guidance: Annotated[float, Parameter(help="How far away from the weaker one; 1 is not at all.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Autoguidance: quality without the loss of diversity that guidance by labels costs, labels or not.

    Karras et al., 2024, arXiv:2406.02507. The result is a model like any other: sample, sweep, evaluate,
    export it; --guidance is its option. It works best with a weaker model of the same kind, trained less.
    """
    from diptych.autoguidance import autoguided
    from diptych.runs import open_run, save_derived

    model = autoguided(run, weak, images=images, guidance=guidance)
    away = {"run": str(run if weak is None else weak), "images": images, "guidance": guidance}
    save_derived(model, open_run(run), out, {"guided": away})
    answer(as_json, {"out": str(out), "guidance": guidance}, out)
