"""Reports of runs, duels and files of `evaluate --out`, found and read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.errors import DiptychError, RunError

if TYPE_CHECKING:
    from diptych.scores import Report


def reports_in(paths: Sequence[Path]) -> list[Report]:
    """Every report of these runs, duels (their directories) or report files.

    Raises DiptychError where there are none.
    """
    found: list[Report] = []
    for path in paths:
        files = sorted(path.glob("reports/*.json")) or sorted(path.glob("*/reports/*.json"))
        if path.parent.name == "reports":  # of another ruler or reference
            files = sorted(path.glob("*.json"))
        files = files or [path]
        reports = [report for file in files for report in reports_of(file)]
        if path.is_dir() and not reports:
            logging.getLogger("diptych").warning(
                "%s has not been measured against its own data: %s", path, unmeasured(path)
            )
        found += reports
    if not found:
        names = " ".join(map(str, paths))
        raise DiptychError(f"nothing in {names} has been measured", unmeasured(*paths))
    return found


def unmeasured(*paths: Path) -> str:
    """What to do: `choose` among reports of another ruler or reference, where there are any, or measure."""
    others = sorted({file.parent for path in paths for file in path.glob("reports/*/*.json")})
    if not others:
        return f"diptych evaluate {' '.join(map(str, paths))}"
    first, *more = sorted({place.name for place in others})
    alike = " ".join(str(place) for place in others if place.name == first)
    also = f" (or {', '.join(more)})" if more else ""
    return f"there are reports by another ruler or against other images: diptych choose {alike}{also}"


def reports_of(file: Path) -> list[Report]:
    """The reports in a .json file: one, those of `evaluate --out`, or those of a duel's report.json.

    Raises RunError that names a damaged one.
    """
    from diptych.checking import need
    from diptych.scores import Report
    from diptych.system.files import read_json

    if file.suffix != ".json" or not file.is_file():
        return []
    tree = read_json(file)
    if not isinstance(tree, dict):
        return []
    listed: list[Any] = [tree] if "scores" in tree else []
    try:
        if "reports" in tree:
            listed += need(tree, {"reports": Sequence[Any]}, "a list of reports")["reports"]
        elif "contenders" in tree:
            for one in need(tree, {"contenders": Sequence[Any]}, "a duel's record")["contenders"]:
                points = {"points": [], **need(one, {}, "a contender")}  # one that failed may have none
                listed += need(points, {"points": Sequence[Any]}, "a contender")["points"]
        return [Report.from_json(one) for one in listed]
    except RunError as error:
        raise RunError(f"{file}: {error.message}", error.hint) from error
