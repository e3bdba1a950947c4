"""diptych data inspect: look at images before training on them."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from diptych.cli import VERBS
from diptych.cli.common import Json, answer

app = App(name="data", help=VERBS["data"])


@app.command
def inspect(
    source: Annotated[str, Parameter(help="Folder, .zip, .npz, idx or CIFAR-10 files, or a built-in set.")],
    *,
    as_json: Json = False,
) -> None:
    """Every odd file, sizes, channels, class balance, exact and near duplicates."""
    from diptych.data import inspect as inspected

    found = inspected(source)
    answer(as_json, found.to_json(), found)
