"""diptych recipes: what can be trained."""

from __future__ import annotations

from diptych.cli.common import Json, show, table


def recipes(*, as_json: Json = False) -> None:
    """What can be trained, with every flag and its default."""
    from diptych import catalog

    known = catalog.recipes()
    if as_json:
        show(
            {
                name: {"help": spec.doc.splitlines()[0], "arguments": spec.defaults}
                for name, spec in known.items()
            }
        )
        return
    rows = [
        [
            name,
            spec.doc.splitlines()[0],
            " ".join(f"{flag}={default}" for flag, default in spec.defaults.items()),
        ]
        for name, spec in known.items()
    ]
    table(rows, ["recipe", "what it is", "flags and defaults"])
