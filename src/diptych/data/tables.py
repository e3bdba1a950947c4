"""Tables beside the images, labels.csv and metadata.csv: which file a line means, and the numbers in it."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from diptych.data.attributes import TAKEN
from diptych.data.decode import Unreadable
from diptych.data.files import read_file
from diptych.data.images import Float32, Incident
from diptych.data.layout import File, printable
from diptych.errors import DataError

Parts = tuple[str, ...]  # of a path
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "name", "image_id", "id")


class Table(NamedTuple):
    """What a table says of files: a row of texts for each, by its path."""

    name: str
    columns: tuple[str, ...]
    rows: dict[Parts, list[str]]


def from_tables(
    tables: Iterable[File], files: Sequence[File]
) -> tuple[Float32 | None, tuple[str, ...], list[Incident]]:
    """The numeric columns of labels.csv and metadata.csv: (N, K) for these files, names, what is to be said.

    The file is named by the column file_name (or filename, file, image, path), else by the first one, from
    the table's own folder on; a name that only one file has will do. A file without a line has no numbers.
    """
    notes = list[Incident]()
    read = [table for file in tables if (table := _read(file, files, notes)).rows]
    if not read:
        return None, (), notes
    columns = [c for c in read[0].columns if all(c in table.columns for table in read)]
    texts: dict[str, list[str]] = {c: [""] * len(files) for c in columns}
    for table in read:
        places = {c: table.columns.index(c) for c in columns}
        for i, file in enumerate(files):
            if (row := table.rows.get(file.parts)) is not None:
                for c, place in places.items():
                    texts[c][i] = row[place]
    where = ", ".join(table.name for table in read)
    odd = {c: text for c in columns if (text := _first_odd(texts[c])) is not None}
    if odd:
        shown = ", ".join(f"{c} ({text[:20]!r})" for c, text in odd.items())
        notes.append(Incident(where, printable(f"not all numbers: {shown}"), "left out"))
    if apart := dict.fromkeys(c for table in read for c in table.columns if c not in columns):
        shown = printable(", ".join(apart))
        notes.append(Incident(where, f"columns that not all of them have: {shown}", "left out"))
    kept = [c for c in columns if c not in odd]
    if not kept:
        return None, (), [*notes, Incident(where, "no column of numbers", "not used")]
    values: Float32 = np.array([[_number(text) for text in texts[c]] for c in kept], np.float32).T
    notes.append(Incident(where, f"numbers: {', '.join(kept)}", TAKEN))
    if without := int(np.isnan(values).any(1).sum()):
        notes.append(
            Incident(where, f"{without:,} images have no line, or gaps in it", "without such labels")
        )
    return np.ascontiguousarray(values), tuple(kept), notes


def _read(file: File, files: Sequence[File], notes: list[Incident]) -> Table:
    """One table, its lines by the paths of the files that they mean."""
    header, *lines = _lines(file)
    lower = [column.lower() for column in header]
    key = next((lower.index(name) for name in _FILE_COLUMNS if name in lower), 0)
    names = [
        tuple(p for p in line[key].strip().replace("\\", "/").split("/") if p not in ("", "."))
        for line in lines
    ]
    rows = {name: [*line[:key], *line[key + 1 :]] for name, line in zip(names, lines, strict=True)}
    found = _meant(list(rows), file.parts[:-1], [f.parts for f in files])
    notes += _said(file.name, [line[key] for line in lines], names, found)
    columns = (*header[:key], *header[key + 1 :])
    return Table(file.name, columns, {path: rows[name] for name, path in found.items()})


def _lines(file: File) -> list[list[str]]:
    """The header and the lines that are not empty, all of one length."""
    try:
        text = read_file(file).decode("utf-8-sig")
        head = text.partition("\n")[0]
        lines = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=head.count)))
    except (Unreadable, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file.name} cannot be read: {error}", "save it as CSV in UTF-8") from error
    header = [column.strip() for column in lines[0]] if lines else []
    if len(set(header)) < len(header):
        raise DataError(f"{file.name} has two columns of one name: {', '.join(header)}")
    for line in lines:
        if line and len(line) != len(header):
            raise DataError(
                f"{file.name} has {len(header)} columns, but a line of {len(line)}: {','.join(line)[:80]}"
            )
    return [header, *filter(None, lines[1:])]


def _meant(names: list[Parts], folder: Parts, files: list[Parts]) -> dict[Parts, Parts]:
    """The file that each name in a table means, where there is one.

    The surest way comes first, and what has found its other half takes no part in the next: the path from
    the table's folder on; as much of its end as is enough, as the images may have lain in another place; the
    name without its ending; and all of that without capitals. Only one file and one line may fit each other.
    """
    ways: list[tuple[Callable[[Parts], Parts], Callable[[Parts], Parts]]] = [
        (lambda name: (*folder, *name), lambda file: file),
        *((end, end) for end in (lambda path: path[-3:], lambda path: path[-2:], lambda path: path[-1:])),
        (lambda name: name[-1:], lambda file: (os.path.splitext(file[-1])[0],)),
    ]
    found = dict[Parts, Parts]()
    for case in (str, str.casefold):
        for of_name, of_file in ways:
            ours, theirs = _single(names, of_name, case), _single(files, of_file, case)
            found |= {ours[key]: theirs[key] for key in ours if key in theirs}
            taken = {*found.values()}
            names, files = [n for n in names if n not in found], [f for f in files if f not in taken]
            if not names:
                return found
    return found


def _single(
    paths: Sequence[Parts], key: Callable[[Parts], Parts], case: Callable[[str], str]
) -> dict[Parts, Parts]:
    """By their keys, the paths that share theirs with no other."""
    keys = [tuple(map(case, key(path))) for path in paths]
    often = Counter(keys)
    return {k: path for k, path in zip(keys, paths, strict=True) if often[k] == 1}


def _said(
    table: str, texts: Sequence[str], names: Sequence[Parts], found: dict[Parts, Parts]
) -> list[Incident]:
    """What there is to say of a table's lines: that they are repeated, or mean no file."""
    lost = [text for text, name in zip(texts, names, strict=True) if name not in found]
    if not found:
        first = f"none of its {len(texts):,} lines names a file here (first: {lost[0]})" if lost else "empty"
        return [Incident(table, printable(first), "not used")]
    notes, often = list[Incident](), Counter(names)
    if lost:
        what = (
            f"{len(texts) - len(lost):,} of its {len(texts):,} lines name a file here, {lost[0]!r} does not"
        )
        notes.append(Incident(table, printable(what), "only those used"))
    if twice := [name for name, count in often.items() if count > 1]:
        what = f"files with several lines: {len(twice):,} (first: {'/'.join(twice[0])})"
        notes.append(Incident(table, printable(what), "the last one taken"))
    return notes


def _first_odd(texts: Sequence[str]) -> str | None:
    """What first stands in a column that is no number; empty where nothing stands in it; else None."""
    odd = next((text for text in texts if _number(text) is None), None)
    nothing = all(number is not None and math.isnan(number) for number in map(_number, texts))
    return "" if nothing else odd


def _number(text: str) -> float | None:
    """Not-a-number where it is empty; None where something else stands there."""
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        return None
    return None if math.isinf(value) else value
