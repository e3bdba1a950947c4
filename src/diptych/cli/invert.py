"""diptych invert RUN IMAGE...: the latents whose images are nearest to given ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from diptych.cli.common import OUTPUT, Json, answer, say_on_stderr, with_options
from diptych.cli.labels import asked
from diptych.cli.sample import spare
from diptych.errors import DiptychError, WrongUse


def invert(
    run: Annotated[Path, Parameter(help="A run directory of a GAN.")],
    images: Annotated[list[Path], Parameter(negative="", help="Pictures, and folders of them.")],
    *,
    out: Annotated[
        Path, Parameter(group=OUTPUT, help="A folder: latents.npz, reconstruction.png, inversion.json.")
    ],
    space: Annotated[
        Literal["auto", "w", "w+", "z"],
        Parameter(help="w: one style for all layers; w+: one for each, nearer and less editable; z."),
    ] = "auto",
    steps: Annotated[int, Parameter(help="Of the search.")] = 500,
    lr: Annotated[float, Parameter(help="Highest step length, in standard deviations of the latents.")] = 0.1,
    start: Annotated[
        Literal["best", "mean"], Parameter(help="The nearest of --candidates images, or the mean latent.")
    ] = "best",
    candidates: Annotated[int, Parameter(help="Of which the search begins at the nearest.")] = 512,
    pixels: Annotated[float, Parameter(help="Weight of the pixels beside the perceptual distance.")] = 1.0,
    label: Annotated[
        str | None,
        Parameter(help="The images' class, by number or name; else the one of the nearest candidate."),
    ] = None,
    attributes: Annotated[
        str | None, Parameter(help="The images' continuous labels: 0.3,1.7 or x=0.3,y=1.7.")
    ] = None,
    fit: Annotated[
        Literal["crop", "pad", "stretch"] | None,
        Parameter(help="How an image of another size is brought to the model's; else it is an error."),
    ] = None,
    batch: Annotated[
        int, Parameter(help="Images sought at once; changes nothing but speed and memory.")
    ] = 16,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
    **options: Annotated[str, Parameter(help="The model's own options: --noise none, of a stylegan2.")],
) -> None:
    """Find the latents of a GAN whose images are nearest to given ones.

    The images of the latents that it leaves: `diptych sample RUN --latents OUT/latents.npz --out x.png`. They
    are edited with `diptych edit direction RUN --sefa 3 --latents OUT/latents.npz --out y.png`.
    """
    import torch

    from diptych import pictures
    from diptych.api.latents import check_untruncated
    from diptych.data.picture import picture
    from diptych.latent import inversion
    from diptych.latent.points import check_noise, generator_of, write_points
    from diptych.runs import load_model
    from diptych.system.device import keep_buffers
    from diptych.system.files import write_json

    say_on_stderr()
    keep_buffers()
    if out.suffix in (".png", ".npz", ".json"):
        raise WrongUse(f"--out {out} is a file's name, but a folder is filled", "--out inverted")
    check_untruncated(options)
    check_noise(options)
    files = pictures_in(images)
    check_place(out, files)
    model, _ = with_options(generator_of(load_model(run, device)), options)
    how = inversion.InversionOptions(space, steps, lr, start, candidates, pixels, batch=batch)
    shown = torch.stack([picture(file, model.image_shape, fit) for file in files])
    names, told = tuple(map(str, files)), asked(model, run, label, attributes)
    watch = progress(len(files) * steps)
    found = inversion.invert(model, shown, label=told, options=how, names=names, watch=watch)
    write_points(out / "latents.npz", found.points, model)
    pairs = torch.stack([shown, found.image], 1).flatten(0, 1)
    pictures.save(pictures.sheet(pairs, columns=2, least=64), out / "reconstruction.png")
    record = {"run": str(run), "space": found.space, "steps": steps, "images": found.facts()}
    write_json(out / "inversion.json", record)
    answer(as_json, record | {"out": str(out)}, out)


def check_place(out: Path, inputs: Sequence[Path]) -> None:
    """Raises WrongUse where an input, or latents.npz that holds something else, would be written over."""
    from diptych.latent.points import read_arrays

    latents = out / "latents.npz"
    spare([latents, out / "reconstruction.png", out / "inversion.json"], inputs)
    try:
        if latents.exists():
            read_arrays(latents, "latents")
    except DiptychError as error:
        raise WrongUse(
            f"latents would be written to {latents}, which holds something else", "another --out"
        ) from error


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """These files, and in a folder's place those in it, by name. Raises WrongUse where there are none."""
    from diptych.api.latents import inside

    files = [file for path in paths for file in inside(path)]
    if not files:
        raise WrongUse(
            f"there are no pictures in {', '.join(map(str, paths)) or 'nothing'}", "name files, or folders"
        )
    return files


def progress(total: int) -> Callable[[int], None]:
    """Says each tenth of the work on stderr."""
    tenths = 0

    def watch(done: int) -> None:
        nonlocal tenths
        if 10 * done // total > tenths:
            tenths = 10 * done // total
            logging.getLogger("diptych").info("searched %d %%", 10 * tenths)

    return watch
