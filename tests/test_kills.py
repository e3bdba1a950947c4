"""Runs killed with SIGKILL once in each stage and started again: the same as one that was left in peace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FILES = ("sheet", "model", "averages", "log", "checkpoint", "best")  # kills that hit exactly


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """A GAN with adaptive augmentation and a denoiser, each killed nine times by benchmarks/kills.py."""
    folder = tmp_path_factory.mktemp("kills")
    script, out = BENCHMARKS / "kills.py", folder / "found.json"
    arguments = ["--recipes", "dcgan,iddpm", "--each", "0", "--folder", folder / "runs", "--out", out]
    env = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=600)
    assert out.exists(), done.stderr
    found: dict[str, dict[str, object]] = json.loads(out.read_text())["results"]
    return found


@pytest.mark.parametrize("name", ["dcgan", "iddpm"])
def test_a_run_killed_in_each_stage_equals_an_undisturbed_one(
    name: str, killed: dict[str, dict[str, object]]
) -> None:
    found = killed[name]
    assert found["differences"] == []
    assert found["hung"] == 0
    assert found["judged"] == 3 * 5  # verdicts on collapse, quality and copying at each of five ticks
    kills = found["kills"]
    assert isinstance(kills, dict)
    assert sum(kills.values()) == 9
    assert kills["start"] >= 1
    assert all(kills[stage] >= 1 for stage in FILES)
