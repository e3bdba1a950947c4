"""Two runs beside each other: the same bit for bit or, if not, by how much and since when."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from diptych.checking import shown
from diptych.data.decode import MAX_FILE_BYTES, Unreadable, header_size, open_image, strict_pillow
from diptych.data.images import DataSet
from diptych.errors import RunError
from diptych.measuring.evaluation import evaluate
from diptych.measuring.quick import QUICK
from diptych.runs import Run
from diptych.scores import Estimate
from diptych.system.files import read_tensors
from diptych.system.provenance import tensors_sha256

log = logging.getLogger("diptych")
SCORED = 2000  # samples that scores are compared by, where the weights differ
PNG = b"\x89PNG"  # how every sheet begins that a training writes
T = TypeVar("T")


class Absent:
    """In the place of a value that only the other line has."""


ABSENT = Absent()


@dataclass(frozen=True)
class Agreement:
    """What was the same, and what was not."""

    run: str
    again: str
    lines: int  # of the log that were compared
    weights: str = ""  # by how much they differ; empty: not at all
    log: str = ""  # the first line that differs, and in what
    sheets: int = 0  # of samples, that were compared: those that both have
    samples: str = ""  # how many sheets differ, and by how much, or are not there again
    circumstances: tuple[str, ...] = ()  # what was otherwise: versions, the machine, its threads
    scores: Mapping[str, tuple[Estimate, Estimate]] = field(default_factory=dict)  # then and now

    @property
    def exact(self) -> bool:
        """Bit for bit."""
        return not (self.weights or self.log or self.samples)

    @property
    def close(self) -> bool:
        """Whether all scores have intervals that overlap, where bits differ."""
        return self.exact or (bool(self.scores) and not self.apart)

    @property
    def apart(self) -> list[str]:
        """Scores whose intervals do not overlap."""
        return [
            name for name, (then, now) in self.scores.items() if then.low > now.high or now.low > then.high
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain types, for json.dumps."""
        scores = {name: [e.to_json() for e in pair] for name, pair in self.scores.items()}
        return {**asdict(self), "scores": scores, "exact": self.exact, "close": self.close}


def compared(run: Run, again: Run, data: DataSet, otherwise: tuple[str, ...]) -> Agreement:
    """The two runs beside each other; scores are looked at where the weights differ.

    Other versions of diptych may write other entries: of two versions, entries that one run alone has are
    told among the circumstances. Raises RunError where a sheet of samples cannot be read.
    """
    lines, now, strict = run.log(), again.log(), of_one_version(run, again)
    last = lines[-1]["images"] if lines else 0
    sheets, sheets_now = (sheets_of(one.path / "samples", last) for one in (run, again))
    found = Agreement(
        str(run.path),
        str(again.path),
        len(lines),
        weights=weights_differ(run, again),
        log=lines_differ(lines, now, strict),
        sheets=len(sheets.keys() & sheets_now.keys()),
        samples=samples_differ(sheets, sheets_now),
        circumstances=otherwise if strict else (*otherwise, *unshared(lines, now)),
    )
    return replace(found, scores=scored(run, again, data)) if found.weights else found


def weights_differ(run: Run, again: Run) -> str:
    """By how much the averaged weights differ at most, and where."""
    (then, _), (now, _) = (read_tensors(one.path / "model.safetensors") for one in (run, again))
    if tensors_sha256(then) == tensors_sha256(now):
        return ""
    if then.keys() != now.keys() or any(then[name].shape != now[name].shape for name in then):
        return "they are of different networks"
    apart = {
        name: float((then[name].double() - now[name].double()).abs().max())
        for name in then
        if then[name].numel()
    }
    name = max(apart, key=lambda key: apart[key])
    largest = float(then[name].double().abs().max())
    return f"they differ by up to {apart[name]:.2g}, in {name}, whose values go up to {largest:.2g}"


def of_one_version(run: Run, again: Run) -> bool:
    """Whether the same source made both."""
    then, now = (one.recipe.get("versions", {}).get("source_sha256") for one in (run, again))
    return then is not None and then == now


