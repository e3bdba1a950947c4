"""Run directories: what a training leaves, and how it is opened again. Nothing in one executes on load."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.checking import misfit, need, shown
from diptych.checkpoints import Checkpoints, numbered
from diptych.errors import RunError, WrongUse
from diptych.model import Model
from diptych.saveable import from_tree, to_tree
from diptych.system import device as devices
from diptych.system.files import expanded, read_json, read_tensors, write_json, write_tensors, write_text

QUALITY = "fid"  # of the exams: which of a run's moments was the best
NAMED = Mapping[str, Any]
# of recipe.json, where they are said; the recipe's name always is
RECIPE = {
    **dict.fromkeys(("arguments", "data", "settings"), NAMED),
    **dict.fromkeys(("images", "shards"), int),
    **dict.fromkeys(("versions", "probe", "exam", "data.arguments"), NAMED),
    **dict.fromkeys(("data.source", "settings.budget"), str),
    **dict.fromkeys(("probe.seconds", "probe.flop_per_image"), float),
}
LINE = {
    "step": int,
    "finished": bool,
    "alarms": NAMED,
    **dict.fromkeys(("seconds", "flop"), float),
    **dict.fromkeys(("losses", "exam"), Mapping[str, float]),
}  # of log.jsonl, beside the images


SOURCE = "source.json"  # beside converted weights: where they are from


@dataclass(frozen=True)
class Run:
    """A run directory: recipe.json, log.jsonl, model.json, model.safetensors, checkpoints, best, samples."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", expanded(self.path))  # recorded paths begin with ~ too

    @property
    def checkpoints(self) -> Checkpoints:
        """What resuming needs: networks, averages, optimizers, clock."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def best(self) -> Path:
        """The averaged weights of the tick that scored best, a directory that opens as a run does."""
        return self.path / "best"

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe's name and arguments, the data, the settings, the versions.

        Raises RunError where recipe.json is missing, damaged, or says something else.
        """
        file = self.path / "recipe.json"
        tree = need(read_json(file), {"recipe": str}, str(file))
        for place, kind in RECIPE.items():
            part, _, name = place.rpartition(".")
            holder = tree.get(part, {}) if part else tree
            if name in holder and (said := misfit(holder[name], kind, place)):
                raise RunError(f"{file} cannot be read: {said}")
        return tree

    @property
    def finished(self) -> bool:
        """Whether training spent its whole budget."""
        log = self.log()
        return bool(log) and bool(log[-1].get("finished"))

    def snapshot(self, images: int) -> Path:
        """Where the averaged weights after so many images are kept, if they are."""
        return self.path / "snapshots" / f"{images:012d}.safetensors"

    @property
    def snapshots(self) -> dict[int, Path]:
        """The averaged weights that were kept along the way, by the images seen."""
        return numbered(self.path / "snapshots")

    def model(self, device: torch.device | str = "cpu", images: int | None = None) -> Model:
        """The averaged weights as a Model: the last, or those kept after so many images."""
        if images is not None and images not in self.snapshots:
            kept = ", ".join(f"{n:,}" for n in self.snapshots) or "none"
            raise RunError(f"{self.path} has kept no weights after {images:,} images", f"kept: {kept}")
        return load_model(self.path, device, None if images is None else self.snapshot(images))

    def log(self) -> list[dict[str, Any]]:
        """One dict a tick; a torn last line is left out."""
        return list(read_lines(self.path / "log.jsonl"))

    @property
    def spent(self) -> dict[str, float]:
        """Images, seconds of training, FLOPs: what was really used."""
        log = self.log()
        return {key: log[-1].get(key, 0) for key in ("images", "seconds", "flop")} if log else {}


