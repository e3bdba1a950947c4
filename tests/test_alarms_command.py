"""diptych alarms: what it says of runs and of bare models, and by which exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diptych.cli import run as command_line
from diptych.measuring.judging import judge
from diptych.runs import Run
from diptych.system.provenance import tensors_sha256

FLAGS = ["--width", "16", "--budget", "128-images", "--ticks", "1", "--exam", "64", "--device", "cpu"]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is over before it draws anything like a digit."""
    out = tmp_path_factory.mktemp("alarms") / "run"
    assert command_line(["train", "edm", "digits", *FLAGS, "--on-alarm", "stop", "--out", str(out)]) == 1
    return Run(out)


@pytest.fixture(scope="module")
def bare(noise: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model alone."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("model.json", "model.safetensors"):
        shutil.copy(noise.path / name, folder)
    return folder


def asked(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> Any:
    """The JSON of `diptych alarms`, which ends with this code, and what it says on stderr."""
    capsys.readouterr()
    assert command_line(["alarms", *map(str, words), "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out), " ".join(said.err.split())


def test_a_training_that_ended_with_an_alarm_is_over(noise: Run) -> None:
    assert noise.finished
    flags = [*FLAGS, "--on-alarm", "stop", "--out", str(noise.path)]
    assert command_line(["train", "edm", "digits", *flags]) == 0
    assert len(noise.log()) == 1


def test_an_alarm_has_an_exit_code_of_its_own(noise: Run, capsys: pytest.CaptureFixture[str]) -> None:
    tree, said = asked(capsys, 3, noise.path, "--n", 64, "--fail")
    assert tree["alarms"]["collapse"]["state"] == "alarm"
    assert "error" not in said
    assert command_line(["alarms", str(noise.path / "nowhere"), "--fail"]) == 1
    assert "error" in capsys.readouterr().err


def test_a_bare_model_is_judged_as_one_that_is_finished(
    noise: Run, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, _ = asked(capsys, 3, bare, "--against", "digits", "--n", 64, "--fail")
    assert tree["calibrated"]
    assert tree["alarms"]["collapse"]["state"] == tree["alarms"]["quality"]["state"] == "alarm"
    assert tree["not_judged"].keys() == {"overfit", "divergence", "overtraining"}
    assert command_line(["alarms", str(bare), "--against", "digits", "--n", "64"]) == 0
    out = capsys.readouterr().out
    assert out.count("not judged") == 3
    assert "no log tells of its training" in out
    assert "; each alarm: of healthy models 5% are beyond chance" in out


@pytest.mark.parametrize(
    ("words", "why"),
    [(["--n", "30"], "an exam of 30 images is too small"), (["--against", "RUN"], "no training images")],
)
def test_what_could_not_be_judged_does_not_pass(
    words: list[str], why: str, noise: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(noise.path) if word == "RUN" else word for word in words]
    tree, said = asked(capsys, 1, noise.path, *words, "--fail")
    assert not tree["calibrated"]
    assert tree["not_judged"].keys() >= {"collapse", "quality", "copying"}
    assert "error: collapse, quality, copying could not be judged" in said
    assert why in said


def test_what_the_last_line_does_not_tell_is_named(noise: Run, tmp_path: Path) -> None:
    shutil.copytree(noise.path, tmp_path / "run")
    (line,) = noise.log()
    assert "overfit" in judge(tmp_path / "run", n=64).verdicts
    del line["memory"]
    (tmp_path / "run" / "log.jsonl").write_text(json.dumps(line) + "\n")
    found = judge(tmp_path / "run", n=64)
    assert found.not_judged["overfit"].startswith("the last line of the log")


def test_what_was_learned_in_training_serves_the_same_question_only(noise: Run) -> None:
    assert noise.recipe["exam"]["calibration"]["level"] == 0.05
    found = judge(noise.path, n=64, level=0.01)
    assert found.verdicts["collapse"]["false_positives"] == 0.01


def test_it_says_what_was_judged_and_by_what(noise: Run, capsys: pytest.CaptureFixture[str]) -> None:
    tree, _ = asked(capsys, 0, noise.path, "--n", 64)
    assert (tree["run"], tree["recipe"], tree["data"]) == (str(noise.path), "edm", "digits")
    assert tree["provenance"]["weights_sha256"] == tensors_sha256(noise.model().state_dict())
    assert tree["provenance"]["versions"]["diptych"]
    assert "command" in tree["provenance"]


@pytest.mark.parametrize(
    ("copies", "said"),
    [("not/there/x.png", "is no folder"), ("x.txt", "is no picture"), (".", "is no picture")],
)
def test_a_place_for_copies_is_looked_at_first(
    copies: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the run, which is not even there."""
    assert command_line(["alarms", "nowhere", "--copies", str(tmp_path / copies)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "hint: " in told
    assert not list(tmp_path.iterdir())
    assert command_line(["alarms", "nowhere", "--copies", str(tmp_path / "x.png")]) == 1


def test_no_copies_no_picture(noise: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = asked(capsys, 0, noise.path, "--n", 64, "--copies", tmp_path / "worst.png")
    assert "copying is ok" in said
    assert "is not written" in said
    assert not (tmp_path / "worst.png").exists()
