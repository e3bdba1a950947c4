"""diptych edit: images changed by a run, without training; what needs a diffusion model is here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from diptych.cli import VERBS
from diptych.cli.common import DiffusionOptions
from diptych.cli.edit_drawing import Areas, Drawing, Frames, Wide
from diptych.cli.labels import class_number
from diptych.errors import WrongUse

app = App(name="edit", help=VERBS["edit"])
LATENT = {  # these are a GAN's; help is given here, or their module would have to be imported for it
    "mix": "Style mixing: each row's image with each column's style in some layers of a GAN.\n\n"
    "The sources stand on the edges. Coarse layers hold pose and shape, fine ones colour and texture. For "
    "networks with a style for each layer.",
    "direction": "Find directions of a GAN's latent space, and move images along them.\n\n"
    "One of --sefa 3, --jacobian 3, --from-labels DATA and --direction FILE. A row shows an image moved from "
    "-scale to +scale; those of each direction stand together. The directions are kept beside the picture as "
    ".directions.npz, for --direction. DATA is read as the run's own images were: --size, --fit and "
    "--channels are for others.",
}
for latent, line in LATENT.items():
    app.command(f"diptych.cli.edit_latents:{latent}", name=latent, help=line)

Run = Annotated[Path, Parameter(help="A run directory of a diffusion model.")]
Photo = Annotated[Path, Parameter(help="The image to edit.")]
Mask = Annotated[Path, Parameter(help="An image of the same size: white is made anew, black is kept.")]
Method = Annotated[
    Literal["repaint", "ddnm", "pigdm", "dps"],
    Parameter(help="repaint looks at each noise level many times; ddnm once; pigdm and dps use gradients."),
]
Resamplings = Annotated[int, Parameter(help="Of repaint: more fits the new part better to the kept one.")]
Jump = Annotated[int, Parameter(help="Of repaint: steps between resamplings; 0: a twenty-fifth of all.")]
Overlap = Annotated[float, Parameter(help="Share of each window that the next one sees too.")]
Strength = Annotated[float, Parameter(help="0: the image itself, 1: it is forgotten.")]


@app.command
def inpaint(
    run: Run,
    photo: Photo,
    *,
    mask: Mask,
    method: Method = "repaint",
    resamplings: Resamplings = 10,
    jump: Jump = 0,
    draw: Drawing,
    **options: DiffusionOptions,
) -> None:
    """Make a part of an image anew, to go with the rest."""
    from diptych import edit

    model, shared = draw.start(run, options, reads=[photo, mask])
    images = edit.inpaint(model, photo, mask, method=method, resamplings=resamplings, jump=jump, **shared)
    draw.finish("inpaint", images, photo=photo, mask=mask, method=method, options=options)


@app.command
def outpaint(
    run: Run,
    photo: Photo,
    *,
    left: Annotated[int, Parameter(help="Pixels to add on the left.")] = 0,
    right: Annotated[int, Parameter(help="Pixels to add on the right.")] = 0,
    top: Annotated[int, Parameter(help="Pixels to add above.")] = 0,
    bottom: Annotated[int, Parameter(help="Pixels to add below.")] = 0,
    overlap: Overlap = 0.5,
    method: Method = "repaint",
    resamplings: Resamplings = 10,
    jump: Jump = 0,
    draw: Wide,
    **options: DiffusionOptions,
) -> None:
    """Continue an image beyond its edges. It may have any size; the canvas must hold one of the model's."""
    from diptych import edit

    model, shared = draw.start(run, options, reads=[photo])
    sides: dict[str, Any] = {"left": left, "right": right, "top": top, "bottom": bottom}
    images = edit.outpaint(
        model, photo, **sides, overlap=overlap, method=method, resamplings=resamplings, jump=jump, **shared
    )
    draw.finish("outpaint", images, photo=photo, **sides, method=method, options=options)


@app.command
def panorama(
    run: Run,
    *,
    height: Annotated[int, Parameter(help="Of the canvas, in pixels.")],
    width: Annotated[int, Parameter(help="Of the canvas, in pixels.")],
    overlap: Overlap = 0.5,
    draw: Wide,
    **options: DiffusionOptions,
) -> None:
    """New images larger than the model's own, from overlapping windows."""
    from diptych import edit

    model, shared = draw.start(run, options)
    images = edit.panorama(model, height, width, overlap=overlap, **shared)
    draw.finish("panorama", images, overlap=overlap, options=options)


@app.command
def vary(
    run: Run,
    photo: Photo,
    *,
    strength: Strength = 0.5,
    mask: Annotated[Path | None, Parameter(help="White where the image may change; else all of it.")] = None,
    draw: Drawing,
    **options: DiffusionOptions,
) -> None:
    """Images near a given one: noise on it, and down again (SDEdit)."""
    from diptych import edit

    model, shared = draw.start(run, options, reads=[photo, mask])
    images = edit.vary(model, photo, strength=strength, mask=mask, **shared)
    draw.finish("vary", images, photo=photo, mask=mask, strength=strength, options=options)