def open_run(path: str | Path) -> Run:
    """A run directory that is there. Raises RunError with a hint where it is not one."""
    run = Run(Path(path))
    if not (run.path / "recipe.json").is_file() and not (run.path / "model.json").is_file():
        what = "there is no" if not run.path.exists() else "there is no run in"
        raise RunError(f"{what} {run.path}", "diptych train RECIPE DATA --out RUN makes one")
    return run


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a log.jsonl, parsed; a last one that a kill tore is left out.

    Raises RunError for a line that is damaged, or of something else.
    """
    if not path.exists():
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    for number, text in enumerate(lines, 1):
        here = f"line {number} of {path}"
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not text.endswith("\n"):
                return
            raise RunError(
                f"{here} is damaged",
                f"mend it from a copy; or go on from the weights as a new run: --init {path.parent}",
            ) from error
        need(line, {"images": int}, here)
        for name, kind in LINE.items():
            if name in line and (said := misfit(line[name], kind, name, finite=False)):
                raise RunError(f"{here} cannot be read: {said}")
        for name, verdict in line.get("alarms", {}).items():
            need(verdict, {"state": str}, f"alarm {name} in {here}")
        yield line


def best_of(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line of log.jsonl with the best exam, the first of equals; None where there was none.

    Exams of another n than the last one's do not count: FID falls with n. Nor do lines at which an alarm
    took training back: their checkpoint holds other weights.
    """
    scored = [line for line in lines if QUALITY in line.get("exam", {}) and "reaction" not in line]
    alike = [line for line in scored if line.get("exam_n") == scored[-1].get("exam_n")]
    return min(alike, key=lambda line: line["exam"][QUALITY], default=None)


def save_best(model: Model, run: Run, line: Mapping[str, Any]) -> None:
    """Writes RUN/best: the model as it is, with the recipe and the line of the log that it belongs to."""
    save_model(model, run.best)
    write_json(run.best / "recipe.json", Run(run.path).recipe)  # as it is now, not when it was first read
    write_text(run.best / "log.jsonl", json.dumps(line) + "\n")


def vacant(out: str | Path) -> Path:
    """A place for something new. Raises WrongUse where something is there already."""
    out = expanded(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WrongUse(f"there is something in {out} already", "choose another --out")
    return out


def save_derived(
    model: Model, run: Run, out: str | Path, derived: Mapping[str, Any], images: float = math.inf
) -> Run:
    """A model made of a run's, as a run directory that is measured, sampled and exported as any.

    derived: what was done, for recipe.json, which otherwise is the run's. images: after how many, where it is
    not the end. Of a run that is a model alone a model alone is made. Raises WrongUse where something is in
    `out` already.
    """
    out = vacant(out)
    save_model(model, out)
    if (run.path / "recipe.json").is_file():
        write_json(out / "recipe.json", {**run.recipe, "derived": derived})
    lines = [line for line in run.log() if line["images"] <= images]
    if lines:  # what was spent; the exam of the log was of other weights
        spent = {**lines[-1], "losses": {}, "exam": {}, "finished": True}
        write_text(out / "log.jsonl", json.dumps(spent) + "\n")
    return Run(out)


def save_model(model: Model, directory: str | Path) -> None:
    """Writes model.json and model.safetensors: all that the right panel needs."""
    directory = Path(directory)
    save_weights(model, directory / "model.safetensors")
    write_json(directory / "model.json", to_tree(model), verbatim=True)  # names of attributes are arguments


def save_weights(model: Model, path: Path) -> None:
    """Writes the weights alone; model.json says what they belong to."""
    write_tensors(path, model.state_dict())


def load_model(
    directory: str | Path, device: torch.device | str = "auto", weights: Path | None = None
) -> Model:
    """The model of a run directory, in evaluation mode, with its own weights or others of the same run.

    Takes at most the weights, 40 bytes for each value in them, and 128 MiB.
    Raises RunError where files are missing, do not fit, or describe what the weights do not account for.
    """
    directory = open_run(directory).path
    if not (directory / "model.json").is_file():
        raise RunError(f"{directory} has no model yet", "let its training reach the first tick")
    tree, file = read_json(directory / "model.json"), weights or directory / "model.safetensors"
    tensors = read_tensors(file)[0] if file.exists() else {}
    # what is stored says how large the model may be
    model = from_tree(tree, sum(map(Tensor.numel, tensors.values())), len(tensors))
    if not isinstance(model, Model):
        raise RunError(f"{directory / 'model.json'} does not describe a model")
    if not file.exists():
        raise RunError(f"there is no {file}")
    try:
        model.load_state_dict(tensors)
    except Exception as error:  # modules read their own parts, and fail in their own ways
        raise RunError(f"{file} does not fit model.json: {shown(str(error), 400)}") from error
    where = devices.pick(str(device))
    return model.to(where, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload, no-any-return]
