"""Continuous labels: numbers that describe an image, from arrays or from a table beside the files."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.data.decode import Unreadable
from diptych.data.files import File, read_file
from diptych.data.images import Float32, Images, Incident
from diptych.errors import DataError, WrongUse, did_you_mean

Array = npt.NDArray[Any]
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "name", "image_id", "id")


def stacked(
    path: Path, keys: Sequence[str], sizes: Sequence[int], found: Sequence[Array | None]
) -> Float32 | None:
    """Continuous labels (N, K) of all parts of these sizes; not-a-number where an image has none."""
    if all(values is None for values in found):
        return None
    rows = []
    for key, size, values in zip(keys, sizes, found, strict=True):
        if values is None:
            raise DataError(f"{path} has continuous labels for one split only, none for {key}")
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) != size or not values.shape[1]:
            raise DataError(
                f"{path}: {key} has {size:,} images, its continuous labels the shape {values.shape}",
                "(N,) or (N, K)",
            )
        if values.dtype.kind not in "fiub" or np.isinf(values).any():
            raise DataError(f"{path}: the continuous labels of {key} are not all finite numbers")
        rows.append(values.astype(np.float32))
    if len({values.shape[1] for values in rows}) > 1:
        raise DataError(f"{path}: its splits have different numbers of continuous labels")
    return np.concatenate(rows)


def named(names: Array | None, count: int, path: Path) -> tuple[str, ...]:
    """The names that came with the values, or attribute0, attribute1 ..."""
    if names is None:
        return ("attribute",) if count == 1 else tuple(f"attribute{i}" for i in range(count))
    told = tuple(str(name) for name in names.reshape(-1))
    if len(set(told)) != count or len(told) != count:
        raise DataError(f"{path} has {count} continuous labels, named {', '.join(told)}")
    return told


class Table(NamedTuple):
    """What a table says of files: a row of texts for each, by its path."""

    name: str
    columns: tuple[str, ...]
    rows: dict[tuple[str, ...], list[str]]


def from_tables(
    tables: Iterable[File], files: Sequence[File]
) -> tuple[Float32 | None, tuple[str, ...], list[Incident]]:
    """The numeric columns of labels.csv and metadata.csv: (N, K) for these files, names, what is to be said.

    The file is named by the column file_name (or filename, file, image, path), else by the first one, from
    the table's own folder on; a name that only one file has will do. A file without a line has no numbers.
    """
    read = [table for file in tables if (table := _read(file, files)) is not None]
    if not read:
        return None, (), []
    columns = [c for c in read[0].columns if all(c in table.columns for table in read)]
    texts: dict[str, list[str]] = {c: [""] * len(files) for c in columns}
    for table in read:
        places = {c: table.columns.index(c) for c in columns}
        for i, file in enumerate(files):
            if (row := table.rows.get(file.parts)) is not None:
                for c, place in places.items():
                    texts[c][i] = row[place]
    numbers = {c: column for c in columns if (column := _numbers(texts[c])) is not None}
    where = ", ".join(table.name for table in read)
    if not numbers:
        return None, (), [Incident(where, "no column of numbers", "not used")]
    values: Float32 = np.array(list(numbers.values()), np.float32).T
    notes = [Incident(where, f"numbers: {', '.join(numbers)}", "taken as continuous labels")]
    if without := int(np.isnan(values).any(1).sum()):
        notes.append(
            Incident(where, f"{without:,} images have no line, or gaps in it", "without such labels")
        )
    return np.ascontiguousarray(values), tuple(numbers), notes


def _read(file: File, files: Sequence[File]) -> Table | None:
    """One table, its lines by the paths of the files that they name; None where it names none."""
    try:
        text = read_file(file).decode("utf-8-sig")
    except (Unreadable, UnicodeDecodeError) as error:
        raise DataError(f"{file.name} cannot be read: {error}", "save it as CSV in UTF-8") from error
    head = text.partition("\n")[0]
    try:
        lines = list(
            csv.reader(io.StringIO(text), delimiter=";" if head.count(";") > head.count(",") else ",")
        )
    except csv.Error as error:
        raise DataError(f"{file.name} cannot be read: {error}", "save it as CSV in UTF-8") from error
    if len(lines) < 2:
        return None
    header, width = [column.strip() for column in lines[0]], len(lines[0])
    if len(set(header)) < width:
        raise DataError(f"{file.name} has two columns of one name: {', '.join(header)}")
    lower = [column.lower() for column in header]
    key = next((lower.index(name) for name in _FILE_COLUMNS if name in lower), 0)
    known, rows = _by_name(files), dict[tuple[str, ...], list[str]]()
    for line in lines[1:]:
        if line and len(line) != width:
            raise DataError(
                f"{file.name} has {width} columns, but a line of {len(line)}: {','.join(line)[:80]}"
            )
        parts = tuple(line[key].strip().replace("\\", "/").split("/")) if line else ()
        place = (*file.parts[:-1], *parts)
        found = place if place in known else known.get(parts[-1:]) if len(parts) == 1 else None
        if found is not None:
            rows[known.get(found) or found] = [*line[:key], *line[key + 1 :]]
    return Table(file.name, (*header[:key], *header[key + 1 :]), rows) if rows else None


def _by_name(files: Sequence[File]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Each file's path by itself, and by its name, with its ending or without, where no other has that."""
    names = [{(f.parts[-1],), (f.parts[-1].rpartition(".")[0],)} for f in files]
    often = Counter(name for both in names for name in both)
    short: dict[tuple[str, ...], tuple[str, ...]]
    short = {n: f.parts for f, both in zip(files, names, strict=True) for n in both if often[n] == 1}
    return {**short, **{f.parts: f.parts for f in files}}


def _numbers(texts: Sequence[str]) -> list[float] | None:
    """A column as numbers, not-a-number where it is empty; None where something else stands in it."""
    try:
        values = [float(text) if text.strip() else math.nan for text in texts]
    except ValueError:
        return None
    return None if any(map(math.isinf, values)) or all(map(math.isnan, values)) else values


def told(images: Images, names: Sequence[str]) -> Images:
    """The images with these continuous labels (or known causes) in the place of classes; or with none.

    Raises WrongUse for a name that there is not.
    """
    if not names:
        return replace(images, attributes=None, attribute_names=())
    known: dict[str, Array] = dict(images.factors)
    if images.attributes is not None:
        known |= dict(zip(images.attribute_names, images.attributes.T, strict=True))
    for name in names:
        if name not in known:
            raise WrongUse(
                f"the images have no continuous label called {name!r}",
                did_you_mean(name, list(known)) if known else "a labels.csv beside them may hold some",
            )
    values = np.stack([known[name] for name in names], 1).astype(np.float32)
    return replace(images, attributes=values, attribute_names=tuple(names), labels=None, class_names=())
