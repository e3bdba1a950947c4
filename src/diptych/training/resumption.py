"""A run taken up again: the newest state, and what was written after it forgotten."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.errors import RunError
from diptych.runs import Run, best_of, read_lines
from diptych.system import parallel
from diptych.system.files import clear_temporaries, write_text
from diptych.training import averages
from diptych.training.state import Training
from diptych.training.transfer import begin

log = logging.getLogger("diptych")


def take_up(run: Run, training: Training) -> float:
    """Brings a training to where its run stands, and forgets what was written after that.

    Returns the seconds spent so far. Raises RunError where the state cannot be read, or is not there though
    the run went on for a while. Of several processes all call it.
    """
    one_directory(run)
    for caveat in training.caveats:
        log.warning("%s", caveat)
    seconds = resume(run, training) if run.checkpoints.newest else start(run, training)
    parallel.wait()  # until all have seen what there was
    if parallel.rank() == 0:
        tidy(run, training.images, training.settings.keep)
    parallel.wait()
    return seconds


def one_directory(run: Run) -> None:
    """Raises RunError where processes, on different machines, do not find the same checkpoints."""
    names = sorted(path.name for path in run.checkpoints.kept.values())
    if parallel.anywhere(parallel.of_first(names) != names):
        raise RunError(
            f"{run.path} is not the same directory for all processes",
            "all machines need it on a file system that they share",
        )


def start(run: Run, training: Training) -> float:
    """The first step, or, where training is over and only its checkpoints were removed, the last."""
    lines = run.log()
    last = lines[-1] if lines else {}
    over = bool(last.get("finished"))  # its model was written before its line
    if over and last["images"] >= training.total:  # and no longer budget was forced upon it
        training.images = last["images"]  # the last batch may have gone beyond the budget
        return float(run.spent["seconds"])
    if len(lines) < 2 and not over:  # the first tick writes its line before its checkpoint
        return begin(training)
    raise RunError(
        f"{run.path} has seen {last['images']:,} images, but its checkpoints are gone",
        f"begin a new run from its weights: --init {run.path}; or, to start over, choose another --out",
    )


def resume(run: Run, training: Training) -> float:
    """Takes up the newest state. Returns the seconds spent so far."""
    newest = run.checkpoints.newest
    assert newest is not None
    state = run.checkpoints.read(newest)
    try:
        whole_log(run, state)
        training.load_state_dict(state)
        seconds = float(state["seconds"])
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise RunError(f"{newest} does not fit this recipe: {shortened(error)}") from error
    if training.images >= training.total + training.batch:
        raise RunError(
            f"{run.path} has seen {training.images:,} images, more than the {training.total:,} asked for",
            "a larger --budget, or another --out",
        )
    return seconds


def whole_log(run: Run, state: Mapping[str, Any]) -> None:
    """Raises RunError where the log has lost lines that were written before this state."""
    images = state["images"]
    found = sum(line["images"] <= images for line in run.log())
    if found < state["lines"]:
        raise RunError(
            f"{run.path / 'log.jsonl'} holds {found} lines of the first {images:,} images, "
            f"where {state['lines']} were written",
            f"mend it from a copy of the run; or go on from the weights as a new run: --init {run.path}",
        )


def shortened(error: Exception, most: int = 300) -> str:
    """What an error says; of torch's pages of tensors only the beginning."""
    told = " ".join(str(error).split())
    return told if len(told) <= most else f"{told[:most]} ..."


def tidy(run: Run, images: int, keep: int) -> None:
    """Removes what a killed process left half written, or wrote after the state of so many images, which is
    the newest."""
    for part in ("", "checkpoints", "best", "samples", "snapshots", averages.FOLDER):
        clear_temporaries(run.path / part)
    kept = cut(run.path / "log.jsonl", images)
    averages.forget_after(run.path / averages.FOLDER, images)
    run.checkpoints.prune(keep)
    if best := best_of(kept):
        run.checkpoints.mark_best(best["images"])


def cut(file: Path, images: int) -> list[dict[str, Any]]:
    """Ends a log after so many images, and returns its lines."""
    if not file.exists():
        return []
    lines, now = list(read_lines(file)), file.read_text(encoding="utf-8")
    kept = [line for line in lines if line["images"] <= images]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    if now != text:
        write_text(file, text)
    return kept
