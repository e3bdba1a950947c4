"""What several verbs share: data flags, seeds and key=value pairs, model options, results on stdout."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from diptych.errors import WrongUse

if TYPE_CHECKING:
    from diptych.data.images import DataSet
    from diptych.model import Model

DATA = Group.create_ordered("Data")
TRAINING = Group.create_ordered("Training")
RULES = Group.create_ordered("Rules")
OUTPUT = Group.create_ordered("Output")

METRICS = ("--metric", "--metrics")  # one at a time, and as Python has it
TRADE = ("fid", "precision_recall", "density_coverage")  # of a sweep: quality against diversity

Json = Annotated[bool, Parameter(name="--json", negative="", group=OUTPUT, help="Print the result as JSON.")]
AtMost = Annotated[
    list[str] | None,
    Parameter(
        name="--at-most",
        group=RULES,
        negative="",
        help="Constraint metric=value, e.g. latency_ms=50; repeatable.",
    ),
]
AtLeast = Annotated[
    list[str] | None,
    Parameter(
        name="--at-least",
        group=RULES,
        negative="",
        help="Constraint metric=value, e.g. recall=0.5; repeatable.",
    ),
]


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class Ingest:
    """How images are read."""

    size: Annotated[
        int | None, Parameter(help="Height and width in pixels; needed where sizes are mixed.")
    ] = None
    fit: Annotated[
        Literal["crop", "pad", "stretch"] | None,
        Parameter(help="How an image becomes square, antialiased in each case; by default crop."),
    ] = None
    channels: Annotated[
        Literal[1, 3, 4] | None,
        Parameter(help="1 grey, 3 colour, 4 with alpha; else 1 or 3, with transparency on white."),
    ] = None
    held_out: Annotated[
        float | None,
        Parameter(
            help="Share (or number) of images kept for measuring; by default the source's own test split, "
            "else a fifth, at most 10,000."
        ),
    ] = None
    flip: Annotated[bool, Parameter(help="Mirror half of the images while training.")] = False
    attributes: Annotated[
        str | None,
        Parameter(help="Numeric columns that models are told, in the place of classes: x,y; none: neither."),
    ] = None

    def open(self, source: str) -> DataSet:
        """Reads the data set and says on stderr what was odd."""
        from diptych.data import open_data

        given = {f.name: getattr(self, f.name) for f in fields(self)}
        data = open_data(source, **{**given, "fit": self.fit or "crop"})
        for incident in data.card.incidents[:10]:
            logging.getLogger("diptych").warning("%s: %s (%s)", incident.file, incident.what, incident.done)
        if len(data.card.incidents) > 10:
            logging.getLogger("diptych").warning(
                "... and %d more: diptych data inspect", len(data.card.incidents) - 10
            )
        return data

    def like(self, run: Path, model: Model) -> Ingest:
        """The same, and where nothing is said as the run's own images were read."""
        from diptych.runs import Run

        channels, height, width = model.image_shape
        recorded = Run(run).recipe.get("data", {}) if (run / "recipe.json").is_file() else {}
        fit = recorded.get("arguments", {}).get("fit")
        return replace(
            self,
            size=self.size or (height if height == width else None),
            fit=self.fit or (fit if fit in ("crop", "pad", "stretch") else None),
            channels=self.channels or cast(Literal[1, 3, 4], channels),
        )


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class Pace:
    """How long to train, and on what."""

    budget: Annotated[str, Parameter(help="20M-images, 50s, 30m, 1.5h or 5e17flop.")] = "10m"
    seed: Annotated[int, Parameter(help="Of weights, batches and noise.")] = 0
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto"
    precision: Annotated[str, Parameter(help="auto, float32 or bfloat16.")] = "auto"
    compile: Annotated[
        bool,
        Parameter(negative="", help="Compile the networks: minutes to begin, then faster; for GPUs."),
    ] = False
    microbatch: Annotated[
        int,
        Parameter(
            help="Images that go through at once, to save memory; 0: the whole batch. "
            "Batch norms, and critics that compare images, see no more."
        ),
    ] = 0
    ticks: Annotated[
        int, Parameter(help="Log lines, sample sheets and checkpoints in the whole training.")
    ] = 10
    snapshots: Annotated[
        int, Parameter(help="Averaged weights kept: of the first tick, the second, the fourth ...")
    ] = 1
    init: Annotated[str, Parameter(help="A run to begin from: its weights, where they fit.")] = ""
    keep: Annotated[int, Parameter(help="Checkpoints kept: the last so many, beside the best.")] = 2
    averages: Annotated[
        int, Parameter(help="Moments whose weights are stored for `diptych average`; 0: none.")
    ] = 0
    on_alarm: Annotated[
        Literal["warn", "stop", "rollback", "firmer"],
        Parameter(
            help="rollback: to the best checkpoint, with half the learning rate; firmer: twice the penalty."
        ),
    ] = "warn"
    deterministic: Annotated[
        bool, Parameter(negative="", help="On GPUs: only operations that give the same each time.")
    ] = False
    fsdp: Annotated[
        bool,
        Parameter(
            name=("--shard", "--fsdp"),
            negative="",
            help="Under torchrun: weights and optimizers lie in shares on the processes.",
        ),
    ] = False


