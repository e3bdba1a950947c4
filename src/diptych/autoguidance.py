"""A model led away from a weaker version of itself (Karras et al., 2024, arXiv:2406.02507)."""

from __future__ import annotations

from pathlib import Path

from diptych.diffusion.guidance import WeakGuide
from diptych.diffusion.model import DiffusionModel
from diptych.errors import RunError, WrongUse
from diptych.runs import load_model, open_run
from diptych.saveable import rebuilt

LABELS = ("classes", "attributes", "attribute_names")


def autoguided(
    run: str | Path,
    weak: str | Path | None = None,
    *,
    images: int | None = None,
    guidance: float = 2.0,
) -> DiffusionModel:
    """The model of a run with a guide: another run's, or weights kept early in its own training.

    images: of the kept weights, those after so many images; None: the earliest, or of another run the last.
    Raises WrongUse where one of them is no diffusion model, jumps or has a guide already, or where they make
    different images, RunError where no such weights were kept.
    """
    model = diffusion(run)
    if weak is not None:
        weaker = diffusion(weak, images)
    else:
        kept = open_run(run).snapshots
        if not kept:
            raise RunError(f"{run} has kept no early weights", "train with --snapshots 1, or name --weak RUN")
        weaker = open_run(run).model("cpu", min(kept) if images is None else images)  # type: ignore[assignment]
    if weaker.image_shape != model.image_shape:
        raise WrongUse(f"{weak} makes images {weaker.image_shape}, but {run} {model.image_shape}")
    if any(getattr(weaker, name) != getattr(model, name) for name in LABELS):
        raise WrongUse(f"{weak} knows other labels than {run}", "a weaker model is one of the same data")
    guided = rebuilt(model, guide=WeakGuide(weaker.denoiser))
    return guided.using(guidance=guidance)


def diffusion(run: str | Path, images: int | None = None) -> DiffusionModel:
    """The model of a run, or what was kept of it. Raises WrongUse where it cannot be led by another."""
    model = load_model(run, "cpu") if images is None else open_run(run).model("cpu", images)
    if not isinstance(model, DiffusionModel):
        raise WrongUse(f"{run} is a {type(model).__name__}: it has no denoiser", "guidance is for diffusion")
    if model.denoiser.jumps:
        raise WrongUse(f"{run} is a consistency model, which jumps: it cannot be led", "edm or flow can")
    if model.guide is not None:
        raise WrongUse(f"{run} has a guide, which would be lost", "take the run that it was made from")
    return model
