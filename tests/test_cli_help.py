"""What the command line says: help, tables, warnings, hints, on a terminal and off it."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import diptych
from diptych.cli import VERBS, run
from diptych.cli.common import answer, say_on_stderr, table, together
from diptych.cli.watch import watching
from diptych.method import Clock
from diptych.scores import Estimate, Report, RulerCard
from diptych.system import parallel
from diptych.system.files import write_json

SAYS = {  # of a verb's docstring, which the list of verbs has no room for
    "sweep": "--guidance 1:4:0.5",
    "rerun": "Exit code 0 where it agrees, 1 where not",
    "invert": "diptych sample RUN --latents OUT/latents.npz",
    "convert": "The weights keep their licence",
    "evaluate": "kept in RUN/reports",
}


def said(text: str) -> str:
    """Help in one line, without the frames."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("verb", SAYS)
def test_the_help_of_a_verb_says_all_of_its_docstring(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert SAYS[verb] in said(capsys.readouterr().out)
    assert run(["--help"]) == 0
    listed = said(capsys.readouterr().out)
    assert VERBS["train"] in listed
    assert SAYS[verb] not in listed


@pytest.mark.parametrize(
    ("words", "without", "example"),
    [
        ("edit regions", "label attributes fit", "--steps 50"),
        ("edit interpolate", "seeds label attributes", "--guidance 2"),
        ("edit outpaint", "fit", "--steps 50"),
        ("edit panorama", "fit", "--steps 50"),
        ("edit vary", "", "--steps 50"),
        ("edit direction", "", "--truncation 0.7"),
        ("invert", "", "--noise none"),
        ("tune-steps", "", "--sampler dpm++2m"),
    ],
)
def test_help_lists_no_flag_that_is_refused(
    words: str, without: str, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words.split(), "--help"]) == 0
    text = said(capsys.readouterr().out)
    assert not [flag for flag in without.split() if re.search(rf"--{flag} (STR|INT|CHOICE)", text)]
    options = text.split("--[KEYWORD] STR")[1].split("--out PATH")[0]
    assert example in options
    other = {"edit direction": "--guidance", "invert": "--guidance", "edit interpolate": "--steps"}
    assert other.get(words, "--truncation") not in options


@pytest.mark.parametrize(("recipe", "flag"), [("edm", "--p-std"), ("edm2", "--p-std"), ("flow", "--t-std")])
def test_arguments_that_are_described_together_have_help_each(
    recipe: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", recipe, "--help"]) == 0
    assert re.search(rf"{flag} FLOAT (Deviation of log sigma|Of the log)", said(capsys.readouterr().out))


def test_off_a_terminal_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    table([["one", "x " * 120], ["two", "y " * 120]], ["name", "words"])
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_off_a_terminal_a_warning_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    say_on_stderr()
    logging.getLogger("diptych").warning("%s", "word " * 60 + "end")
    assert capsys.readouterr().err == "word " * 60 + "end\n"


def test_of_several_processes_the_first_alone_says_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, level in ((0, logging.INFO), (1, logging.ERROR)):
        monkeypatch.setattr(parallel, "joined", lambda rank=rank: nullcontext(rank))
        with together() as found, watching(found) as watch:
            assert (found, logging.getLogger("diptych").level) == (rank, level)
            watch("edm")(Clock(32, 32, 1), {"fid": 3.0})
        assert ("100 %" in capsys.readouterr().err) == (rank == 0)
    say_on_stderr()


def test_a_result_is_json_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    answer(True, {"out": "x.png"}, "x.png")
    assert json.loads(capsys.readouterr().out) == {"out": "x.png"}
    answer(False, {"out": "x.png"}, Path("x.png"))
    assert capsys.readouterr().out == "x.png\n"


def test_a_narrow_encoding_is_no_error() -> None:
    code = "from diptych import cli; cli.run = lambda words: print('中 é') or 0; cli.main([])"
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"}
    env["PYTHONPATH"] = str(Path(diptych.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, [b"\\u4e2d", "é".encode("cp1252")]), done.stderr


def test_choose_names_the_reports_that_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = RulerCard("builtin", "0" * 64, "photos", "1" * 64, 100, "none", 0, "1")
    report = Report("edm", "edm", {}, {"fid": Estimate(3.0, 2.0, 4.0, 100)}, {}, card)
    for name in ("a", "b"):
        write_json(tmp_path / name / "reports" / "auto-photos" / "edm.json", report.to_json())
    assert run(["choose", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    hint = " ".join(capsys.readouterr().err.split())
    places = " ".join(str(tmp_path / name / "reports" / "auto-photos") for name in ("a", "b"))
    assert f"diptych choose {places}" in hint
    assert "diptych evaluate" not in hint
    assert run(["choose", *places.split()]) == 0


def test_main_verbs_are_there_in_python() -> None:
    assert all(callable(getattr(diptych, name)) for name in diptych.__all__ if name != "edit")
    assert {"sweep_option", "guide", "tune_steps", "judge", "class_names"} <= set(diptych.__all__)
    assert {"rerun", "invert", "mix", "convert_pickle"} <= set(diptych.__all__)
