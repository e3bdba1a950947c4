"""diptych tune-steps RUN: noise levels for few steps, found for this model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.common import Json, numbers, say_on_stderr, show, table, with_options


def tune_steps(
    run: Annotated[Path, Parameter(help="A run of a diffusion model.")],
    *,
    out: Annotated[Path, Parameter(help="A directory for the model with its levels.")],
    steps: Annotated[int, Parameter(help="How many.")] = 10,
    seeds: Annotated[str, Parameter(help="What the levels are found on.")] = "0-31",
    others: Annotated[str, Parameter(help="What they are then measured on.")] = "1000-1031",
    fine: Annotated[int, Parameter(help="Steps of the solution that is to be met.")] = 48,
    rounds: Annotated[int, Parameter(help="How often each level is moved to see whether it helps.")] = 3,
    batch: Annotated[int, Parameter(help="Images at once; less where memory is short.")] = 16,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
    **options: Annotated[str, Parameter(help="The model's own options: --sampler dpm++2m, --guidance 2.")],
) -> None:
    """Find the noise levels that bring a few steps nearest to many, for this model and sampler.

    The sampler and all else are the run's own or given as flags: --sampler dpm++2m. What is found is compared
    with the grids karras and trailing on other seeds; the best is written to OUT, a model that samples,
    evaluates and exports like any other. The run itself stays as it is.
    """
    from diptych.diffusion.model import DiffusionModel
    from diptych.diffusion.tuning import tune
    from diptych.errors import WrongUse
    from diptych.runs import load_model, open_run, save_derived, vacant
    from diptych.system.device import keep_buffers

    say_on_stderr()
    keep_buffers()
    vacant(out)
    model, _ = with_options(load_model(run, device), options)
    if not isinstance(model, DiffusionModel):
        raise WrongUse(f"{run} is a {type(model).__name__}: it has no steps", "tune-steps is for diffusion")
    tuned = tune(
        model,
        steps,
        seeds=numbers(seeds),
        others=numbers(others),
        fine=fine,
        rounds=rounds,
        batch=batch,
    )
    found = {"steps": steps, "grid": tuned.best, "sigmas": list(tuned.sigmas)}
    save_derived(tuned.model, open_run(run), out, {"tuned": found})
    gain, doubt = tuned.gain()
    if as_json:
        errors = {name: tuned.mean(name)[0] for name in tuned.errors}
        show({"out": str(out), "best": tuned.best, "sigmas": tuned.sigmas, "errors": errors, "gain": gain})
        return
    rows = [[name, *(f"{value:.4f}" for value in tuned.mean(name))] for name in tuned.errors]
    table(rows, ["grid", "error", "standard error"])
    print("found: " + " ".join(f"{sigma:.4g}" for sigma in tuned.sigmas))
    if tuned.best == "found":
        print(f"kept: found, better than the next by {gain:.4f} (standard error {doubt:.4f})")
    else:
        print(f"kept: {tuned.best}; the found levels are no better")
    print(out)
