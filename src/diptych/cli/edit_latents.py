"""diptych edit mix, diptych edit direction: images changed in a GAN's latent space."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.cli.common import (
    OUTPUT,
    GanOptions,
    Ingest,
    Json,
    answer,
    numbers,
    say_on_stderr,
    with_options,
)
from diptych.cli.labels import Attributes, Label, asked
from diptych.cli.sample import SHEETS, spare
from diptych.errors import WrongUse

if TYPE_CHECKING:
    from torch import Tensor

    from diptych.adversarial.latent import GeneratorModel

Run = Annotated[Path, Parameter(help="A run directory of a GAN.")]
Layers = Annotated[
    str | None, Parameter(help="0-3 or 0,1,5: those that change, 0 is the coarsest; else all of them.")
]
Batch = Annotated[int, Parameter(help="Images made at once; changes nothing but speed and memory.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda or mps.")]


def opened(
    run: Path, device: str, options: dict[str, str], label: str | None, attributes: str | None
) -> tuple[GeneratorModel, Tensor | None]:
    """The run's model with its options, and the label that is asked for."""
    from diptych.latent.points import check_noise, generator_of
    from diptych.runs import load_model
    from diptych.system.device import keep_buffers

    say_on_stderr()
    keep_buffers()
    check_noise(options)
    model, _ = with_options(generator_of(load_model(run, device)), options)
    return generator_of(model), asked(model, run, label, attributes)


def check_name(out: Path, suffixes: tuple[str, ...]) -> None:
    """Raises WrongUse for a suffix that is no picture's: before images are made for it."""
    if out.suffix.lower() not in ("", *suffixes):
        raise WrongUse(f"--out {out} is no picture", f"its suffix is {', '.join(suffixes)}")


def mix(
    run: Run,
    *,
    rows: Annotated[str, Parameter(help="Seeds that give the images: 0,1,2.")],
    columns: Annotated[str, Parameter(help="Seeds that give the styles of --layers: 5,6.")],
    layers: Layers = None,
    out: Annotated[Path, Parameter(group=OUTPUT, help="A picture (.png).")],
    label: Label = None,
    attributes: Attributes = None,
    batch: Batch = 64,
    device: Device = "auto",
    as_json: Json = False,
    **options: GanOptions,
) -> None:
    """Style mixing: each row's image with each column's style in some layers; the sources on the edges.

    Coarse layers hold pose and shape, fine ones colour and texture. For networks with a style for each layer.
    """
    from diptych import pictures
    from diptych.latent import mixing

    check_name(out, SHEETS)
    model, told = opened(run, device, options, label, attributes)
    down, across = numbers(rows), numbers(columns)
    chosen = numbers(layers) if layers else []
    grid = mixing.mix(model, down, across, chosen, label=told, batch=batch)
    pictures.save(pictures.sheet(grid.flatten(0, 1), columns=len(across) + 1), out)
    done = {"edit": "mix", "out": str(out), "rows": down, "columns": across, "layers": layers or "all"}
    answer(as_json, done | {"options": options}, out)


