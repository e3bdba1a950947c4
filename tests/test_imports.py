"""The import law: who may import whom. It is what keeps "no branch on the family" true."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "diptych"

LAW: dict[str, set[str]] = {
    # the floor: each may import what stands before it
    "errors": set(),
    "privacy": set(),  # what reports and recipe.json do not say
    "scores": {"errors", "checking", "privacy"},
    "budget": {"errors"},
    "device": {"errors"},
    "files": {"errors", "privacy"},
    "pictures": {"errors", "files"},
    "unpickler": {"errors", "unpickler"},  # pickles as data
    "checking": {"errors"},  # whether values out of a file are what they should be
    "given": {"checking", "errors"},  # whether arguments out of Python are
    "arguments": {"data", "errors", "given"},  # of the functions that people call
    "allowance": {"errors"},  # how much a description out of a file may build
    "saveable": {"errors", "checking", "allowance"},
    "blocks": {"shortage"},
    "flops": set(),  # how many operations take
    "model": {"blocks", "device", "errors", "given", "saveable"},
    "graphs": {"errors", "model"},
    # the left panel
    "data": {"aside", "unpickler", "device", "errors", "model", "data", "files"},
    "method": {"errors", "model"},
    "track": {"errors", "method", "model"},
    "networks": {"errors", "saveable", "networks"},
    "diffusion": {"arcs", "checking", "errors", "model", "saveable", "diffusion"},
    "adversarial": {"errors", "model", "method", "saveable", "adversarial", "networks"},
    "recipe": {"checking", "errors", "given", "method", "data"},
    "profiles": {"errors", "recipe"},
    "parallel": {"errors"},
    "fsdp": {"errors", "parallel"},
    "averages": {"files", "fsdp", "recipe"},
    "lock": {"errors"},
    "shortage": {"errors"},
    "interrupts": set(),
    "aside": set(),  # folders that go with their process
    "checkpoints": {"checking", "errors", "files"},
    "shards": {"errors", "parallel"},
    "methods": {
        "errors",
        "recipe",
        "method",
        "model",
        "diffusion",
        "adversarial",
        "networks",
        "data",
        "runs",
        "saveable",
        "methods",
    }
    | {"blocks", "device"},
    "state": {"errors", "method", "model", "data", "recipe", "device", "shards", "fsdp", "parallel"}
    | {"averages", "given"},
    "provenance": {"files", "machine", "parallel", "privacy"},
    "claims": {
        "checking",
        "data",
        "errors",
        "files",
        "lock",
        "parallel",
        "privacy",
        "probe",
        "provenance",
        "recipe",
        "runs",
        "state",
    },
    "ticks": {"state"},
    "probe": {"budget", "device", "flops", "parallel", "state"},
    "resumption": {"averages", "errors", "files", "parallel", "runs", "state", "transfer"},
    "reactions": {"alarms", "averages", "errors", "parallel", "runs", "ticks", "track", "state"},
    "likeness": {"errors", "saveable"},
    "transfer": {"errors", "files", "fsdp", "likeness", "runs", "saveable", "state"}
    | {"catalog"},  # the critic of a run is what its recipe makes
    "loop": {
        "privacy",
        "errors",
        "model",
        "data",
        "recipe",
        "runs",
        "budget",
        "state",
        "probe",
        "transfer",
        "device",
        "files",
    }
    | {
        "provenance",
        "pictures",
        "track",
        "parallel",
        "claims",
        "interrupts",
        "lock",
        "averages",
        "reactions",
        "resumption",
        "shortage",
        "ticks",
    },
    "forecast": {
        "claims",
        "data",
        "device",
        "files",
        "loop",
        "parallel",
        "pictures",
        "probe",
        "recipe",
        "runs",
    }
    | {"aside", "interrupts", "shortage", "ticks", "track", "state"},
    # the right panel: it is never handed a family
    "runs": {"checking", "errors", "model", "saveable", "files", "device", "checkpoints"},
    "pretrained": {"allowance", "checking", "errors", "files", "saveable"},
    "pipeline": {"privacy", "errors", "model", "saveable", "device", "files", "pretrained"},
    "subject": {"errors", "model", "data", "runs", "pipeline", "files"},
    "machine": {"device"},
    "planted": {"errors"},
    "features": {"allowance", "errors", "features", "files", "parallel"},
    "exam": {"errors", "model", "data", "scores", "features", "parallel"},
    "evaluation": {"metric", "errors", "model", "data", "scores", "exam", "machine", "catalog", "parallel"}
    | {"provenance"},
    "grading": {
        "errors",
        "model",
        "data",
        "scores",
        "evaluation",
        "comparison",
        "subject",
        "reference",
    },
    "reference": {"checking", "errors", "data", "subject"},
    "alarms": {"student", "alarms", "data", "exam", "features", "method", "metrics", "model", "parallel"}
    | {"track"},  # the states that a training reacts to
    "judging": {"alarms", "data", "errors", "evaluation", "method", "privacy", "quick", "reference", "runs"}
    | {"subject"},
    "quick": {"alarms", "data", "errors", "exam", "evaluation", "method", "model", "parallel"},
    "metric": {"exam", "scores"},
    "metrics": {
        "metric",
        "student",
        "exam",
        "features",
        "flops",
        "scores",
        "errors",
        "runs",
        "device",
        "model",
        "metrics",
        "shortage",
        "blocks",
    },
    "student": set(),
    "comparison": {"errors", "scores", "student"},
    "choice": {"errors", "checking", "scores", "comparison", "choice"},
    "report": {"checking", "privacy", "scores", "choice", "files", "report"},
    "exporter": {"errors", "model", "saveable", "files", "exporter"},
    # where the panels meet
    "agreement": {
        "checking",
        "data",
        "errors",
        "evaluation",
        "files",
        "provenance",
        "quick",
        "runs",
        "scores",
    },
    "rerun": {
        "agreement",
        "catalog",
        "checking",
        "claims",
        "data",
        "errors",
        "files",
        "loop",
        "method",
        "parallel",
    }
    | {"provenance", "quick", "runs", "track", "state"},
    "sweep": {"errors", "files", "grading", "report", "scores", "subject"},
    "posthoc": {"averages", "budget", "catalog", "data", "errors", "files", "method", "model", "profiles"}
    | {"recipe", "runs"},
    "profile_sweep": {"comparison", "errors", "files", "grading", "posthoc", "runs", "scores", "subject"}
    | {"sweep"},
    "drawing": {"diffusion", "errors", "model", "pictures", "report", "runs"},
    "convert": {
        "allowance",
        "unpickler",
        "errors",
        "files",
        "runs",
        "adversarial",
        "networks",
        "convert",
    }
    | {"catalog", "data", "likeness", "method", "saveable"},  # which recipe goes on with official weights
    "points": {"adversarial", "errors", "files", "model"},
    "arcs": set(),
    "walking": {"arcs", "adversarial", "errors", "points", "model"},
    "mixing": {"errors", "points", "model"},
    "inversion": {"adversarial", "errors", "features", "points", "model"},
    "directions": {"errors", "points", "model"},
    "labelled": {"data", "directions", "errors", "features", "points", "metrics", "model"},
    "autoguidance": {"diffusion", "errors", "runs", "saveable"},
    "catalog": {"metric", "errors", "recipe"},  # the folders that it lists it does not name
    "sheets": {"data", "exam", "model", "pictures"},
    "contenders": {"catalog", "choice", "data", "errors", "exam", "evaluation", "quick", "subject", "metrics"}
    | {"model", "recipe", "report", "runs", "scores", "sheets", "files", "pictures", "provenance", "state"},
    "contest": {"contenders", "checking", "alarms", "errors", "loop", "exam", "evaluation", "quick", "choice"}
    | {"report", "data", "runs", "claims", "provenance", "files", "machine", "sheets", "probe", "ticks"},
}
FREE = {"cli", "api", "edit", "__init__", "__main__"}
FOLDERS = {"system", "training", "measuring", "latent"}  # the law is on their modules, whose names are unique
FAMILIES = {"diffusion", "adversarial", "methods", "networks"}
MAY_KNOW_A_FAMILY = {
    "__init__",  # diptych itself
    "api",
    "cli",
    "edit",
    "autoguidance",
    "convert",
    "drawing",
    # what only a GAN has: latent codes
    "points",
    "walking",
    "mixing",
    "inversion",
    "directions",
    "labelled",
}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py"))


def part(path: Path) -> str:
    first, *rest = path.relative_to(ROOT).parts
    return (rest[0] if first in FOLDERS else first).removesuffix(".py")


@cache
def imported(path: Path) -> set[Path]:
    """The files of diptych that a file imports, wherever in it; not what all import, `diptych` itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports by dots"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}  # of a module, or a module
    found = {file for name in names for file in files_of(name)}
    return found - {path, ROOT / "__init__.py"}


