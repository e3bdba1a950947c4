"""The progress bar: images a second, time left, the last exam, losses; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from diptych.method import Clock

Watch = Callable[["Clock", Mapping[str, float]], None]
EXAM = "Samples scored at ticks; 0: none; auto: as many, and as often, as 5 % of the time allow."
SHOWN = ("fid", "coverage")  # of the exam: how good, and whether all of the data is there


@contextmanager
def watching() -> Iterator[Callable[[str], Watch]]:
    """Yields a maker of watchers, one a contender."""
    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:,.0f} images/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[losses]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield lambda name: watcher(name, progress, console)


def watcher(name: str, progress: Progress, console: Console) -> Watch:
    """Tells a bar, or every ten seconds a line, where training stands."""
    task = progress.add_task(name, total=None, rate=0.0, losses="")
    first: list[float] = []  # time and images when watching began, and the time of the last line

    def watch(clock: Clock, logs: Mapping[str, float]) -> None:
        now = time.monotonic()
        if not first:
            first.extend((now, clock.images, now))
        rate = (clock.images - first[1]) / max(1e-9, now - first[0])
        losses = spoken(logs)
        progress.update(
            task, total=clock.total, completed=min(clock.images, clock.total), rate=rate, losses=losses
        )
        if progress.disable and (now - first[2] > 10 or clock.images >= clock.total):
            first[2] = now
            left = (clock.total - clock.images) / max(rate, 1e-9)
            share = min(100, 100 * clock.images // max(1, clock.total))
            console.print(
                f"{name} {share:3d} %  {rate:,.0f} images/s  {max(0, left):,.0f} s left  {losses}",
                soft_wrap=True,
            )

    return watch


def spoken(logs: Mapping[str, float]) -> str:
    """The last exam, then losses, in one line.

    >>> spoken({"exam/fid": 12.34, "exam/kid": 0.1, "critic": 0.5, "critic_gradient": 9.0})
    'fid 12.3 | critic 0.5'
    """
    exam = [f"{name} {logs[f'exam/{name}']:.3g}" for name in SHOWN if f"exam/{name}" in logs]
    losses = [
        f"{name} {value:.3g}"
        for name, value in logs.items()
        if not name.startswith("exam/") and not name.endswith("_gradient")
    ]
    return " | ".join("  ".join(part) for part in (exam, losses) if part)
