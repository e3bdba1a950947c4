"""The command line.

Each verb lives in a module of its own and is imported when it is called: --help needs no torch.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
import time
from collections.abc import Sequence

import cyclopts

from diptych import __version__

STARTED = time.perf_counter()  # of the process, nearly: imports and data come after

HELP = """
GANs and diffusion models, side by side: train both on your images, measure
them with one ruler, ship the better one.

Begin with

    diptych duel digits

or with your own images:

    diptych duel photos/ --size 64 --budget 30m --at-most latency_ms=50

A run is a directory; the same command again resumes it. Results go to stdout
(--json for machines), progress and warnings to stderr. Exit codes: 0 done,
1 failed, 2 wrong use, 3 an alarm rings (alarms --fail), 130 interrupted by
Ctrl-C or SIGTERM (a checkpoint was written).
"""

VERBS = {
    "duel": "Train contenders under one budget, measure them with one ruler, say which to ship.",
    "train": "Train one recipe on images; the same command again resumes.",
    "rerun": "Repeat a run from what it recorded, and say whether the repetition agrees.",
    "sample": "Draw images from a run: a sheet, a folder of files, an .npz, or a film of a walk.",
    "edit": "Change images: inpaint, vary, restore ... by a diffusion run; mix, direction by a GAN.",
    "invert": "Find the latents of a GAN whose images are nearest to given ones.",
    "evaluate": "Measure runs, models and images with one ruler: quality, diversity, copying, cost.",
    "alarms": "Does a run collapse, copy, overfit or diverge? With a known rate of false alarms.",
    "guide": "A diffusion model led away from a weaker version of itself.",
    "average": "Other averages of a training's weights, made after it: which is best for this run?",
    "sweep": "An option of a model over its values: what it buys in quality and costs in diversity.",
    "tune-steps": "Noise levels found for a diffusion run: the same quality in fewer steps.",
    "choose": "The best of measured runs under constraints, with the reason for each that was dropped.",
    "export": "One ONNX file that turns noise (and labels) into images, checked against the run.",
    "convert": "Official weights of StyleGAN2-ADA, StyleGAN3 and R3GAN as a model; no code of theirs is run.",
    "draw": "Pictures of what a schedule does to images.",
    "data": "Look at images before training on them.",
    "recipes": "What can be trained, with every flag and its default.",
}

app = cyclopts.App(
    name="diptych",
    help=HELP,
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for place, (verb, line) in enumerate(VERBS.items()):
    name = verb.replace("-", "_")
    target = f"diptych.cli.{name}:{'app' if verb in ('train', 'edit', 'data', 'draw') else name}"
    app.command(target, name=verb, help=line, sort_key=place)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line and exits with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names in a narrow encoding's place are \\u4e2d, no error
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Runs a command line and returns its exit code.

    A user's mistake is a sentence on stderr, never a traceback.
    """
    from diptych.errors import DiptychError

    try:
        if {"--help", "-h"} & set(arguments) and arguments[0] in VERBS:
            explain(arguments[0])
        app(arguments)
    except DiptychError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted", "the same command again goes on from what was written")
        return 130
    except BrokenPipeError:
        return 1
    except SystemExit as done:  # cyclopts has printed what was wrong
        return done.code if isinstance(done.code, int) else int(bool(done.code))
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    return 0


def explain(verb: str) -> None:
    """Gives a verb's own help all that its docstring says, paragraph by paragraph."""
    command = app[verb]
    if command.default_command is not None:
        said = inspect.getdoc(command.default_command) or VERBS[verb]
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in said.split("\n\n"))


def complain(message: str, hint: str = "") -> None:
    """An error on stderr; of several processes those after the first say which they are."""
    rank = os.environ.get("RANK", "0")
    said = f"error: {message}\n" if rank == "0" else f"error (process {rank}): {message}\n"
    # in one piece: other processes write too, and torchrun may end this one at any moment
    sys.stderr.write(f"{said}\nhint: {hint}\n" if hint else said)