@app.command
def stroke(
    run: Run,
    painting: Annotated[Path, Parameter(help="Strokes of colour, painted by hand.")],
    *,
    strength: Strength = 0.7,
    mask: Annotated[Path | None, Parameter(help="White where strokes were painted over a photo.")] = None,
    draw: Drawing,
    **options: DiffusionOptions,
) -> None:
    """Make a painting real: SDEdit from coarse strokes, which takes more noise than a photo."""
    from diptych import edit

    model, shared = draw.start(run, options, reads=[painting, mask])
    images = edit.stroke(model, painting, strength=strength, mask=mask, **shared)
    draw.finish("stroke", images, painting=painting, mask=mask, strength=strength, options=options)


@app.command
def colour(
    run: Run,
    target: Annotated[str, Parameter(help="A picture, or one colour: 255,128,0.")],
    *,
    cells: Annotated[int, Parameter(help="A grid of so many by so many mean colours is followed.")] = 4,
    above: Annotated[float, Parameter(help="The noise level below which colours may drift.")] = 0.0,
    draw: Drawing,
    **options: DiffusionOptions,
) -> None:
    """New images in the colours of a picture, coarsely (ILVR)."""
    from diptych import edit

    parts = target.split(",")
    one = tuple(map(int, parts)) if all(part.strip().isdecimal() for part in parts) else None
    model, shared = draw.start(run, options, reads=[] if one else [target])
    images = edit.colour(model, one or Path(target), cells=cells, above=above, **shared)
    draw.finish("colour", images, target=target, cells=1 if one else cells, options=options)


@app.command
def restore(
    run: Run,
    photo: Annotated[Path, Parameter(help="The small, blurred, grey or noisy image.")],
    *,
    operator: Annotated[
        str, Parameter(help="What was done to it: superres:4, bicubic:4, blur:2.0, grey or noise:0.2.")
    ],
    method: Annotated[
        Literal["ddnm", "pigdm", "dps"], Parameter(help="ddnm is quick; pigdm and dps use gradients.")
    ] = "ddnm",
    noise: Annotated[
        float, Parameter(help="Deviation of noise in the photo, where white - black is 2.")
    ] = 0.0,
    deviation: Annotated[
        float, Parameter(help="Of pigdm: the deviation of images, whose pixels are from -1 to 1.")
    ] = 0.5,
    scale: Annotated[float, Parameter(help="Of dps: the length of its steps.")] = 1.0,
    degrade: Annotated[
        bool, Parameter(negative="", help="The photo is a whole one: do it to it first, to try this out.")
    ] = False,
    draw: Drawing,
    **options: DiffusionOptions,
) -> None:
    """Undo a loss of resolution, sharpness or colour: images that are consistent with what is left."""
    from diptych import edit

    model, shared = draw.start(run, options, reads=[photo])
    how: dict[str, Any] = {"method": method, "noise": noise, "deviation": deviation, "scale": scale}
    images = edit.restore(model, photo, operator, degrade=degrade, **how, **shared)
    draw.finish("restore", images, photo=photo, operator=operator, **how, degrade=degrade, options=options)


@app.command
def regions(
    run: Run,
    *,
    map: Annotated[Path, Parameter(help="A picture of the model's size in flat greys, one for each area.")],
    labels: Annotated[
        str, Parameter(help="A class for each grey, dark to light, by number or name: 3,any,0.")
    ],
    feather: Annotated[float, Parameter(help="Pixels over which neighbouring areas mix.")] = 1.0,
    draw: Areas,
    **options: DiffusionOptions,
) -> None:
    """New images with another class in each area."""
    from diptych import edit

    parts = [part.strip() for part in labels.split(",")]
    labelled = any(part != "any" for part in parts)
    model, shared = draw.start(run, options, reads=[map], labelled=labelled)
    wanted = [None if part == "any" else class_number(part, run, model) for part in parts]
    images = edit.regions(model, map, wanted, feather=feather, **shared)
    draw.finish("regions", images, map=map, labels=labels, feather=feather, options=options)


@app.command
def interpolate(
    run: Run,
    one: Annotated[str, Parameter(help="An image, or a seed.")],
    other: Annotated[str, Parameter(help="Another image, or another seed.")],
    *,
    frames: Annotated[int, Parameter(help="From one to the other, both included.")] = 8,
    steps: Annotated[
        int,
        Parameter(
            name=("--steps", "--inversion-steps"),
            help="From an image up to noise, and down again, by Heun's method; not the model's own option.",
        ),
    ] = 50,
    labels: Annotated[str | None, Parameter(help="Of the two, by number or name: 3,8; else any.")] = None,
    draw: Frames,
    **options: Annotated[
        str, Parameter(help="The model's own options: --guidance 2, which goes with --labels.")
    ],
) -> None:
    """From one image to another through noise: up to it, along a great circle, and down."""
    from diptych import edit
    from diptych.diffusion.editing import check_heard

    check_heard(flag.replace("-", "_") for flag in options)
    pair = None if labels is None else labels.split(",")
    if pair is not None and len(pair) != 2:
        raise WrongUse(f"--labels {labels} must be two classes", "of the first image and of the second: 3,8")
    ends = [int(end) if end.isdecimal() else Path(end) for end in (one, other)]
    model, shared = draw.start(run, options, reads=ends, labelled=pair is not None, frames=frames)
    both = None if pair is None else (class_number(pair[0], run, model), class_number(pair[1], run, model))
    images = edit.interpolate(model, *ends, frames=frames, steps=steps, labels=both, **shared)
    draw.finish("interpolate", images, one=one, other=other, labels=labels, options=options)
