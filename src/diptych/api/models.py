"""Models in Python: opened, averaged, guided, tuned, exported, converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.arguments import picked, spelled
from diptych.errors import WrongUse
from diptych.model import Model
from diptych.runs import Run, load_model
from diptych.system.files import expanded

if TYPE_CHECKING:
    from diptych.convert.official import Converted
    from diptych.diffusion.model import DiffusionModel
    from diptych.diffusion.tuning import Tuned
    from diptych.exporter import Exported
    from diptych.training.posthoc import Averaged

Loadable = str | Path | Model


@spelled
def load(run: str | Path, device: str = "auto") -> Model:
    """The model of a run directory, ready to sample: `load("runs/a").using(steps=4).sample(range(64))`."""
    return load_model(run, device)


def loaded(model: Loadable, device: str = "auto") -> Model:
    """The model itself, or that of a run."""
    return model if isinstance(model, Model) else load_model(model, device)


@spelled
def average(
    run: str | Path,
    *,
    sigma_rel: float | None = None,
    half_life: float | str | None = None,
    ramp: float = 0.05,
    images: float | None = None,
    device: str = "auto",
) -> Averaged:
    """Another average of a run's weights than it was trained with: `average("runs/a", sigma_rel=0.15).model`.

    Either `sigma_rel`, the deviation of a power profile as a share of the training, 0.03 to 0.25; or
    `half_life`, in images or as "500k-images", which on a `ramp` is at most that share of the images seen so
    far. images: the moment in training; None: the last that is stored. `.save(out)` leaves a run directory.
    Raises RunError where nothing was stored (`train(..., averages=16)` does), WrongUse for a profile that
    cannot be made.
    """
    from diptych.training.posthoc import average as averaged

    return averaged(run, **picked(locals(), ("sigma_rel", "half_life", "ramp", "images", "device")))


@spelled
def guide(
    run: str | Path,
    weak: str | Path | None = None,
    *,
    images: int | None = None,
    guidance: float = 2.0,
) -> DiffusionModel:
    """A diffusion run's model, led away from a weaker one: a smaller run, or weights kept early in its own.

    images: the kept weights after so many images; None: the earliest, or of another run the last. guidance:
    how far away; 1 is not at all. Raises WrongUse for models that cannot be led, RunError where nothing was
    kept.
    """
    from diptych.autoguidance import autoguided

    return autoguided(run, weak, **picked(locals(), ("images", "guidance")))


@spelled
def tune_steps(
    model: Loadable,
    steps: int = 10,
    *,
    seeds: Sequence[int] = range(32),
    others: Sequence[int] = range(1000, 1032),
    fine: int = 48,
    rounds: int = 3,
    batch: int = 16,
    device: str = "auto",
) -> Tuned:
    """Noise levels that bring so many steps nearest to many: `tune_steps("runs/b", 8).model`.

    seeds: what the levels are found on; others: what they are then measured on, two or more of each. fine:
    steps of the solution that is to be met. rounds: how often each level is moved to see whether it helps.
    batch: images at once. Raises WrongUse for a model that takes no steps, or whose sampler draws noise.
    """
    from diptych.diffusion.model import DiffusionModel
    from diptych.diffusion.tuning import tune

    found = loaded(model, device)
    if not isinstance(found, DiffusionModel):
        raise WrongUse(f"a {type(found).__name__} has no steps", "tune_steps is for diffusion")
    return tune(found, steps, seeds=seeds, others=others, fine=fine, rounds=rounds, batch=batch)


@spelled
def export(model: Loadable, out: str | Path, **options: Any) -> Exported:
    """Writes a model, or a run's, as one ONNX file and checks it.

    Of a run the file knows what its classes are called. Keyword arguments are the model's options.
    Raises WrongUse where the extra `export` is not installed, RunError where the check fails.
    """
    from diptych.exporter import export as exported

    names = () if isinstance(model, Model) else class_names(model)
    return exported(loaded(model, "cpu").using(**options), expanded(out), class_names=names)


@spelled
def convert_pickle(network: str | Path, out: str | Path | None = None, *, force: bool = False) -> Converted:
    """Official weights of StyleGAN2-ADA, StyleGAN3 or R3GAN, of which nothing is run: `.model` samples.

    out: a directory for the model, which a training can begin from (`init=out`); None: nothing is written.
    force: write over weights that were converted before. The weights keep their licence. Raises DiptychError
    for a file that asks for more than weights, or is of no family that is known.
    """
    from diptych.convert.official import convert, save

    found = convert(expanded(network))
    if out is not None:
        save(found, expanded(out), force=force)
    return found


@spelled
def class_names(run: str | Path) -> tuple[str, ...]:
    """What a run's labels 0, 1, 2 ... are called, as its recipe.json has it; () where that does not say."""
    found = Run(Path(run))
    if not (found.path / "recipe.json").is_file():
        return ()
    counts = found.recipe.get("data", {}).get("class_counts", {})
    return tuple(counts) if isinstance(counts, Mapping) else ()
