"""A run repeated from what it recorded, and compared with itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from diptych import catalog
from diptych.checking import made, misfit, need, shown
from diptych.data import open_data
from diptych.data.images import DataSet
from diptych.errors import Alarmed, DataError, Diverged, RunError, WrongUse
from diptych.measuring.quick import QuickExam
from diptych.method import Clock
from diptych.runs import Run, open_run
from diptych.system import parallel
from diptych.system.files import expanded, write_json
from diptych.system.provenance import environment
from diptych.training.agreement import Agreement, compared
from diptych.training.claims import describe, weights_read
from diptych.training.loop import train
from diptych.training.state import Settings
from diptych.training.track import Watch

log = logging.getLogger("diptych")
KEPT = ("images", "shards", "probe", "exam")  # what a training found out before its first step
NAMED = Mapping[str, Any]
NEEDED = {"recipe": str, "arguments": NAMED, "data": NAMED, "settings": NAMED, "images": int}
CARD: NAMED = dict.fromkeys(("source", "train_sha256", "held_out_sha256"), str)
CARD = {**CARD, **dict.fromkeys(("n_train", "n_held_out"), int)}
MOST_THREADS = 4096
# of `open_data`, as a card has them; a stranger's may not say where to write a cache
OPENED = {"size": int | None, "fit": str, "channels": int | None, "held_out": float | None, "flip": bool}
OPENED |= {"attributes": str}
BESIDE = {"machine": NAMED, "versions": NAMED, "weights_sha256": NAMED, "forced": Sequence[NAMED]}


class Enough(Exception):
    """The repetition has come as far as the run that it repeats."""


def runs_in(path: str | Path) -> list[Run]:
    """The run of a directory, or all runs of a duel. Raises RunError where there is none."""
    path = expanded(path)
    if not (path / "recipe.json").is_file():
        below = [Run(file.parent) for file in sorted(path.glob("[!.]*/recipe.json"))]
        if below:
            return below
    return [open_run(path)]


def rerun(
    run: Run, out: str | Path, *, source: str = "", device: str = "", watch: Watch | None = None
) -> Agreement:
    """Trains once more what `run` recorded, into `out`, and compares. Interrupted and called again, it
    goes on. An unfinished run is repeated as far as its log goes, also past an alarm that stopped it.

    source: where the data lies now. device: another one than then.
    Raises DataError where the data is not the one of then, RunError where there is nothing to repeat or a run
    that it began from has changed.
    """
    recorded = repeatable(run)
    data = data_of(recorded, source)
    again = Run(Path(out))
    with threads_of(recorded):
        spec, arguments = catalog.recipe(recorded["recipe"]), recorded["arguments"]
        settings = settings_of(recorded, device)
        unchanged(recorded, weights_read(spec, arguments, settings))
        now = environment(settings.device)
        if not (again.path / "recipe.json").exists() and parallel.rank() == 0:
            known = {key: recorded[key] for key in KEPT if key in recorded}
            write_json(again.path / "recipe.json", describe(spec, data, arguments, settings) | known)
        parallel.wait()
        looking = as_far_as(run, watch)
        with suppress(Enough, Diverged):
            going = True
            while going:
                try:
                    train(
                        spec,
                        data,
                        again.path,
                        arguments=arguments,
                        settings=settings,
                        examine=exam_of(run, data),
                        watch=looking,
                    )
                    going = False
                except Alarmed:
                    # it rings after a line of the log: each call comes farther than the one before
                    going = goes_on(run, again)
        return compared(run, Run(again.path), data, circumstances(recorded, now))


def repeatable(run: Run) -> Mapping[str, Any]:
    """What a run recorded. Raises RunError where that is not enough to repeat it."""
    recorded = run.recipe
    if missing := [k for k in NEEDED if k not in recorded]:
        raise RunError(f"{run.path} has not recorded its {missing[0]}, and cannot be repeated")
    file = str(run.path / "recipe.json")
    need(recorded, NEEDED | {name: kind for name, kind in BESIDE.items() if name in recorded}, file)
    need(recorded["data"], CARD, f"data in {file}")
    threads = recorded.get("machine", {}).get("threads", 1)
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise RunError(f"{file} cannot be read: machine.threads is {shown(threads)}")
    if "derived" in recorded:
        raise RunError(f"{run.path} was made of a run and not trained", "repeat the run that it was made of")
    lines = run.log()
    if not lines:
        raise RunError(f"{run.path} has no line in its log yet", "let its training reach the first tick")
    if not run.finished and parallel.several():
        raise WrongUse(f"{run.path} is unfinished, and repeated by one process only", "leave torchrun out")
    for forced in recorded.get("forced", ()):
        need(forced, {"changes": Sequence[str], "after_images": int}, f"forced in {file}")
        changes = "; ".join(forced["changes"])
        log.warning(
            "%s went on with other arguments after %s images: %s",
            run.path,
            f"{forced['after_images']:,}",
            changes,
        )
    return recorded


def settings_of(recorded: Mapping[str, Any], device: str) -> Settings:
    """The settings of then; those that this version does not know are left out, and said."""
    known = {f.name for f in fields(Settings)}
    given = {k: v for k, v in recorded["settings"].items() if k in known}
    for name in sorted(recorded["settings"].keys() - known):
        log.warning("this version has no setting %s", name)
    settings = made(Settings, given, "settings in recipe.json")
    return replace(settings, device=device) if device else settings


def data_of(recorded: Mapping[str, Any], source: str = "") -> DataSet:
    """The data of then, opened again. Raises DataError where it is not there or not the same."""
    card = recorded["data"]
    where, asked = source or card["source"], card.get("arguments", {})
    for name, kind in OPENED.items():
        if name in asked and (said := misfit(asked[name], kind, name)):
            raise RunError(f"the data's arguments in recipe.json cannot be read: {said}")
    try:
        data = open_data(where, **{name: asked[name] for name in OPENED if name in asked})
    except DataError as error:
        hint = "start from the directory that the run was started from, or say where it lies now: --data"
        raise DataError(f"the data of the run cannot be opened: {error.message}", hint) from error
    for part, n, now in (
        ("train_sha256", "n_train", data.card.train_sha256),
        ("held_out_sha256", "n_held_out", data.card.held_out_sha256),
    ):
        if card[part] != now:
            raise DataError(
                f"{where} has changed since: {part} was {card[part][:16]}… of {card[n]:,} images, "
                f"and is {now[:16]}… of {getattr(data.card, n):,}",
                "repeat it on the data of then, or train anew on that of now",
            )
    return data


def unchanged(recorded: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raises RunError where a run that this one began from, or learned of, is gone or has other weights."""
    named = {**recorded["settings"], **recorded["arguments"]}
    for name, then in recorded.get("weights_sha256", {}).items():
        if now.get(name) != then:
            what = "are others than" if name in now else "are not there, which were there"
            raise RunError(f"the weights of --{name} {named.get(name, '')} {what} when the run was started")