Options = Annotated[
    str, Parameter(help="The model's own options: --steps 4, --guidance 2, --truncation 0.7.")
]
GanOptions = Annotated[str, Parameter(help="The model's own options: --truncation 0.7.")]
DiffusionOptions = Annotated[
    str, Parameter(help="The model's own options: --steps 50, --sampler euler, --guidance 2.")
]


def say_on_stderr() -> None:
    """Sends the package's log to stderr, plainly: folded on a terminal, a line each in a file or a pipe."""
    handler: logging.Handler = logging.StreamHandler()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        console = Console(stderr=True)
        handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False)
    logger = logging.getLogger("diptych")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)


@contextmanager
def together() -> Iterator[int]:
    """Joins the processes that torchrun started, yields this one's rank; the first alone says all."""
    from diptych.system.parallel import joined

    with joined() as rank:
        logging.getLogger("diptych").setLevel(logging.ERROR if rank else logging.INFO)
        yield rank


def show(tree: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(tree, indent=2))


def answer(as_json: bool, tree: Any, text: object) -> None:
    """A verb's result on stdout: as JSON where that is asked for, else as text."""
    if as_json:
        show(tree)
    else:
        print(text)


def numbers(text: str) -> list[int]:
    """From "0-63,70" to a list. Raises WrongUse for anything else.

    >>> numbers("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise WrongUse(f"{text!r} is not a list of seeds", "write 0-63 or 1,5,9")
        if int(last or first) - int(first) >= 10_000_000:
            raise WrongUse(f"{part} are too many at once", "ten million at most")
        found += range(int(first), int(last or first) + 1)
    return found


def pairs(texts: Iterable[str] | None) -> dict[str, float]:
    """From ["latency_ms=50"] to {"latency_ms": 50.0}. Raises WrongUse for anything else."""
    found = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise WrongUse(f"{text!r} is not metric=number", "write for example latency_ms=50") from error
    return found


def typed(text: str, kind: Any, name: str) -> Any:
    """A flag's text as the type that its default has. Raises WrongUse where it is not one.

    >>> typed("0.5", float | None, "eta"), typed("80,2,0", tuple[float, ...], "sigmas")
    (0.5, (80.0, 2.0, 0.0))
    >>> typed("auto", float | Literal["auto"], "gamma"), typed("3", float | Literal["auto"], "gamma")
    ('auto', 3.0)
    """
    choices = [choice for choice in get_args(kind) if choice is not type(None)]
    if get_origin(kind) is tuple:
        return () if text == "none" else tuple(typed(part, choices[0], name) for part in text.split(","))
    if type(None) in get_args(kind):
        return None if text == "none" else typed(text, choices[0], name)
    words = [word for choice in choices if get_origin(choice) is Literal for word in get_args(choice)]
    if words:
        return text if text in words else typed(text, choices[0], name)
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                text.lower()
            ]
        return kind(text) if kind in (int, float) else text
    except (ValueError, KeyError) as error:
        flag = name.replace("_", "-")
        wanted = {int: "a whole number", float: "a number", bool: "yes or no"}[kind]
        raise WrongUse(f"{name}={text} is not {wanted}", f"--{flag} takes {wanted}") from error


def with_options(model: Model, options: Mapping[str, str]) -> tuple[Model, dict[str, Any]]:
    """The model with `--steps 4` and the like applied, and what was changed."""
    changes = values_of(model, options)
    return model.using(**changes), changes


def values_of(model: Model, options: Mapping[str, str]) -> dict[str, Any]:
    """What `--steps 4` and the like say, as the model's options have it."""
    names = {flag: flag.replace("-", "_") for flag in options}
    hints = kinds(model, options.get("sampler", ""))
    return {names[f]: typed(text, hints.get(names[f], str), names[f]) for f, text in options.items()}


def kinds(model: Model, sampler: str = "") -> dict[str, Any]:
    """What each of the model's options is, those of its sampler among them: of this one, or its own."""
    known = get_type_hints(type(model.options))
    if "sampler_options" not in known:
        return known
    from diptych.diffusion import samplers

    own = samplers.kinds(sampler or model.options.sampler)
    return {name: kind | None for name, kind in own.items()} | known  # none: the sampler's own default


def table(rows: list[list[str]], header: list[str]) -> None:
    """A table on stdout, as wide as it needs to be where stdout is not a terminal: a row a line."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 100_000).print(drawn)
