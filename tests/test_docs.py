"""What the documents show runs: the README's ten lines, and the method that "add a method" writes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from diptych.adversarial.latent import LatentOptions
from diptych.adversarial.style import StyleOptions
from diptych.cli import app
from diptych.diffusion.model import DiffusionOptions

ROOT = Path(__file__).parents[1]


def python_block(document: str, which: int = 0) -> str:
    found = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.S)
    return str(found[which])


def execute(code: str, folder: Path, source: Path = ROOT / "src") -> str:
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_runs(tmp_path: Path) -> None:
    """With a smaller budget; all else as it stands there."""
    code = python_block("README.md")
    assert 'budget="1m"' in code
    out = execute(code.replace('budget="1m"', 'budget="320-images"'), tmp_path)
    assert "fid" in out
    assert (tmp_path / "edm.onnx").stat().st_size > 100_000


def test_the_method_of_the_guide_trains(tmp_path: Path) -> None:
    """One new file in a copy of the package, nothing else edited."""
    shutil.copytree(ROOT / "src" / "diptych", tmp_path / "src" / "diptych")
    new = tmp_path / "src" / "diptych" / "methods" / "lsgan.py"
    new.write_text(python_block("docs/add-a-method.md"), encoding="utf-8")
    code = (
        "import diptych; assert 'lsgan' in diptych.recipes(); "
        "run = diptych.train('lsgan', 'digits', 'run', budget='64-images', width=8, batch=16, ticks=2); "
        "print(run.log()[-1]['losses'])"
    )
    assert "logit_gap" in execute(code, tmp_path, tmp_path / "src")


def test_the_metric_of_the_guide_measures(tmp_path: Path) -> None:
    """One new file in a copy of the package, nothing else edited: asked for, in a report, with a floor."""
    shutil.copytree(ROOT / "src" / "diptych", tmp_path / "src" / "diptych")
    new = tmp_path / "src" / "diptych" / "metrics" / "brightness.py"
    new.write_text(python_block("docs/add-a-method.md", 1), encoding="utf-8")
    code = (
        "import diptych; "
        "diptych.train('dcgan', 'digits', 'run', budget='64-images', width=8, batch=16, ticks=1, exam=0); "
        "report = diptych.evaluate('run', n=40, metrics=['brightness']); "
        "print(report.scores['brightness'].value, abs(report.floor['brightness'].value) < 30)"
    )
    value, small = execute(code, tmp_path, tmp_path / "src").split()[-2:]
    assert abs(float(value)) > 0
    assert small == "True"


def test_the_gan_of_the_guide_trains(tmp_path: Path) -> None:
    """The recipe that "Which GAN?" shows, as it stands there."""
    code = python_block("docs/which-gan.md") + (
        "from diptych.data import open_data; from diptych.training.loop import train; "
        "from diptych.training.state import Settings; settings = Settings('32-images', ticks=1); "
        "run = train(hinge_gan, open_data('digits'), 'run', arguments=hinge_gan.small, settings=settings); "
        "print(run.log()[-1]['losses'])"
    )
    out = execute(code, tmp_path)
    assert "lecam" in out
    assert "r1_gradient" in out


def test_the_exported_file_runs_without_diptych(tmp_path: Path) -> None:
    """The snippet of "How it works": onnxruntime and numpy alone."""
    train = (
        "import diptych; "
        "diptych.train('edm', 'digits', 'run', budget='64-images', width=8, batch=16, ticks=1, exam=0); "
        "diptych.export('run', 'edm.onnx', steps=2)"
    )
    execute(train, tmp_path)
    code = python_block("docs/how-it-works.md")
    assert "diptych" not in code
    assert "(16, 1, 8, 8)" in execute(code, tmp_path)


def test_the_spread_over_trainings(tmp_path: Path) -> None:
    reports = [
        {"recipe": recipe, "scores": {"fid": {"value": value}}}
        for recipe, value in (("edm", 2.0), ("edm", 4.0), ("r3gan", 7.0), ("r3gan", 8.0))
    ]
    (tmp_path / "measured.json").write_text(json.dumps({"reports": reports}))
    out = execute(python_block("docs/compare.md"), tmp_path)
    assert "edm: fid 3 ± 1.4 over 2 trainings" in out
    assert "r3gan: fid 7.5" in out


def commands() -> list[tuple[str, str]]:
    """Every `diptych ...` line of the documents, and which document it stands in."""
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```console\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            joined = block.replace("\\\n", " ")
            found += [(path.name, line[2:]) for line in joined.splitlines() if line.startswith("$ diptych ")]
    return found


@pytest.mark.parametrize(("document", "line"), commands())
def test_commands_have_flags_that_there_are(document: str, line: str) -> None:
    """As far as the parser can tell: verbs, recipes, flags and what kind of value they take."""
    words = shlex.split(line, comments=True)[1:]
    if "--out" not in words and words[0] == "train":
        words += ["--out", "run"]
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    known = {f.name for options in (DiffusionOptions, LatentOptions, StyleOptions) for f in fields(options)}
    assert {name.replace("-", "_") for name in bound.arguments.get("options", {})} <= known, document


def test_the_schedule_of_the_guide_to_diffusion(tmp_path: Path) -> None:
    code = python_block("docs/diffusion.md")
    assert 'budget="1m"' in code
    assert "[4, 1, 8, 8]" in execute(code.replace('budget="1m"', 'budget="128-images"'), tmp_path)


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert not missing
