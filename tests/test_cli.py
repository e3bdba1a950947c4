"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.cli import VERBS, run
from diptych.cli.train import tell
from diptych.runs import Run

SMALL = ["--width", "8", "--blocks", "1", "--batch", "16", "--device", "cpu", "--exam", "0"]
TRAIN = ["train", "edm", "digits", *SMALL, "--budget", "64-images", "--ticks", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "edm"
    assert run([*TRAIN, "--out", str(out)]) == 0
    return out


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert "diptych duel digits" in out
    for verb in VERBS:
        assert run([verb, "--help"]) == 0
        assert "Usage" in capsys.readouterr().out
    assert run(["train", "r3gan", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--gamma" in out
    assert "Weight of the R1 and R2 penalties" in " ".join(out.split())
    assert "--budget" in out
    assert "--size" in out


def test_help_needs_no_torch() -> None:
    code = "import sys; from diptych.cli import run; run(['--help']); sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    assert (
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False).returncode
        == 0
    )


def test_train_says_where_and_resumes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (trained / "model.safetensors").exists()
    before = (trained / "log.jsonl").read_bytes()
    assert run([*TRAIN, "--out", str(trained), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 64
    assert (trained / "log.jsonl").read_bytes() == before


def test_what_is_known_of_a_run_without_its_log(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(trained, tmp_path / "run")
    (out / "log.jsonl").unlink()
    tell(Run(out), as_json=False)
    assert f"{out}: 64 images; its log.jsonl is gone" in capsys.readouterr().out
    shutil.rmtree(out / "checkpoints")
    tell(Run(out), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"run": str(out), "images": 64}


def test_changed_argument_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TRAIN, "--out", str(trained), "--lr", "0.5"]) == 1
    captured = capsys.readouterr()
    assert "arguments.lr: 0.0, now 0.5" in captured.err
    assert "hint:" in captured.err
    assert captured.out == ""


def test_dry_run_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TRAIN, "--out", str(tmp_path / "dry"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["images"] == 64
    assert min(plan["seconds"], plan["memory_mib"], plan["disk_mib"], plan["flop_per_image"]) > 0
    assert not (tmp_path / "dry").exists()


def test_a_rehearsal_that_is_ended_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def struck(*given: object) -> None:
        assert [path.name[:9] for path in tmp_path.iterdir()] == [".diptych-"]
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("diptych.training.forecast.some_steps", struck)
    assert run([*TRAIN, "--out", str(tmp_path / "dry"), "--dry-run"]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sample_sheet_array_and_folder(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, array, folder = tmp_path / "grid.png", tmp_path / "a.npz", tmp_path / "folder"
    for out in (sheet, array, folder):
        assert run(["sample", str(trained), "--out", str(out), "--seeds", "0-5,9", "--steps", "2"]) == 0
        assert capsys.readouterr().out.strip() == str(out)
    with Image.open(sheet) as picture:
        assert picture.size[0] > 8
    pixels = np.load(array)["arr_0"]
    assert pixels.shape == (7, 8, 8, 1)
    assert len(list(folder.iterdir())) == 7
    with Image.open(folder / "000009.png") as picture:
        one = np.asarray(picture)
    assert np.abs(one.astype(int) - pixels[6, ..., 0]).max() <= 1


def test_a_folder_with_pictures_of_another_call_is_not_silent(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs-v1.5"  # no suffix of a file
    usual = ["sample", str(trained), "--out", str(folder), "--steps", "1", "--seeds"]
    assert run([*usual, "0-3"]) == 0
    (folder / "notes.txt").write_text("no picture")
    assert run([*usual, "0-4"]) == 0
    assert "mixture" not in capsys.readouterr().err
    assert run([*usual, "3-5"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "holds 3 files that are not from this call" in said
    assert "would measure the mixture" in said
    assert len(list(folder.glob("*.png"))) == 6


@pytest.mark.parametrize("verb", ["sample", "export"])
def test_a_suffix_that_nothing_writes_is_refused(
    verb: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([verb, str(trained), "--out", str(tmp_path / "a.xyz")]) == 2
    assert {"sample": ".npz for an array", "export": "not an .onnx file"}[verb] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trian"], 2, "train"),
        (["train", "r3gna", "digits", "--out", "x"], 2, "r3gan"),
        (["train", "edm", "digits", "--out", "x", "--widht", "3"], 2, "width"),
        (["train", "edm", "digits", "--out", "x", "--budget", "soon"], 2, "30m"),
        (["train", "edm", "nowhere/at/all", "--out", "x"], 1, "nowhere"),
        (["train", "edm", "digits", "--out", "x", "--device", "tpu"], 2, "cpu"),
        (["train", "edm", "digits", "--out", "x", "--exam", "-5"], 2, "--exam 0"),
        (["train", "edm", "digits", "--out", "x", "--seed", "9" * 23], 2, "--seed 0"),
        (["duel", "digits", "--contenders", "r3gan,emd"], 2, "edm"),
        (["duel", "digits", "--contenders", "edm:widht=3"], 2, "width"),
        (["duel", "digits", "--contenders", "edm:width=wide"], 2, "int"),
        (["duel", "digits", "--at-most", "latency_ms"], 2, "latency_ms=50"),
        (["sample", "no/run", "--out", "x.png"], 1, "diptych train"),
        (["evaluate", "no/run"], 1, "no/run"),
        (["choose", "no/run"], 1, "diptych evaluate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_answered(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


def test_unknown_option_of_a_model(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", str(trained), "--out", str(tmp_path / "x.png"), "--stpes", "2"]) == 2
    assert "steps" in capsys.readouterr().err
    assert run(["sample", str(trained), "--out", str(tmp_path / "x.png"), "--label", "10"]) == 2
    assert "0 to 9" in capsys.readouterr().err
    assert run(["sample", str(trained), "--out", str(tmp_path / "x.png"), "--seeds", "9-1"]) == 2
    capsys.readouterr()
    assert run(["sample", str(trained), "--out", str(tmp_path / "x.png"), "--seeds", str(2**64)]) == 2
    assert "64 bits, not 65" in capsys.readouterr().err


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert {"r3gan", "edm", "consistency"} <= known.keys()
    assert "gamma" in known["r3gan"]["arguments"]
    assert run(["recipes"]) == 0
    assert "r3gan" in capsys.readouterr().out


def test_evaluate_then_choose(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure = [
        "evaluate",
        str(trained),
        "--n",
        "300",
        "--metric",
        "fid",
        "--metric",
        "cost",
        "--json",
        "--steps",
    ]
    for steps in (1, 2):
        assert run([*measure, str(steps)]) == 0
        (report,) = json.loads(capsys.readouterr().out)["reports"]
        assert report["name"] == "edm, 1 step" if steps == 1 else "edm, 2 steps"
        assert (
            report["scores"]["fid"]["low"]
            <= report["scores"]["fid"]["value"]
            <= report["scores"]["fid"]["high"]
        )
        assert report["floor"]["fid"]["value"] < report["scores"]["fid"]["value"]
    assert run(["choose", str(trained), "--best", "fid", "--json"]) == 0
    choice = json.loads(capsys.readouterr().out)
    assert choice["chosen"] is not None
    assert len(list((trained / "reports").glob("*.json"))) == 2
    everything = [
        str(path) for path in (trained, *trained.iterdir())
    ]  # what a shell makes of a careless RUN/*
    assert run(["choose", *everything, "--best", "fid", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"] == choice["chosen"]
    assert run(["choose", str(trained), "--best", "fdi"]) == 2
    assert "fid" in capsys.readouterr().err


def test_other_references_and_rulers_leave_the_usual_report_alone(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["evaluate", str(trained), "--n", "100", "--metric", "fid", "--steps", "1", "--no-floor"]
    assert run(usual) == 0
    assert "floor" not in capsys.readouterr().out  # nothing to show in such a column
    file = trained / "reports" / "edm-1-step.json"
    before = file.read_text()
    assert run([*usual, "--against", "digits", "--split", "all"]) == 0
    assert run([*usual, "--ruler", "diptych-0"]) == 0
    assert file.read_text() == before
    found = {str(path.relative_to(trained / "reports")) for path in (trained / "reports").glob("*/*.json")}
    assert found == {"all-digits/edm-1-step.json", "diptych-0/edm-1-step.json"}
    assert run(["choose", str(trained / "reports" / "diptych-0")]) == 0


def test_data_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert run(["data", "inspect", str(tmp_path), "--json"]) == 0
    assert "broken.png" in capsys.readouterr().out
    assert run(["data", "inspect", str(tmp_path)]) == 0
    assert "broken.png" in capsys.readouterr().out


def test_ctrl_c_writes_a_checkpoint(tmp_path: Path) -> None:
    """A real process, a real SIGINT: exit code 130, no traceback, and the same command goes on."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "diptych",
        "train",
        "edm",
        "digits",
        *SMALL,
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(
        [*command, "--budget", "1M-images"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "recipe.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "the same command again" in err
    assert out == ""
    assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