def files_of(name: str) -> Iterator[Path]:
    """The files that importing this name runs: those of the packages that it lies in, and of the module."""
    first, *rest = name.split(".")
    for depth in range(len(rest) + 1) if first == "diptych" else ():
        place = ROOT.joinpath(*rest[:depth])
        file = place / "__init__.py" if place.is_dir() else place.with_name(f"{place.name}.py")
        if file.is_file():
            yield file


def of_parts(path: Path) -> set[str]:
    """The parts of diptych that a file imports."""
    return {part(file) for file in imported(path)} - {"__init__"}


def way_to_a_family(path: Path) -> list[str]:
    """From a module over what it imports, and what that imports, to a family: the shortest, or none."""
    ways = [[path]]
    seen = {path}
    for way in ways:
        if part(way[-1]) in FAMILIES:
            return [str(file.relative_to(ROOT)) for file in way]
        new = sorted(imported(way[-1]) - seen)
        seen.update(new)
        ways += [[*way, file] for file in new]
    return []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_law(path: Path) -> None:
    if part(path) in FREE:
        return
    assert part(path) in LAW, f"{path.name} has no place in the table: give it one, and say why in docs/"
    broken = of_parts(path) - LAW[part(path)]
    assert not broken, f"{path.relative_to(ROOT)} may not import {', '.join(sorted(broken))}"


