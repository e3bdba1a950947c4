"""diptych duel DATA: contenders under one budget, one ruler, one page."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from diptych.cli.common import (
    OUTPUT,
    RULES,
    AtLeast,
    AtMost,
    Ingest,
    Json,
    Pace,
    pairs,
    say_on_stderr,
    show,
    typed,
)
from diptych.cli.watch import EXAM, watching
from diptych.errors import WrongUse

if TYPE_CHECKING:
    from diptych.contenders import Entry


def duel(
    data: Annotated[
        str, Parameter(help="Folder, .zip, .npz, idx or CIFAR-10 files; digits and shapes are built in.")
    ],
    *,
    contenders: Annotated[
        str,
        Parameter(
            group=RULES,
            help="Recipes, comma-separated; arguments after colons: edm:width=32:lr=1e-3. Or models that are "
            "there already and are measured as they are: runs/a, official=converted/stylegan2.",
        ),
    ] = "r3gan,edm,consistency",
    best: Annotated[
        str, Parameter(group=RULES, help="The score that decides among those that pass.")
    ] = "fid",
    at_most: AtMost = None,
    at_least: AtLeast = None,
    n: Annotated[
        int, Parameter(group=RULES, help="Fakes and reals that each score looks at, at most.")
    ] = 2000,
    exam: Annotated[Literal["auto"] | int, Parameter(group=RULES, help=EXAM)] = "auto",
    ingest: Ingest = Ingest(),
    pace: Pace = Pace(),
    out: Annotated[Path, Parameter(group=OUTPUT, help="Where runs and the page go.")] = Path("duel"),
    force: Annotated[
        bool, Parameter(group=OUTPUT, negative="", help="Go on though arguments changed.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(group=OUTPUT, negative="", help="Predict time, memory and disk of the trainings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train contenders under one budget each, measure them with one ruler, say which to ship, write a page.

    Killed and run again, it continues where it was. The page is OUT/index.html.
    """
    from diptych.cli.foretell import foretell
    from diptych.contenders import Rules, distinct
    from diptych.contest import check_measurable
    from diptych.contest import duel as fight
    from diptych.measuring.quick import QuickExam
    from diptych.system.files import expanded
    from diptych.system.parallel import refuse
    from diptych.system.provenance import command as typed_command
    from diptych.training.forecast import forecast
    from diptych.training.state import Settings

    say_on_stderr()
    refuse(
        "a duel",
        f"torchrun ... -m diptych train RECIPE {data} --out {out / 'RECIPE'} with the same flags trains a "
        "contender; the duel, in one process, finds it trained and goes on",
    )
    settings = Settings(**asdict(pace))
    limits = {"at_most": pairs(at_most), "at_least": pairs(at_least)}
    rules = Rules(settings=settings, n=n, exam=exam, best=best, **limits)
    entries = distinct([entry(text) for text in apart(contenders)])
    images = ingest.open(data)
    if dry_run:
        check_measurable(images, rules)
        how: dict[str, Any] = {"settings": settings, "examine": QuickExam.asked(images, exam)}
        expected = {
            one.name: forecast(one.spec, images, out / one.name, arguments=one.arguments, **how)
            for one in entries
            if one.spec is not None
        }
        foretell(expected, as_json)
        return
    with watching() as watch:
        record = fight(images, entries, out, rules=rules, watch=watch, command=typed_command(), force=force)
    if as_json:
        show(record.to_json())
        return
    print(record.choice.sentence)
    for name, reason in record.choice.others:
        print(f"  {name}: {reason}")
    print(f"\nthe page: {(expanded(out) / 'index.html').resolve()}")


def apart(text: str) -> list[str]:
    """Contenders of a list with commas; a comma within an argument that may have one ends no contender."""
    from diptych import catalog
    from diptych.system.files import expanded

    found: list[str] = []
    for part in text.split(","):
        name, _, place = part.strip().partition("=")
        begins = name.partition(":")[0] in catalog.recipes() or expanded(place or name).is_dir()
        if found and not begins and worded(found[-1]):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def worded(contender: str) -> bool:
    """Whether the last argument of a contender is text."""
    from diptych import catalog

    name, *settings = settings_of(contender)
    spec = catalog.recipes().get(name)
    key = settings[-1].partition("=")[0] if settings else ""
    return spec is not None and spec.types.get(key) is str


def settings_of(contender: str) -> list[str]:
    """Its recipe's name and its arguments; a colon within a value ends none."""
    name, colon, rest = contender.strip().partition(":")
    return [name, *(re.split(r":(?=\w+=)", rest) if colon else ())]


def entry(text: str) -> Entry:
    """From "edm:width=32", "runs/a" or "mine=runs/a" to an entry.

    Raises WrongUse with the nearest name where something is unknown. What is called as a recipe is one.
    """
    from diptych import catalog
    from diptych.contenders import Entry, ready
    from diptych.system.files import expanded

    text = text.strip()
    name, *settings = settings_of(text)
    if name not in catalog.recipes():
        given_name, _, place = text.rpartition("=")
        for alias, source in (("", text), (given_name, place)):
            if source and expanded(source).is_dir():
                return ready(source, alias)
    spec = catalog.recipe(name)
    given = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise WrongUse(f"{setting!r} in {text!r} is not argument=value", "write edm:width=32")
        spec.arguments({key: value})
        given[key] = typed(value, spec.types[key], key)
    return Entry(name, spec, given)