def lines_differ(
    then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], strict: bool = True
) -> str:
    """The first line of the log that differs, and in what; times are left out.

    strict: an entry that only one of two lines has is a difference.
    """
    for i, line in enumerate(then):
        if i >= len(now):
            return f"the repetition has {len(now)} lines, not {len(then)}"
        for name, a, b in leaves_that_differ(line, now[i]):
            if strict or (a is not ABSENT and b is not ABSENT):
                return (
                    f"line {i + 1}, after {line['images']:,} images, has {name} {told(a)} then, {told(b)} now"
                )
    return ""


def unshared(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for the entries that one log alone has, and one for those that the other has."""
    names: tuple[dict[str, None], dict[str, None]] = {}, {}  # in order
    for line, other in zip(then, now, strict=False):
        for name, a, b in leaves_that_differ(line, other):
            if a is ABSENT or b is ABSENT:
                names[a is ABSENT][name] = None
    for found, when in zip(names, ("then", "now"), strict=True):
        if found:
            yield f"the log has these entries {when} alone: {', '.join(found)}"


def leaves_that_differ(
    then: Mapping[str, Any], now: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Values that are not the same, ABSENT for one that is not there; not-a-number is the same as itself."""
    for key in (*then, *(key for key in now if key not in then)):
        a, b, name = then.get(key, ABSENT), now.get(key, ABSENT), f"{place}{shown(key)[1:-1]}"
        if key.endswith("seconds"):
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from leaves_that_differ(a, b, f"{name}.")
        elif type(a) is not type(b) or json.dumps(a) != json.dumps(b):
            yield name, a, b


def told(value: Any) -> str:
    """A value of a log line in words."""
    return "none" if value is ABSENT else shown(value)


def sheets_of(folder: Path, images: int) -> dict[str, Path]:
    """The sheets of samples up to so many images; a kill may leave a later one, whose line is not there."""
    found = {file.name: re.match("[0-9]+", file.name) for file in sorted(folder.glob("[0-9]*.png"))}
    return {
        name: folder / name
        for name, number in found.items()
        if number and int(number[0]) <= images and (folder / name).is_file()
    }


def samples_differ(then: Mapping[str, Path], now: Mapping[str, Path]) -> str:
    """How many sheets the repetition lacks; how many differ, and by how many levels at most."""
    lacking = len(then.keys() - now.keys())
    said = [f"the repetition lacks {lacking} of {len(then)} sheets"] if lacking else []
    with strict_pillow():
        apart = [levels(then[name], now[name]) for name in then if name in now]
    if differing := sum(found > 0 for found in apart):
        said.append(f"{differing} of {len(apart)} sheets differ, by up to {max(apart)} levels of 255")
    return "; ".join(said)


def levels(one: Path, other: Path) -> int:
    """The largest difference of two pictures; 255 where their sizes differ."""
    size, other_size = (decoded(file, header_size) for file in (one, other))
    if size != other_size:
        return 255  # and neither is decoded: a stranger's may be very large
    a, b = (np.asarray(decoded(file, open_image).image, dtype=np.int16) for file in (one, other))
    return int(np.abs(a - b).max(initial=0)) if a.shape == b.shape else 255


def decoded(file: Path, decoder: Callable[[bytes], T]) -> T:
    """What a decoder makes of a sheet. Raises RunError where it is no PNG file, or a damaged one."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if not data.startswith(PNG) or len(data) > MAX_FILE_BYTES:
            raise Unreadable(f"it is no PNG file of at most {MAX_FILE_BYTES >> 20} MiB")
        return decoder(data)
    except (OSError, Unreadable) as error:
        raise RunError(
            f"{file} cannot be read: {error}", "where it is removed, the other sheets are compared"
        ) from error


def scored(run: Run, again: Run, data: DataSet) -> dict[str, tuple[Estimate, Estimate]]:
    """Scores of both, of the same seeds, with their intervals."""
    log.info("weights differ: both are measured")
    then, now = (
        evaluate(
            one.model("cpu"),
            data,
            name=one.path.name,
            recipe=run.recipe["recipe"],
            n=min(SCORED, len(data.held_out)),
            metrics=QUICK,
            floor=False,
            strict=False,
        ).scores
        for one in (run, again)
    )
    return {name: (then[name], now[name]) for name in then if name in now}
