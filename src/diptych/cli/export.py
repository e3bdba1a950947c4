"""diptych export RUN --out MODEL.onnx."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.common import Json, Options, answer, say_on_stderr, with_options
from diptych.errors import WrongUse


def export(
    run: Annotated[Path, Parameter(help="A run directory.")],
    *,
    out: Annotated[Path, Parameter(help="The .onnx file.")],
    as_json: Json = False,
    **options: Options,
) -> None:
    """One ONNX file that turns noise (and labels) into images, checked in onnxruntime against the run itself.

    The model's own options are flags: --steps 4, --guidance 2, --truncation 0.7.
    """
    from diptych.api import class_names
    from diptych.exporter import export as exported
    from diptych.runs import load_model

    say_on_stderr()
    if out.suffix != ".onnx":
        raise WrongUse(f"--out {out} is not an .onnx file", "--out model.onnx")
    model, _ = with_options(load_model(run, "cpu"), options)
    result = exported(model, out, class_names=class_names(run))
    answer(as_json, {k: str(v) if isinstance(v, Path) else v for k, v in asdict(result).items()}, result)
