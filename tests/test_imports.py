"""The import law: who may import whom. It is what keeps "no branch on the family" true."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "diptych"

BASE = {"errors", "saveable", "model", "device", "files", "scores"}
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
    "recipe": {"errors", "given", "method", "data"},
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
    },
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
    "probe": {"budget", "device", "flops", "parallel", "state"},
    "resumption": {"averages", "checkpoints", "errors", "files", "parallel", "runs", "state", "transfer"},
    "reactions": {"alarms", "averages", "errors", "parallel", "runs", "track", "state"},
    "likeness": {"errors", "saveable"},
    "transfer": {"errors", "files", "fsdp", "likeness", "runs", "saveable", "state"}
    | {"catalog"},  # the critic of a run is what its recipe makes
    "loop": {
        "privacy",
        "errors",
        "method",
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
    | {"aside", "claims", "interrupts", "shortage", "track", "state"},
    # the right panel: it is never handed a family
    "runs": {"checking", "errors", "model", "saveable", "files", "device", "checkpoints"},
    "pretrained": {"allowance", "checking", "errors", "files", "saveable"},
    "pipeline": {"privacy", "errors", "model", "saveable", "device", "files", "pretrained"},
    "subject": {"errors", "model", "data", "runs", "pipeline", "files"},
    "machine": {"device"},
    "planted": {"errors"},
    "features": {"allowance", "errors", "model", "features", "device", "files", "parallel"},
    "exam": {"errors", "model", "data", "scores", "features", "parallel"},
    "evaluation": {"metric", "errors", "model", "data", "scores", "exam", "machine", "catalog", "parallel"}
    | {"provenance"},
    "grading": {
        "errors",
        "model",
        "data",
        "scores",
        "exam",
        "evaluation",
        "comparison",
        "subject",
        "reference",
    },
    "reference": {"checking", "errors", "data", "subject", "exam", "runs", "files", "model"},
    "alarms": {"student", "alarms", "data", "exam", "features", "method", "metrics", "model", "parallel"},
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
        "machine",
        "shortage",
    },
    "student": set(),
    "comparison": {"errors", "scores", "student"},
    "choice": {"errors", "checking", "scores", "comparison", "choice"},
    "report": {"errors", "checking", "privacy", "scores", "choice", "files", "report"},
    "exporter": {"errors", "model", "runs", "data", "saveable", "files", "exporter"},
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
        "model",
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
    "catalog": {"metric", "errors", "methods", "metrics", "recipe", "exam"},
    "sheets": {"data", "exam", "model", "pictures"},
    "contenders": {"catalog", "choice", "data", "errors", "exam", "evaluation", "quick", "subject", "metrics"}
    | {"model", "recipe", "report", "runs", "scores", "sheets", "files", "pictures", "provenance", "state"},
    "contest": {
        "contenders",
        "checking",
        "alarms",
        "errors",
        "loop",
        "state",
        "exam",
        "evaluation",
        "quick",
        "choice",
        "report",
        "catalog",
        "data",
        "model",
        "recipe",
        "runs",
    }
    | {"claims", "provenance", "scores", "metrics", "files", "pictures", "features", "machine", "sheets"}
    | {"probe"},
}
FREE = {"cli", "api", "edit", "__init__", "__main__"}
FOLDERS = {"system", "training", "measuring", "latent"}  # the law is on their modules, whose names are unique
FAMILIES = {"diffusion", "adversarial", "methods", "networks"}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py"))


def part(path: Path) -> str:
    first, *rest = path.relative_to(ROOT).parts
    return (rest[0] if first in FOLDERS else first).removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The parts of diptych that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            of = node.module.removeprefix("diptych").removeprefix(".")
            whole = of in FOLDERS | {""}  # from diptych.system import files
            names = [f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module]
        for name in names:
            if name.startswith("diptych."):
                first, *rest = name.split(".")[1:]
                yield rest[0] if first in FOLDERS and rest else first


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_law(path: Path) -> None:
    if part(path) in FREE:
        return
    assert part(path) in LAW, f"{path.name} has no place in the table: give it one, and say why in docs/"
    broken = (set(imported(path)) & {part(module) for module in modules()}) - LAW[part(path)]
    assert not broken, f"{path.relative_to(ROOT)} may not import {', '.join(sorted(broken))}"


def test_names_of_modules_are_unique() -> None:
    names = [part(path) for path in modules() if path.parent == ROOT or path.parent.name in FOLDERS]
    assert sorted(set(names) - {"__init__"}) == sorted(name for name in names if name != "__init__")


def test_the_right_panel_knows_no_family() -> None:
    for name in (
        "runs",
        "features",
        "exam",
        "evaluation",
        "metrics",
        "choice",
        "report",
        "exporter",
        "model",
        "loop",
        "state",
        "contest",
    ):
        assert not LAW[name] & FAMILIES


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
