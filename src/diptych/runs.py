"""Run directories: what a training leaves, and how it is opened again. Nothing in one executes on load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from diptych import device as devices
from diptych.checkpoints import Checkpoints
from diptych.errors import RunError
from diptych.files import read_json, read_tensors, write_json, write_tensors, write_text
from diptych.model import Model
from diptych.saveable import from_tree, to_tree

QUALITY = "fid"  # of the exams: which of a run's moments was the best


@dataclass(frozen=True)
class Run:
    """A run directory: recipe.json, log.jsonl, model.json, model.safetensors, checkpoints, best, samples."""

    path: Path

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
        """The recipe's name and arguments, the data, the settings, the versions."""
        return cast(Mapping[str, Any], read_json(self.path / "recipe.json"))

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
        return {int(p.stem): p for p in sorted((self.path / "snapshots").glob("*.safetensors"))}

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
        return {key: log[-1][key] for key in ("images", "seconds", "flop")} if log else {}


def open_run(path: str | Path) -> Run:
    """A run directory that is there. Raises RunError with a hint where it is not one."""
    path = Path(path)
    if not (path / "recipe.json").is_file() and not (path / "model.json").is_file():
        what = "there is no" if not path.exists() else "there is no run in"
        raise RunError(f"{what} {path}", "diptych train RECIPE DATA --out RUN makes one")
    return Run(path)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a .jsonl file, parsed."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return


def best_of(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line of log.jsonl with the best exam, the first of equals; None where there was none."""
    scored = [line for line in lines if QUALITY in line["exam"]]
    return min(scored, key=lambda line: line["exam"][QUALITY], default=None)


def save_best(model: Model, run: Run, line: Mapping[str, Any]) -> None:
    """Writes RUN/best: the model as it is, with the recipe and the line of the log that it belongs to."""
    save_model(model, run.best)
    write_json(run.best / "recipe.json", run.recipe)
    write_text(run.best / "log.jsonl", json.dumps(line) + "\n")


def save_model(model: Model, directory: str | Path) -> None:
    """Writes model.json and model.safetensors: all that the right panel needs."""
    directory = Path(directory)
    save_weights(model, directory / "model.safetensors")
    write_json(directory / "model.json", to_tree(model))


def save_weights(model: Model, path: Path) -> None:
    """Writes the weights alone; model.json says what they belong to."""
    write_tensors(path, model.state_dict())


def load_model(
    directory: str | Path, device: torch.device | str = "auto", weights: Path | None = None
) -> Model:
    """The model of a run directory, in evaluation mode, with its own weights or others of the same run.

    Raises RunError where files are missing or do not fit.
    """
    directory = open_run(directory).path
    if not (directory / "model.json").is_file():
        raise RunError(f"{directory} has no model yet", "let its training reach the first tick")
    model = from_tree(read_json(directory / "model.json"))
    if not isinstance(model, Model):
        raise RunError(f"{directory / 'model.json'} does not describe a model")
    file = weights or directory / "model.safetensors"
    tensors, _ = read_tensors(file)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"{file} does not fit model.json: {error}") from error
    where = devices.pick(str(device))
    return model.to(where, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload, no-any-return]
