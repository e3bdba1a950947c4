"""Two runs beside each other: the same bit for bit or, if not, by how much and since when."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.images import DataSet
from diptych.evaluation import evaluate
from diptych.files import read_tensors
from diptych.provenance import tensors_sha256
from diptych.quick import QUICK
from diptych.runs import Run
from diptych.scores import Estimate

log = logging.getLogger("diptych")
SCORED = 2000  # samples that scores are compared by, where the weights differ


@dataclass(frozen=True)
class Agreement:
    """What was the same, and what was not."""

    run: str
    again: str
    lines: int  # of the log that were compared
    weights: str = ""  # by how much they differ; empty: not at all
    log: str = ""  # the first line that differs, and in what
    samples: str = ""  # how many sheets differ, and by how much
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
    """The two runs beside each other; scores are looked at where the weights differ."""
    lines = run.log()
    found = Agreement(
        str(run.path),
        str(again.path),
        len(lines),
        weights_differ(run, again),
        lines_differ(lines, again.log()),
        samples_differ(run.path / "samples", again.path / "samples"),
        otherwise,
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


def lines_differ(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    """The first line of the log that differs, and in what; times are left out."""
    for i, line in enumerate(then):
        if i >= len(now):
            return f"the repetition has {len(now)} lines, not {len(then)}"
        for name, a, b in leaves_that_differ(line, now[i]):
            return f"line {i + 1}, after {line['images']:,} images, has {name} {a} then, {b} now"
    return ""


def leaves_that_differ(
    then: Mapping[str, Any], now: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Values of the entries that both have and that are not the same; not-a-number is the same as itself."""
    for key in then.keys() & now.keys() if place else [key for key in then if key in now]:
        a, b = then[key], now[key]
        if key.endswith("seconds"):
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from leaves_that_differ(a, b, f"{place}{key}.")
        elif json.dumps(a) != json.dumps(b):
            yield f"{place}{key}", a, b


def samples_differ(then: Path, now: Path) -> str:
    """How many sheets differ, and by how many levels at most."""
    names = sorted({f.name for f in then.glob("[0-9]*.png")} & {f.name for f in now.glob("[0-9]*.png")})
    apart = [levels(then / name, now / name) for name in names]
    differing = sum(found > 0 for found in apart)
    return (
        f"{differing} of {len(names)} sheets differ, by up to {max(apart)} levels of 255" if differing else ""
    )


def levels(one: Path, other: Path) -> int:
    """The largest difference of two pictures; 255 where their sizes differ."""
    a, b = (np.asarray(Image.open(file), dtype=np.int16) for file in (one, other))
    return int(np.abs(a - b).max(initial=0)) if a.shape == b.shape else 255


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