def direction(
    run: Run,
    *,
    out: Annotated[
        Path,
        Parameter(group=OUTPUT, help="A picture (.png), or a film (.gif, .webp, .mp4) there and back."),
    ],
    sefa: Annotated[
        int | None, Parameter(help="So many directions from the weights that read the latents.")
    ] = None,
    jacobian: Annotated[
        int | None, Parameter(help="So many directions that change pixels most; slow for long latents.")
    ] = None,
    from_labels: Annotated[
        str | None, Parameter(help="Labelled images (as for `train`): a direction for each label.")
    ] = None,
    labels: Annotated[str | None, Parameter(help="Of --from-labels: some, by name or number.")] = None,
    samples: Annotated[int, Parameter(help="Of --from-labels: images of the model to look at.")] = 2048,
    direction: Annotated[Path | None, Parameter(help="An .npz file that this command left before.")] = None,
    which: Annotated[str | None, Parameter(help="Some of the directions: 0,2.")] = None,
    scale: Annotated[
        float, Parameter(help="How far to each side, in standard deviations of the latents along it.")
    ] = 2.0,
    steps: Annotated[int, Parameter(help="Images from one side to the other; 0: 5, in a film 45.")] = 0,
    seeds: Annotated[str | None, Parameter(help="0-7 or 1,5,9: a row of images each; else 0-3.")] = None,
    latents: Annotated[
        Path | None, Parameter(help="Points that `diptych invert` left, in the place of seeds.")
    ] = None,
    layers: Layers = None,
    label: Label = None,
    attributes: Attributes = None,
    fps: Annotated[float, Parameter(help="Of a film: frames a second.")] = 30.0,
    batch: Batch = 64,
    device: Device = "auto",
    data: Ingest = Ingest(),
    as_json: Json = False,
    **options: GanOptions,
) -> None:
    """Find directions of latent space along which images change, and move images along them.

    One of --sefa 3, --jacobian 3, --from-labels DATA and --direction FILE. A row shows an image moved from
    -scale to +scale; those of each direction stand together. The directions are kept beside the picture as
    .directions.npz, for --direction. DATA is read as the run's own images were: --size, --fit and --channels
    are for others.
    """
    from diptych import pictures
    from diptych.cli.sample import refuse
    from diptych.latent import directions, labelled
    from diptych.latent.points import LIMITS, drawn, read_points

    ways = {"sefa": sefa, "jacobian": jacobian, "from-labels": from_labels, "direction": direction}
    if sum(way is not None for way in ways.values()) != 1:
        raise WrongUse("one way to a direction is needed", "one of " + ", ".join(f"--{way}" for way in ways))
    check_name(out, (*SHEETS, *pictures.MOVING))
    beside = out.with_suffix(directions.SUFFIX)
    known_before = direction is not None and beside.resolve() == direction.resolve()
    spare([out], [latents, direction, from_labels])
    if not known_before:  # --which would leave fewer in it
        spare([beside], [latents, from_labels])
        directions.check_place(beside)
    model, told = opened(run, device, options, label, attributes)
    if latents is not None and (seeds or told is not None):
        raise WrongUse("--seeds and labels mean nothing to given points", "leave --latents or them out")
    if latents is not None:
        refuse({}, set(LIMITS) & options.keys())
    moving = out.suffix.lower() in pictures.MOVING
    if moving:
        pictures.check_moving(out, fps)
    chosen = numbers(layers) if layers else []
    if direction is not None:
        found = directions.read_directions(direction, chosen)
    elif from_labels is not None:
        wanted = [name.strip() for name in labels.split(",")] if labels else []
        known = data.like(run, model).open(from_labels).train
        found = labelled.from_labels(model, known, wanted, chosen, label=told, n=samples, batch=batch)
    elif sefa is not None:
        found = directions.sefa(model, sefa, chosen)
    else:
        found = directions.principal(model, jacobian or 0, chosen, batch=batch)
    found = found.only(numbers(which)) if which else found
    for name, size in zip(found.names, found.strength.tolist(), strict=True):
        logging.getLogger("diptych").info("%s: strength %.3g", name, size)
    points = read_points(latents, model) if latents else drawn(model, numbers(seeds or "0-3"), told)
    images = directions.traverse(model, points, found, scale, steps or (45 if moving else 5), batch)
    draw(images, out, fps)
    if not known_before:
        directions.write_directions(beside, found)
    strength = dict(zip(found.names, found.strength.tolist(), strict=True))
    done: dict[str, Any] = {"edit": "direction", "out": str(out), "directions": str(beside)}
    done |= {"layers": list(found.layers), "strength": strength, "options": options}
    answer(as_json, done, out)


def draw(images: Tensor, out: Path, fps: float) -> None:
    """(K, N, S, C, H, W) as a sheet, each direction and point a row of S, or as a film over S and back."""
    import torch

    from diptych import pictures

    n, steps = images.shape[1:3]
    if out.suffix.lower() not in pictures.MOVING:
        blocks = [pictures.sheet(rows.flatten(0, 1), columns=steps, least=64) for rows in images]
        pictures.save(pictures.stacked(blocks), out)
        return
    there = images.flatten(0, 1).transpose(0, 1)  # (S, K N, C, H, W)
    both = torch.cat([there, there[1:-1].flip(0)])
    pictures.save_moving([pictures.sheet(frame, columns=n, least=64) for frame in both], out, fps)
