"""What --dry-run says: time, memory and disk, and what they go to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diptych.cli.common import show, table
from diptych.report.facts import duration, large

if TYPE_CHECKING:
    from diptych.training.forecast import Forecast


def foretell(forecasts: Mapping[str, Forecast], as_json: bool) -> None:
    """One forecast as a table of its parts, several as a table with a row for each."""
    if as_json:
        plain = {name: each.to_json() for name, each in forecasts.items()}
        show(plain if len(plain) > 1 else next(iter(plain.values())))
        return
    if len(forecasts) > 1:
        columns = ["contender", "images", "time", "memory", "disk", "images/s", "FLOPs"]
        table([[name, *summary(each)] for name, each in forecasts.items()], columns)
        return
    for name, each in forecasts.items():
        table(parts(each), [name, "expected", ""])


def summary(each: Forecast) -> list[str]:
    """A forecast in one row."""
    return [
        f"{each.images:,}",
        duration(each.seconds),
        mebibytes(each.memory_mib),
        mebibytes(each.disk_mib),
        f"{each.images_per_s:,.0f}",
        large(each.images * each.flop_per_image, "FLOP"),
    ]


def parts(each: Forecast) -> list[list[str]]:
    """Rows of a table: the sums, and what they are made of."""
    images, time, memory, disk, rate, flop = summary(each)
    looks = f"{each.exams} of {each.exam_images:,} images" if each.exams else ""
    older = f"{mebibytes(each.disk_most_mib)} with a best checkpoint that is old, " if each.exams else ""
    low, high = map(duration, each.seconds_between)
    notes = {"steps": f"{rate} images/s", "exams": looks, "checkpoints": f"{each.ticks}, with logs"}
    return [
        ["images", images, f"in batches of {each.batch}"],
        ["compute", flop, f"{large(each.flop_per_image, 'FLOP')} an image"],
        ["time", time, f"from start to end; {low} to {high} at the speeds seen"],
        *([f"  {what}", duration(s), notes.get(what, "")] for what, s in each.seconds_of.items() if s > 0),
        ["memory", memory, "at the peak"],
        ["disk", disk, f"{older}up to {mebibytes(each.disk_peak_mib)} on the way"],
        *([f"  {what}", mebibytes(mib), ""] for what, mib in each.disk_of.items() if mib >= 0.05),
    ]


def mebibytes(mib: float) -> str:
    """An amount of memory as a person reads it.

    >>> mebibytes(0.21), mebibytes(310.4), mebibytes(1950.0)
    ('0.21 MiB', '310 MiB', '1.9 GiB')
    """
    if mib >= 1024:
        return f"{mib / 1024:.1f} GiB"
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.2g} MiB"
