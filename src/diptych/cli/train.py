"""diptych train RECIPE DATA --out RUN: one command for each recipe, its keyword arguments as flags."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from diptych import catalog
from diptych.cli import STARTED, VERBS
from diptych.cli.common import OUTPUT, TRAINING, Ingest, Json, Pace, say_on_stderr, show, together
from diptych.cli.watch import EXAM, watching
from diptych.recipe import RecipeSpec

if TYPE_CHECKING:
    from diptych.runs import Run

TOLD = ("fid", "kid", "precision", "recall", "density", "coverage")  # of an exam

app = App(name="train", help=VERBS["train"], help_format="markdown")


def tell(run: Run, as_json: bool) -> None:
    """Prints what a training has come to."""
    log = run.log()
    known = log[-1] if log else {"images": max(run.checkpoints.kept, default=run.recipe["images"])}
    last = {"run": str(run.path), **known}
    if as_json:
        show(last)
        return
    if not log:
        print(f"{run.path}: {last['images']:,} images; its log.jsonl is gone, and with it times and exams")
        return
    print(f"{run.path}: {last['images']:,} images in {last['seconds']:,.0f} s")
    if last["exam"]:
        print(f"exam of {last.get('exam_n', 0):,} samples: {scored(last['exam'])}")
        print(f"on more, with error bars and a floor: diptych evaluate {run.path}")


def scored(exam: Mapping[str, float]) -> str:
    """The scores of an exam in one line.

    >>> scored({"fid": 12.34, "fid_error": 1.2, "recall": 0.5, "histogram": 1.0})
    'fid 12.3 ± 1.2  recall 0.5'
    """
    told = {name: f"{name} {exam[name]:.3g}" for name in TOLD if name in exam}
    if "fid" in told and "fid_error" in exam:
        told["fid"] += f" ± {exam['fid_error']:.2g}"
    return "  ".join(told.values())


def each_alone(doc: str) -> str:
    """A docstring in which arguments that are described together, `P_mean, P_std`, have the same text each.

    >>> each_alone("a, b\\n    Of both.\\nc\\n    Alone.")
    'a\\n    Of both.\\nb\\n    Of both.\\nc\\n    Alone.'
    """

    def parted(found: re.Match[str]) -> str:
        indent, names, text = found.groups()
        return "\n".join(f"{indent}{name}\n{text}" for name in names.split(", "))

    return re.sub(r"^( *)(\w+(?:, \w+)+)\n((?:\1 +\S.*(?:\n(?=\1 +\S))?)+)", parted, doc, flags=re.M)


def command(spec: RecipeSpec) -> Any:
    """A function whose signature is the recipe's flags and the training's."""

    def run(data: str, *, out: Path, ingest: Ingest = Ingest(), pace: Pace = Pace(), **rest: Any) -> None:
        from diptych.cli.foretell import foretell
        from diptych.measuring.quick import QuickExam
        from diptych.training.forecast import forecast
        from diptych.training.loop import train
        from diptych.training.state import Settings

        say_on_stderr()
        exam, force, dry_run, as_json = (rest.pop(name, default) for name, (_, default) in own.items())
        with together() as rank:
            images, settings = ingest.open(data), Settings(**asdict(pace))
            examine = QuickExam.asked(images, exam)
            if dry_run:
                how: dict[str, Any] = {"settings": settings, "examine": examine, "started": STARTED}
                expected = forecast(spec, images, out, arguments=rest, **how)
                if rank == 0:
                    foretell({spec.name: expected}, as_json)
                return
            with watching(rank) as watch:
                finished = train(
                    spec,
                    images,
                    out,
                    arguments=rest,
                    settings=settings,
                    examine=examine,
                    watch=watch(spec.name),
                    force=force,
                )
            if rank == 0:
                tell(finished, as_json)

    run.__name__, run.__doc__ = spec.name, each_alone(spec.doc)
    flags = {
        name: Annotated[
            kind, Parameter(group=Group("Recipe", sort_key=0), negative="" if kind is bool else None)
        ]
        for name, kind in spec.types.items()
    }
    own: dict[str, tuple[Any, Any]] = {
        "exam": (
            Annotated[Literal["auto"] | int, Parameter(group=TRAINING, help=EXAM)],
            "auto",
        ),
        "force": (
            Annotated[bool, Parameter(group=TRAINING, negative="", help="Go on though arguments changed.")],
            False,
        ),
        "dry_run": (
            Annotated[bool, Parameter(group=OUTPUT, negative="", help="Predict time, memory and disk.")],
            False,
        ),
        "as_json": (Json, False),
    }
    kinds = inspect.Parameter
    out = Annotated[Path, Parameter(group=OUTPUT, help="The run directory.")]
    data = Annotated[
        str, Parameter(help="Folder, .zip, .npz, idx or CIFAR-10 files; digits and shapes are built in.")
    ]
    parameters = [
        kinds("data", kinds.POSITIONAL_OR_KEYWORD, annotation=data),
        kinds("out", kinds.KEYWORD_ONLY, annotation=out),
        *(
            kinds(n, kinds.KEYWORD_ONLY, annotation=kind, default=spec.defaults[n])
            for n, kind in flags.items()
        ),
        kinds("ingest", kinds.KEYWORD_ONLY, annotation=Ingest, default=Ingest()),
        kinds("pace", kinds.KEYWORD_ONLY, annotation=Pace, default=Pace()),
        *(
            kinds(n, kinds.KEYWORD_ONLY, annotation=kind, default=default)
            for n, (kind, default) in own.items()
        ),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


for name, recipe in catalog.recipes().items():
    app.command(command(recipe), name=name)