def test_every_permission_is_used() -> None:
    used: dict[str, set[str]] = {name: set() for name in LAW}
    for path in modules():
        used.get(part(path), set()).update(of_parts(path))
    unused = {name: may - used[name] for name, may in LAW.items() if may - used[name]}
    assert not unused, "what nobody imports is not allowed either"


def test_names_of_modules_are_unique() -> None:
    names = [part(path) for path in modules() if path.parent == ROOT or path.parent.name in FOLDERS]
    assert sorted(set(names) - {"__init__"}) == sorted(name for name in names if name != "__init__")


def test_no_other_module_knows_a_family() -> None:
    """Nor does what it imports, and so on, wherever in a file: by all imports that there are, not by the law.

    The catalog imports families too, but by listing their folder: it names none.
    """
    ways = {path: way_to_a_family(path) for path in modules() if part(path) not in FAMILIES}
    knowing = {path: " > ".join(way) for path, way in ways.items() if way}
    wrong = [way for path, way in knowing.items() if part(path) not in MAY_KNOW_A_FAMILY]
    assert not wrong
    assert {part(path) for path in knowing} >= MAY_KNOW_A_FAMILY, "who knows none need not be on the list"


def test_choosing_needs_no_torch() -> None:
    code = (
        "import sys; import diptych, diptych.choice, diptych.measuring.comparison, diptych.scores; "
        "import diptych.report.record, diptych.cli; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    env = {"PYTHONPATH": str(ROOT.parent)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_files_have_a_bearable_length() -> None:
    long = {
        str(path.relative_to(ROOT)): n
        for path in modules()
        if (n := len(path.read_text().splitlines())) > 320
    }
    assert not long
