"""What the documents show runs: the README's ten lines, and the method that "add a method" writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_block(document: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.S)
    return str(code)


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


def test_the_gan_of_the_guide_trains(tmp_path: Path) -> None:
    """The recipe that "Which GAN?" shows, as it stands there."""
    code = python_block("docs/which-gan.md") + (
        "from diptych.data import open_data; from diptych.loop import train; "
        "from diptych.training import Settings; settings = Settings('32-images', ticks=1); "
        "run = train(hinge_gan, open_data('digits'), 'run', arguments=hinge_gan.small, settings=settings); "
        "print(run.log()[-1]['losses'])"
    )
    out = execute(code, tmp_path)
    assert "lecam" in out
    assert "r1_gradient" in out


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
