"""Progress while training: images a second, time left, the last exam, and under it what each phase says;
plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from diptych.method import Clock
    from diptych.training.track import Watch

EXAM = "Samples scored at ticks; 0: none; auto: as many, and as often, as 5 % of the time allow."
SHOWN = ("fid", "coverage")  # of the exam: how good, and whether all of the data is there
SHORT = {"logit_gap": "gap", "real_sign": "sign", "gradient_penalty": "gp"}
HIDDEN = ("real_logit", "fake_logit")  # their gap is shown
BETWEEN = "  ·  "


@contextmanager
def watching(rank: int = 0) -> Iterator[Callable[[str], Watch]]:
    """Yields a maker of watchers, one a contender; of several processes the first alone tells anything."""
    if rank:
        yield lambda name: lambda clock, logs: None
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:,.0f} images/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[exam]}"),
    )
    progress, details = (
        Progress(*columns, console=console, disable=not console.is_terminal),
        Text(style="dim"),
    )
    if not console.is_terminal:
        yield lambda name: watcher(name, progress, details, console)
        return
    with Live(Group(progress, details), console=console):
        yield lambda name: watcher(name, progress, details, console)


def watcher(name: str, progress: Progress, details: Text, console: Console) -> Watch:
    """Tells a bar and the lines under it, or every ten seconds a line, where training stands."""
    task = progress.add_task(name, total=None, rate=0.0, exam="")
    first: list[float] = []  # time and images when watching began, and the time of the last line

    def watch(clock: Clock, logs: Mapping[str, float]) -> None:
        now = time.monotonic()
        if not first:
            first.extend((now, clock.images, now))
        rate = (clock.images - first[1]) / max(1e-9, now - first[0])
        exam = "  ".join(part for part in (examined(logs), ringing(logs)) if part)
        said = spoken(logs)
        details.plain = said
        completed = min(clock.images, clock.total)
        progress.update(task, total=clock.total, completed=completed, rate=rate, exam=exam)
        if progress.disable and (now - first[2] > 10 or clock.images >= clock.total):
            first[2] = now
            left = (clock.total - clock.images) / max(rate, 1e-9)
            share = min(100, 100 * clock.images // max(1, clock.total))
            line = f"{name} {share:3d} %  {rate:,.0f} images/s  {max(0, left):,.0f} s left"
            console.print("  ".join(part for part in (line, exam, said) if part), soft_wrap=True)

    return watch


def examined(logs: Mapping[str, float]) -> str:
    """The last exam.

    >>> examined({"exam/fid": 12.34, "exam/kid": 0.1, "critic": 0.5})
    'fid 12.3'
    """
    return "  ".join(f"{name} {logs[f'exam/{name}']:.3g}" for name in SHOWN if f"exam/{name}" in logs)


def ringing(logs: Mapping[str, float]) -> str:
    """Alarms that are not ok, coloured: yellow beyond chance, red an alarm.

    >>> ringing({"alarm/collapse": 2.0, "alarm/quality": 1.0, "critic": 0.5})
    '[bold red]collapse![/]  [yellow]quality?[/]'
    """
    found = {n.removeprefix("alarm/"): v for n, v in logs.items() if n.startswith("alarm/")}
    loud = [f"[bold red]{name}![/]" for name, state in found.items() if state > 1]
    return "  ".join(loud + [f"[yellow]{name}?[/]" for name, state in found.items() if state == 1])


def spoken(logs: Mapping[str, float]) -> str:
    """Each phase's loss with the norm of its gradient, then all else that is logged.

    >>> spoken({"real_logit": 1.0, "logit_gap": 0.25, "critic": 0.5, "critic_gradient": 9.04, "exam/fid": 1})
    'critic 0.5 ∇9.04  ·  gap 0.25'
    """
    phases = [name for name in logs if f"{name}_gradient" in logs]
    told = [f"{name} {logs[name]:.3g} ∇{logs[f'{name}_gradient']:.3g}" for name in phases]
    rest = [
        f"{SHORT.get(name, name)} {value:.3g}"
        for name, value in logs.items()
        if name not in (*phases, *HIDDEN)
        and not name.endswith("_gradient")
        and not name.startswith(("exam/", "alarm/"))
    ]
    return BETWEEN.join(["  ".join(told), "  ".join(rest)] if told and rest else ["  ".join(told + rest)])