class threads_of:
    """As many threads as a run had, as long as this lasts: sums on the CPU depend on them."""

    def __init__(self, recorded: Mapping[str, Any]) -> None:
        self.before = torch.get_num_threads()
        self.wanted = recorded.get("machine", {}).get("threads", self.before)

    def __enter__(self) -> None:
        torch.set_num_threads(self.wanted)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.before)


def exam_of(run: Run, data: DataSet) -> QuickExam | None:
    """The exam of then, which recipe.json says the terms of; alarms only where the log has any."""
    if "exam" not in run.recipe:
        return None
    return QuickExam(data) if any(line.get("alarms") for line in run.log()) else QuickExam(data, level=0)


def goes_on(run: Run, again: Run) -> bool:
    """Whether a run went on where an alarm has just stopped its repetition; of several processes all ask."""
    then, now = run.log(), again.log()
    further = parallel.of_first(bool(now) and now[-1]["images"] < then[-1]["images"])
    if further:
        log.info("%s went on after this alarm, and so does its repetition", run.path)
    return bool(further)


def as_far_as(run: Run, watch: Watch | None) -> Watch:
    """A watch that stops the repetition of an unfinished run after its last line."""
    last = run.log()[-1]

    def looking(clock: Clock, logs: Mapping[str, float]) -> None:
        if not last.get("finished") and clock.images > last["images"]:
            raise Enough
        if watch is not None:
            watch(clock, logs)

    return looking


def circumstances(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What numbers depend on and is not as it was: one line each."""
    flat_then, flat_now = (
        {
            **tree.get("versions", {}),
            **tree.get("machine", {}),
            **{k: tree.get(k) for k in ("processes", "matmul")},
        }
        for tree in (recorded, now)
    )
    return tuple(
        f"{name}: {flat_then[name]} then, {flat_now.get(name)} now"
        for name in flat_then
        if flat_then[name] is not None and flat_then[name] != flat_now.get(name) and name != "memory_gib"
    )


__all__ = ["Agreement", "rerun", "runs_in"]
