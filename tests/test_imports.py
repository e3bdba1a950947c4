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
    "diffusion": {"errors", "model", "saveable", "diffusion"},
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
    "training": {"errors", "method", "model", "data", "recipe", "device", "shards", "fsdp", "parallel"}
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
        "training",
    },
    "probe": {"budget", "device", "flops", "parallel", "training"},
    "resumption": {"averages", "checkpoints", "errors", "files", "parallel", "runs", "training", "transfer"},
    "reactions": {"alarms", "averages", "errors", "parallel", "runs", "track", "training"},
    "likeness": {"errors", "saveable"},
    "transfer": {"errors", "files", "fsdp", "likeness", "runs", "saveable", "training"}
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
        "training",
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
    "forecast": {"data", "device", "files", "loop", "parallel", "pictures", "probe", "recipe", "runs"}
    | {"aside", "interrupts", "track", "training"},
    # the right panel: it is never handed a family
    "runs": {"checking", "errors", "model", "saveable", "files", "device", "checkpoints"},
    "pretrained": {"allowance", "checking", "errors", "files", "saveable"},
    "pipeline": {"privacy", "errors", "model", "saveable", "device", "files", "pretrained"},
    "subject": {"errors", "model", "data", "runs", "pipeline", "files"},
    "machine": {"device"},
    "planted": {"errors"},
    "features": {"allowance", "errors", "model", "features", "device", "files", "parallel"},
    "exam": {"errors", "model", "data", "scores", "features", "parallel"},
    "evaluation": {"errors", "model", "data", "scores", "exam", "machine", "catalog", "parallel"}
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
    "alarms": {"alarms", "data", "exam", "features", "method", "metrics", "model", "parallel"},
    "judging": {"alarms", "data", "errors", "evaluation", "method", "privacy", "quick", "reference", "runs"}
    | {"subject"},
    "quick": {"alarms", "data", "errors", "exam", "evaluation", "method", "model", "parallel"},
    "metrics": {
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
    "comparison": {"errors", "scores"},
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
    | {"provenance", "quick", "runs", "track", "training"},
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
    "latents": {"adversarial", "errors", "files", "model"},
    "walking": {"adversarial", "errors", "latents", "model"},
    "mixing": {"errors", "latents", "model"},
    "inversion": {"adversarial", "errors", "features", "latents", "model"},
    "directions": {"errors", "latents", "model"},
    "labelled": {"data", "directions", "errors", "features", "latents", "metrics", "model"},
    "autoguidance": {"diffusion", "errors", "runs", "saveable"},
    "catalog": {"errors", "methods", "metrics", "recipe", "exam"},
    "sheets": {"data", "exam", "model", "pictures"},
    "contest": {
        "checking",
        "alarms",
        "errors",
        "loop",
        "training",
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
    | {"scores", "metrics", "files", "pictures", "features", "machine", "sheets"},
}
FREE = {"cli", "api", "edit", "__init__", "__main__"}
FAMILIES = {"diffusion", "adversarial", "methods", "networks"}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The parts of diptych that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [node.module]
                if node.module != "diptych"
                else [f"diptych.{alias.name}" for alias in node.names]
            )
        yield from (name.split(".")[1] for name in names if name.startswith("diptych."))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_law(path: Path) -> None:
    if part(path) in FREE:
        return
    assert part(path) in LAW, f"{path.name} has no place in the table: give it one, and say why in docs/"
    broken = {
        name for name in imported(path) if (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()
    } - LAW[part(path)]
    assert not broken, f"{path.relative_to(ROOT)} may not import {', '.join(sorted(broken))}"


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
        "training",
        "contest",
    ):
        assert not LAW[name] & FAMILIES


def test_choosing_needs_no_torch() -> None:
    code = (
        "import sys; import diptych, diptych.choice, diptych.scores, diptych.report.record, diptych.cli; "
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
