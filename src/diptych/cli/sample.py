"""diptych sample RUN: images from a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.common import Json, Options, numbers, say_on_stderr, show, values, with_options


def sample(
    run: Annotated[Path, Parameter(help="A run directory.")],
    *,
    out: Annotated[
        Path, Parameter(help="A picture (.png) for one sheet, .npz for an array (arr_0), else a folder.")
    ],
    seeds: Annotated[str, Parameter(help="0-63 or 1,5,9: the same seed is the same image.")] = "0-63",
    label: Annotated[
        int | None, Parameter(help="One class for all; else seed modulo the number of classes.")
    ] = None,
    attributes: Annotated[
        str | None,
        Parameter(help="Continuous labels for all, 0.3,1.7 or x=0.3,y=1.7; else those of training images."),
    ] = None,
    batch: Annotated[int, Parameter(help="Images drawn at once; changes nothing but speed and memory.")] = 64,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        str,
        Parameter(help="float32, bfloat16 (images differ a little), or auto: bfloat16 where it is native."),
    ] = "float32",
    compile: Annotated[
        bool, Parameter(negative="", help="Compile the network: minutes to begin, then faster; for GPUs.")
    ] = False,
    graph: Annotated[
        bool, Parameter(negative="", help="Replay the whole sampling as one CUDA graph.")
    ] = False,
    as_json: Json = False,
    **options: Options,
) -> None:
    """Draw images from a run.

    The model's own options are flags: --steps 4, --guidance 2, --truncation 0.7.
    """
    import numpy as np
    import torch

    from diptych import pictures
    from diptych.device import keep_buffers, mixed, pick
    from diptych.files import write
    from diptych.graphs import Graphed
    from diptych.model import Condition
    from diptych.runs import load_model

    say_on_stderr()
    keep_buffers()
    wanted = numbers(seeds)
    model, changes = with_options(load_model(run, device), options)
    if compile:
        for network in model.networks():
            network.compile()
    model = Graphed(model) if graph else model
    drawn = wanted
    if compile or graph:  # each batch of another size would be compiled or captured anew
        drawn = wanted + wanted[:1] * (-len(wanted) % min(batch, len(wanted)))
    condition = None if label is None else Condition(label=torch.full((len(drawn),), label))
    if attributes is not None:
        asked = torch.tensor([values(attributes, model.attribute_names)])
        condition = Condition(label=asked.expand(len(drawn), -1))
    with mixed(pick(device), precision):
        images = model.sample(drawn, condition, batch)[: len(wanted)]
    if out.suffix == ".npz":
        array = images.permute(0, 2, 3, 1).numpy()

        def produce(path: Path) -> None:
            with path.open("wb") as file:
                np.savez_compressed(file, arr_0=array, seeds=np.array(wanted))

        write(out, produce)
    elif out.suffix:
        pictures.save(pictures.sheet(images), out)
    else:
        for seed, image in zip(wanted, images, strict=True):
            pictures.save(pictures.sheet(image[None], least=1), out / f"{seed:06d}.png")
    if as_json:
        show({"out": str(out), "images": len(wanted), "shape": list(model.image_shape), "options": changes})
    else:
        print(out)
