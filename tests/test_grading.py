"""Several subjects against the same images: one n, paired differences; on one process and on two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diptych
from diptych.cli import run
from diptych.errors import WrongUse
from diptych.features import store
from diptych.measuring.grading import grade
from diptych.methods.r3gan import r3gan
from diptych.runs import save_model
from diptych.system import parallel

QUALITY = ("fid", "kid", "precision_recall")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as sample files: real ones, noisy ones, and an untrained generator."""
    place = tmp_path_factory.mktemp("subjects")
    data = diptych.open_data("digits")
    pixels = data.train.pixels[:300]
    noise = np.random.default_rng(0).normal(size=pixels.shape) * 60
    np.savez(place / "real.npz", arr_0=pixels)
    np.savez(place / "noisy.npz", arr_0=np.clip(pixels + noise, 0, 255).astype(np.uint8))
    flat = np.broadcast_to(pixels.mean((1, 2), keepdims=True).round(), pixels.shape)
    np.savez(place / "flat.npz", arr_0=flat.astype(np.uint8))
    np.savez(place / "few.npz", arr_0=pixels[:100])
    torch.manual_seed(0)
    save_model(r3gan(data.train, width=8).method.model.eval(), place / "generator")
    return place


def test_a_table_of_files_and_a_model(folder: Path) -> None:
    sources = [folder / "real.npz", folder / "noisy.npz", folder / "generator"]
    found = grade(sources, "digits", split="held_out", n=250, metrics=QUALITY)
    names = [report.name for report in found.reports]
    assert names == ["real", "noisy", "generator"]
    fid = {report.name: report.scores["fid"] for report in found.reports}
    assert fid["real"].value < fid["noisy"].value < fid["generator"].value
    assert {report.ruler.n for report in found.reports} == {250}
    assert [d.names for d in found.differences] == [
        ("real", "noisy"),
        ("real", "generator"),
        ("noisy", "generator"),
    ]
    assert all(d.decided and d.winner == d.names[0] for d in found.differences)
    # the floor is of the training images, which the real ones are a part of
    assert found.reports[0].floor["fid"].overlaps(fid["real"])


def test_all_are_measured_at_the_n_that_all_have(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "diptych"):
        found = grade([folder / "few.npz", folder / "noisy.npz"], "digits", metrics=("fid",), floor=False)
    assert {report.ruler.n for report in found.reports} == {100}
    assert "n = 100, as many as few has" in caplog.text


def test_against_another_subject(folder: Path) -> None:
    found = grade([folder / "real.npz"], folder / "real.npz", metrics=QUALITY)
    scores = found.reports[0].scores
    assert scores["fid"].value == pytest.approx(0, abs=1e-6)
    assert scores["precision"].value == scores["recall"].value == 1
    assert found.reports[0].floor == {}


def test_the_same_twice_is_not_a_difference(folder: Path) -> None:
    found = grade([folder / "noisy.npz"] * 2, "digits", metrics=("fid",), floor=False)
    assert [report.name for report in found.reports] == ["noisy (1)", "noisy (2)"]
    (difference,) = found.differences
    assert (difference.value, difference.p, difference.decided) == (0, 1, False)


def test_every_score_is_tested_where_none_leads(folder: Path) -> None:
    sources = [folder / "flat.npz", folder / "noisy.npz"]
    found = grade(sources, "digits", metrics=("precision_recall", "sharpness"), n=200, floor=False)
    assert [d.score for d in found.differences] == [
        "precision",
        "recall",
        "spectrum_distance",
        "sharpness_ratio",
    ]
    assert not found.warnings
    led = grade(sources, "digits", metrics=("precision_recall", "fid"), n=200, floor=False)
    assert [d.score for d in led.differences] == ["fid"]


def test_that_no_pair_could_be_tested_is_said(folder: Path) -> None:
    model = folder / "generator"
    (warning,) = grade([model, model], "digits", metrics=("cost",), floor=False).warnings
    assert warning == (
        "no pair was tested: a paired test needs a score of images that both have, not parameters, flops"
    )
    assert not grade([model], "digits", metrics=("cost",), floor=False).warnings


def test_rulers_side_by_side(folder: Path) -> None:
    sources, rulers = [folder / "flat.npz", folder / "noisy.npz"], ("diptych-0", "brightness")
    found = grade(sources, "digits", rulers=rulers, metrics=("fid",))
    assert [(report.name, report.ruler.extractor) for report in found.reports] == [
        (name, ruler) for name in ("flat", "noisy") for ruler in rulers
    ]
    assert [(d.winner, d.decided) for d in found.differences] == [("noisy", True), ("flat", True)]
    (warning,) = found.warnings
    assert "the rulers disagree about flat and noisy: by fid diptych-0 prefers noisy (p < 0.001)" in warning


