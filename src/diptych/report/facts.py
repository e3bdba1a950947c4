"""What stands on the cards: data, ruler, machine, and what was really spent, as names and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diptych.report.record import Contender, DuelRecord
from diptych.report.table import PREFIXES, prefix
from diptych.scores import number

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Spent:
    """One contender's use of its budget."""

    name: str
    index: int
    images: str
    time: str
    compute: str
    arguments: str


def spent_rows(record: DuelRecord) -> list[Spent]:
    """What each contender really used, and the arguments it was trained with."""
    rows = []
    for index, contender in enumerate(record.contenders):
        spent = contender.spent
        images = f"{spent['images']:,.0f}" if "images" in spent else "–"
        time = duration(spent["seconds"]) + exams(contender) if "seconds" in spent else "–"
        compute = large(spent["flop"], "FLOP") if spent.get("flop") else "–"
        arguments = " ".join(f"--{k.replace('_', '-')} {text(v)}" for k, v in contender.arguments.items())
        rows.append(
            Spent(contender.name, index, images, time, compute, f"{contender.recipe} {arguments}".strip())
        )
    return rows


def exams(contender: Contender) -> str:
    """What exams and sample sheets took beside the training, as far as its log says."""
    seconds = sum(line.get("exam_seconds", 0.0) + line.get("sheet_seconds", 0.0) for line in contender.curve)
    share = 100 * seconds / max(contender.spent["seconds"], 1e-9)
    return f" + {duration(seconds)} of exams and samples ({number(share)} %)" if seconds else ""


def data_facts(card: Mapping[str, Any]) -> Facts:
    """The data card, in the words of a person; fields that it does not know are shown as they are."""
    facts: Facts = []
    rest = dict(card)
    for key, name in (("name", "name"), ("source", "source")):
        if rest.get(key):
            facts.append((name, text(rest.pop(key))))
    if "n_train" in rest and "n_held_out" in rest:
        facts.append(("images", f"{rest.pop('n_train'):,} to train on, {rest.pop('n_held_out'):,} held out"))
    if shape := rest.pop("shape", None):
        channels, height, width = shape
        facts.append(("size", f"{width} × {height} pixels, {channels} channel{'s' if channels > 1 else ''}"))
    incidents = rest.pop("incidents", ())
    counts = rest.pop("class_counts", {})
    facts += flat({key: value for key, value in rest.items() if value not in ({}, (), [])})
    if counts:
        facts.append(
            (f"{len(counts)} classes", ", ".join(f"{name}: {count:,}" for name, count in counts.items()))
        )
    facts.append(
        ("odd files", "; ".join(map(incident, incidents[:12])) + more(incidents, 12) if incidents else "none")
    )
    return facts


def incident(found: Mapping[str, Any]) -> str:
    """One odd file, and what was done about it."""
    return f"{found.get('file', '?')}: {found.get('what', '')} ({found.get('done', '')})"


def more(items: Sequence[Any], shown: int) -> str:
    """How many are left out here."""
    return f"; and {len(items) - shown:,} more, listed in report.json" if len(items) > shown else ""


def ruler_facts(record: DuelRecord) -> Facts:
    """The ruler card that all reports share."""
    return flat(asdict(record.points[0].ruler)) if record.points else []


def weights_facts(record: DuelRecord) -> Facts:
    """The beginning of the hash of each contender's weights, by which what was shipped can be told."""
    return [(c.name, short("sha256", c.weights_sha256)) for c in record.contenders if c.weights_sha256]


def flat(tree: Mapping[str, Any]) -> Facts:
    """Any card as names and texts."""
    return [(spoken(key), text(short(key, value))) for key, value in tree.items() if value not in ("", None)]


def short(key: str, value: Any) -> Any:
    """The beginning of a checksum; report.json has all of it."""
    return f"{value[:16]}…" if "sha256" in str(key) and isinstance(value, str) and len(value) > 16 else value


def spoken(key: str) -> str:
    """A field's name without underscores."""
    return str(key).replace("_", " ")


def text(value: Any) -> str:
    """Any plain value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{spoken(key)} {text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(text(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(42.31), duration(598), duration(7384)
    ('42.3 s', '9 min 58 s', '2 h 3 min')
    """
    if not math.isfinite(seconds) or seconds < 60:
        return f"{number(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def large(value: float, unit: str) -> str:
    """A count with the prefix that fits.

    >>> large(1.25e15, "FLOP")
    '1.25 PFLOP'
    """
    power = prefix([value])
    return f"{number(value / 1000.0**power)} {PREFIXES[power]}{unit}"
