"""The same page as Markdown: decision, table, reasons, budget, command."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from diptych.choice import said
from diptych.report.alarms import LOUD, alarms
from diptych.report.facts import data_facts, flat, ruler_facts, spent_rows, weights_facts
from diptych.report.record import DuelRecord
from diptych.report.table import Cell, Column, Row, Table, tables


def markdown(record: DuelRecord) -> str:
    """A summary that reads well in a terminal and on a code host."""
    choice = record.choice
    parts = [f"# {plain(record.title)}", f"**{plain(choice.verdict)}.** {plain(choice.sentence)}"]
    tied = [
        f"**{plain(report.name)}**: {plain(said(choice.best, report.scores[choice.best]))}"
        for report in choice.tied
    ]
    parts += bullets("Not told apart from it at this n", tied)
    parts += bullets("Dropped", [f"**{plain(name)}**: {plain(reason)}" for name, reason in choice.dropped])
    failed = [c for c in record.contenders if c.failed]
    parts += bullets("Failed", [f"**{plain(c.name)}**: {plain(c.failed)}" for c in failed])
    parts += bullets("Notes", [plain(note) for note in (*choice.notes, *record.notes)])
    for part in tables(record):
        parts += [f"## {part.title}", score_table(part)]
    parts.append(
        "Values with 95 % intervals; bold where the interval is apart from all others in the column."
    )
    parts += bullets("Alarms", alarm_lines(record))
    parts += ["## Spent", f"Each was given {plain(record.budget)}.", spent_table(record)]
    for title, facts in (
        ("Data", data_facts(record.data)),
        ("Ruler", ruler_facts(record)),
        ("Machine", flat(record.machine)),
        ("Versions", flat(record.versions)),
        ("Weights (sha256)", weights_facts(record)),
    ):
        parts += bullets(title, [f"{plain(name)}: {plain(text)}" for name, text in facts])
    if record.command:
        fence = "`" * max([2, *(len(run) for run in re.findall("`+", record.command))]) + "`"
        parts += ["## Again", f"{fence}console\n{record.command}\n{fence}"]
    return "\n\n".join(parts) + "\n"


def bullets(title: str, lines: Sequence[str]) -> list[str]:
    """A section, or nothing."""
    return [f"## {title}", "\n".join(f"- {line}" for line in lines)] if lines else []


def alarm_lines(record: DuelRecord) -> list[str]:
    """What alarms said of each training: those that rang, and how many did not."""
    lines = []
    for _, contender, told in alarms(record):
        loud = [each for each in told if each.state in LOUD]
        found = [f"{each.name}, **{each.state}** {plain(each.words)}" for each in loud]
        quiet = len(told) - len(loud)
        found += [f"{quiet} of {len(told)} alarms ok at all looks"] if quiet else []
        lines.append(f"**{plain(contender.name)}**: {'; '.join(found)}")
    return lines


def score_table(part: Table) -> str:
    """A pipe table with a row for each point and one for the floor."""
    lines = [
        line(["", *(head(column) for column in part.columns)]),
        line(["---", *["---:"] * len(part.columns)]),
    ]
    lines += [line([label(row), *body(row, part)]) for row in part.rows]
    if part.floor:
        lines.append(line(["real images (floor)", *(text(cell) for cell in part.floor)]))
    return "\n".join(lines)


def head(column: Column) -> str:
    """Name, direction, unit, n."""
    unit = f", {column.unit}" if column.unit else ""
    return f"{plain(column.name)}{unit} {column.arrow}".strip() + (f" (n = {column.n})" if column.n else "")


def label(row: Row) -> str:
    """A point's name and what the choice says of it."""
    mark = " (chosen)" if row.chosen else " (tied)" if row.tied else ""
    return plain(row.name) + mark


def body(row: Row, part: Table) -> list[str]:
    """Its cells; a failed contender's first one says why."""
    if row.failed:
        return [f"failed: {plain(row.failed)}", *[""] * (len(part.columns) - 1)][: max(1, len(part.columns))]
    return [text(cell) for cell in row.cells]


def text(cell: Cell | None) -> str:
    """Value and interval."""
    if cell is None:
        return "–"
    n = f" (n = {cell.n})" if cell.n else ""
    return (
        f"**{cell.value}** {cell.interval}{n}".rstrip()
        if cell.best
        else f"{cell.value} {cell.interval}{n}".rstrip()
    )


def spent_table(record: DuelRecord) -> str:
    """What each contender really used."""
    rows = [line([plain(row.name), row.images, row.time, row.compute]) for row in spent_rows(record)]
    return "\n".join([line(["", "images", "time", "compute"]), line(["---", "---:", "---:", "---:"]), *rows])


def line(cells: Iterable[str]) -> str:
    """One row of a pipe table."""
    return "| " + " | ".join(cells) + " |"


def plain(text: str) -> str:
    """Text that stays text: no markup, no table cell, no second line."""
    safe = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"[\\`*|~]|(?<!\w)_|_(?!\w)|(?<=\])\(|^[#>+-]", r"\\\g<0>", safe)
