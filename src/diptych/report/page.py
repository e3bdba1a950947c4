"""The page a person reads: one HTML file with its pictures, plots and style inside, that opens from disk."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from diptych import __version__
from diptych.choice import LATENCY, plain
from diptych.report.alarms import alarms, rates
from diptych.report.curves import examined, loss_plot, training_plot
from diptych.report.facts import data_facts, flat, ruler_facts, spent_rows, weights_facts
from diptych.report.markdown import markdown
from diptych.report.plots import colour, decisive, quality_plot
from diptych.report.record import Contender, DuelRecord
from diptych.report.svg import SHAPES, marker
from diptych.report.table import tables
from diptych.scores import number
from diptych.system.files import write_json, write_text

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = 96  # pixels: images up to this height are shown with hard edges


def write_report(record: DuelRecord, directory: Path) -> Path:
    """Writes index.html, report.json and report.md into `directory`, atomically; returns the page's path.

    Pictures are read from `directory`. One that is missing is named on the page, and is no error. Secrets and
    home directories are left out (see `diptych.system.privacy`).
    """
    directory, record = Path(directory), DuelRecord.from_json(record.to_json())
    page = directory / "index.html"
    write_json(directory / "report.json", record.to_json())
    write_text(directory / "report.md", markdown(record))
    write_text(page, render(record, directory))
    return page


def render(record: DuelRecord, directory: Path) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("diptych", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["scores"] = marked(record)
    environment.globals |= {"colour": colour, "swatch": swatch, "number": number}
    style = resources.files("diptych.report").joinpath("page.css").read_text(encoding="utf-8")
    album = Album(record, directory)
    return environment.get_template("page.html").render(
        record=record,
        choice=record.choice,
        style=Markup(style),
        version=__version__,
        tiles=tiles(record),
        limits=list(map(str, record.limits)),
        tables=tables(record),
        score=decisive(record) if record.points else record.choice.best,
        quality=both(quality_plot, record, "quality", 470, 400),
        examined=examined(record),
        alarms=alarms(record),
        rates=rates(record),
        training=both(training_plot, record, "training", 400, 320),
        losses=[(i, c, loss_plot(c, i, f"loss-{i}")) for i, c in enumerate(record.contenders) if c.curve],
        heads=album.heads(),
        panels=album.panels(),
        dials=album.dials(),
        neighbours=album.neighbours(),
        pixelated=small(record),
        spent=spent_rows(record),
        cards=[
            ("Data", data_facts(record.data)),
            ("Ruler", ruler_facts(record)),
            ("Machine", flat(record.machine)),
            ("Versions", flat(record.versions)),
            ("Weights (sha256)", weights_facts(record)),
        ],
    )


Plot = Callable[[DuelRecord, str, float, float], Markup]


def both(plot: Plot, record: DuelRecord, key: str, tall: float, short: float) -> tuple[Markup, Markup]:
    """A plot for desks and one for phones, so that its letters stay readable on both."""
    return plot(record, key, 960, tall), plot(record, f"{key}-narrow", 380, short)


@dataclass(frozen=True)
class Tile:
    """A number that the decision rests on."""

    name: str
    value: str
    note: str


def tiles(record: DuelRecord) -> list[Tile]:
    """The chosen one's deciding score, its latency, and what it was trained with."""
    chosen = record.choice.chosen
    if chosen is None:
        return []
    found = []
    for name in dict.fromkeys((record.choice.best, LATENCY)):
        if estimate := chosen.scores.get(name):
            low, high = number(estimate.low), number(estimate.high)
            notes = [f"95 % interval {low} to {high}"] if estimate.low < estimate.high else []
            if floor := chosen.floor.get(name):
                notes.append(f"real images get {plain(floor)}")
            unit = f" {estimate.unit}" if estimate.unit else ""
            found.append(Tile(name, number(estimate.value) + unit, "; ".join(notes)))
    return found


def marked(record: DuelRecord) -> Callable[[str], Markup]:
    """A filter that escapes a sentence and sets the names of scores apart in it."""
    names = {name for point in record.points for name in point.scores} | {record.choice.best}
    words = "|".join(re.escape(str(escape(name))) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w&;])({words})(?![\w;])")
    return lambda text: Markup(pattern.sub(r'<span class="score">\1</span>', str(escape(text))))


def swatch(index: int) -> Markup:
    """A contender's colour and shape, beside its name."""
    shape = marker(index % SHAPES, 7, 7, 4.5)
    return Markup('<svg class="swatch {}" viewBox="0 0 14 14" aria-hidden="true">{}</svg>').format(
        colour(index), shape
    )


def small(record: DuelRecord) -> bool:
    """Whether the images are so small that their pixels should be seen."""
    shape: Sequence[int] = record.data.get("shape") or (3, 0, 0)
    return shape[1] <= SMALL


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page."""

    title: str
    alt: str
    index: int  # of the contender; -1 for real images
    uri: str  # "" where the file is missing
    width: int = 0
    height: int = 0
    file: str = ""
    chosen: bool = False


class Album:
    """The pictures of a duel, read from its directory and put into the page."""

    def __init__(self, record: DuelRecord, directory: Path) -> None:
        self.record, self.directory = record, directory.resolve()

    def heads(self) -> list[Picture]:
        """Real images, then each contender at its best point."""
        record = self.record
        real = "Held-out real images of the same classes as the samples beside them"
        found = [self.picture("real images", real, -1, record.real_samples)] if record.real_samples else []
        for index, contender in enumerate(record.contenders):
            if name := record.headline(contender):
                found.append(self.sample(index, name, name))
        return found

    def panels(self) -> list[Picture]:
        """The two that belong beside the decision: real images, and the chosen one's."""
        return [picture for picture in self.heads() if picture.uri and (picture.chosen or picture.index < 0)]

    def dials(self) -> list[tuple[int, Contender, list[Picture]]]:
        """Every point of the contenders that have several."""
        found = []
        for index, contender in enumerate(self.record.contenders):
            if len(contender.samples) > 1:
                short = {p.name: p.name.removeprefix(contender.name).lstrip(", ") for p in contender.points}
                pictures = [self.sample(index, n, short.get(n) or n) for n in contender.samples]
                found.append((index, contender, pictures))
        return found

    def neighbours(self) -> list[Picture]:
        """One sheet a contender: a row is a sample and the training images nearest to it."""
        return [
            self.picture(shown, f"Samples of {shown}, each with its nearest training images", i, c.neighbours)
            for i, c in enumerate(self.record.contenders)
            if c.neighbours and (shown := c.neighbours_of or c.name)
        ]

    def sample(self, index: int, name: str, title: str) -> Picture:
        """The sample sheet of a point."""
        chosen = self.record.choice.chosen
        alt = f"Samples of {name}; seeds and classes are the same in all sheets"
        file = self.record.contenders[index].samples[name]
        return self.picture(title, alt, index, file, chosen is not None and chosen.name == name)

    def picture(self, title: str, alt: str, index: int, file: str, chosen: bool = False) -> Picture:
        """A file of the duel's directory as a data URI; nothing else is ever read."""
        path = (self.directory / file).resolve()
        content = path.read_bytes() if path.is_relative_to(self.directory) and path.is_file() else b""
        if not content.startswith(PNG) or len(content) < 24:
            return Picture(title, alt, index, "", file=file, chosen=chosen)
        width, height = struct.unpack(">II", content[16:24])
        uri = "data:image/png;base64," + base64.b64encode(content).decode()
        return Picture(title, alt, index, uri, width, height, file, chosen)