@pytest.fixture(autouse=True)
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ruler that sees nothing but how bright an image is."""
    from diptych.features import extractor as registry

    class Brightness(registry.Extractor):
        name, dim, sha256, resize, views = "brightness", 1, "0", "none", {"pooled": 1}

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"pooled": image.float().mean((1, 2, 3))[:, None]}

    real = registry._built
    monkeypatch.setattr(
        registry, "_built", lambda name, device: Brightness() if name == "brightness" else real(name, device)
    )


def test_options_are_for_those_that_have_them(folder: Path) -> None:
    with pytest.raises(WrongUse, match="no option 'steps'"):
        diptych.compare([folder / "generator"], "digits", metrics=("fid",), steps=4)
    with pytest.raises(WrongUse, match="nothing to measure"):
        diptych.compare([], "digits")


def test_python_and_command_line_agree(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ours = diptych.evaluate(folder / "noisy.npz", "digits", n=200, metrics=("fid",))
    command = ["evaluate", str(folder / "noisy.npz"), "--against", "digits", "--n", "200", "--metric", "fid"]
    assert run([*command, "--json", "--out", str(tmp_path / "out.json")]) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert theirs["reports"][0]["scores"]["fid"]["value"] == ours.scores["fid"].value
    assert json.loads((tmp_path / "out.json").read_text()) == theirs
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "n = 200, against digits" in shown
    assert "noisy" in shown
    assert run([*command[:-2], "--metrics", "fid", "--json"]) == 0  # as Python calls it
    assert json.loads(capsys.readouterr().out) == theirs


def test_two_processes_find_the_same(folder: Path, tmp_path: Path) -> None:
    """Sampling and features are shared; every score and every replicate is the same."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    tail = ["diptych", "evaluate", str(folder / "generator"), "--against", "digits", "--n", "300"]
    tail += ["--metric", "fid", "--metric", "precision_recall", "--no-floor"]
    found = []
    for count, launcher in (
        (1, ["-m"]),
        (2, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]),
    ):
        out = tmp_path / f"{count}.json"
        env["DIPTYCH_CACHE"] = str(tmp_path / f"cache{count}")
        done = subprocess.run(
            [sys.executable, *launcher, *tail, "--out", str(out)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(out.read_text())["reports"][0]["scores"])
    assert found[0] == found[1]


def test_one_process_does_not_wait_for_others() -> None:
    assert (parallel.rank(), parallel.world(), parallel.several()) == (0, 1, False)
    assert [(s.start, s.stop) for s in parallel.my_blocks(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    rows = torch.arange(3)
    assert parallel.united(rows) is rows
    assert store.rank() == 0


def test_unknown_flags_are_named_where_only_images_are_measured(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(folder / "noisy.npz"), "--against", "digits", "--metric", "fid", "--no-floor"]
    assert run([*command, "--metrcs", "kid", "--stepz", "4"]) == 2
    said = capsys.readouterr().err
    assert "no flag --metrcs" in said
    assert "did you mean metrics?" in said
    assert run([*command, "--stepz", "4"]) == 2
    assert "no flag --stepz" in capsys.readouterr().err
    with pytest.raises(WrongUse, match="images have no options"):
        diptych.compare([folder / "noisy.npz"], "digits", metrics=("fid",), floor=False, stepz=4)
    command.insert(1, str(folder / "generator"))
    assert run([*command, "--stepz", "4"]) == 2  # the model says which it has
    assert "no option 'stepz'" in capsys.readouterr().err


def test_results_are_told_where_the_run_cannot_be_written_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(folder / "generator", tmp_path / "generator")
    shutil.rmtree(copy / "reports", ignore_errors=True)
    (copy / "reports").write_text("in the way")
    command = ["evaluate", str(copy), "--against", "digits", "--n", "100", "--metric", "fid", "--no-floor"]
    assert run([*command, "--json", "--out", str(tmp_path / "out.json")]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == json.loads((tmp_path / "out.json").read_text())
    assert "the report of generator is not kept" in " ".join(told.err.split())
    (copy / "reports").unlink()
    assert (
        run([*command, "--out", str(tmp_path / "out.json" / "in.json")]) == 1
    )  # this one is kept all the same
    assert list(copy.glob("reports/**/*.json"))


def test_a_price_is_checked_and_measured_beside_named_metrics(folder: Path) -> None:
    both = [folder / "noisy.npz", folder / "generator"]
    settings: dict[str, Any] = {"n": 100, "metrics": ("fid",), "floor": False}
    with pytest.raises(WrongUse, match="the price of an hour is -3"):
        grade([folder / "nowhere"], "digits", price=-3, **settings)  # before anything is opened
    with pytest.raises(WrongUse, match="images have no price"):
        grade(both[:1], "digits", price=3, **settings)
    noisy, model = grade(both, "digits", price=3, **settings).reports
    assert (set(noisy.scores), set(model.scores)) == ({"fid"}, {"fid", "price_per_1000"})


def test_what_is_not_for_a_reference_is_refused(folder: Path) -> None:
    real, generator = folder / "real.npz", folder / "generator"
    refused: dict[str, Any] = {"size": 16, "channels": 3, "split": "held_out"}
    images = diptych.open_data("digits").held_out
    for name, value in refused.items():
        for against in (generator, images):
            with pytest.raises(WrongUse, match=f"--{name} {value} is not for"):
                grade([real], against, metrics=("fid",), **{name: value})
    with pytest.raises(WrongUse, match="--fit pad is not for"):
        grade([generator], images, metrics=("fid",), fit="pad")
    assert grade([real], images, n=50, metrics=("fid",), fit="pad").reports  # brings images to its shape
    assert grade([real], real, n=50, metrics=("fid",), size=16, fit="pad").reports
