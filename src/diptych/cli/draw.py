"""diptych draw schedule: what schedules do to images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from diptych.cli import VERBS
from diptych.cli.common import Json, answer

app = App(name="draw", help=VERBS["draw"])


@app.command
def schedule(
    names: Annotated[
        list[str] | None,
        Parameter(
            help="linear, scaled-linear, cosine, sigmoid, vp, ve, cosine-continuous, flow; shifted, flow:3; "
            "ending in noise alone, linear:zero-snr; or runs."
        ),
    ] = None,
    /,
    *,
    data: Annotated[str, Parameter(help="Images to send into noise: a folder, a zip, digits ...")] = "digits",
    index: Annotated[int, Parameter(help="Which of its images.")] = 0,
    out: Annotated[Path, Parameter(help="An .svg file.")] = Path("schedules.svg"),
    as_json: Json = False,
) -> None:
    """Draw schedules: image and noise over time, the signal-to-noise ratio, an image on its way to noise."""
    from diptych.data import open_data
    from diptych.drawing import drawn_schedules, named_schedule
    from diptych.errors import WrongUse
    from diptych.system.files import write_text

    if out.suffix != ".svg":
        raise WrongUse(f"--out {out} is not an .svg file")
    chosen = {name: named_schedule(name) for name in names or ["linear", "cosine", "flow"]}
    images = open_data(data).train
    if not 0 <= index < len(images):
        raise WrongUse(f"--index {index} is out of range", f"{data} has {len(images):,} images")
    write_text(out, drawn_schedules(chosen, images.tensor(slice(index, index + 1))))
    answer(as_json, {"out": str(out), "schedules": {name: list(s.ends()) for name, s in chosen.items()}}, out)
