"""A run is repeated bit for bit; and where something was changed, it is said what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import train_unprobed
from diptych import catalog
from diptych.cli import run as cli
from diptych.data import open_data
from diptych.errors import Alarmed, DataError, RunError
from diptych.measuring.quick import QuickExam
from diptych.runs import Run, open_run
from diptych.system.files import read_json, write_json
from diptych.training.rerun import rerun, runs_in
from diptych.training.state import Settings
from test_reactions import Alarming

GAN = catalog.recipe("r3gan")
SETTINGS = Settings(budget="48-images", ticks=3, device="cpu", seed=3)


def trained(out: Path, source: Path, **how: Any) -> Run:
    data = open_data(str(source))
    exam = QuickExam(data, 16, level=0)
    settings = replace(SETTINGS, **how)
    return train_unprobed(GAN, data, out, arguments=GAN.small, examine=exam, settings=settings)


def images(file: Path, seed: int = 0) -> Path:
    """A small data set as a file."""
    np.savez(file, images=np.random.default_rng(seed).integers(0, 256, (96, 8, 8, 1), dtype=np.uint8))
    return file


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("data") / "set.npz")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Run:
    return trained(tmp_path_factory.mktemp("runs") / "run", source)


def test_a_run_is_repeated_bit_for_bit(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    assert cli(["rerun", str(finished.path), "--out", str(out)]) == 0
    assert "bit for bit: weights, 3 lines of the log, 3 sheets of samples" in " ".join(
        capsys.readouterr().out.split()
    )
    again = Run(out)
    assert again.log()[-1]["weights_sha256"] == finished.log()[-1]["weights_sha256"]
    assert again.recipe["exam"] == finished.recipe["exam"]
    assert (again.path / "samples").is_dir()


def test_an_unfinished_run_is_repeated_as_far_as_it_went(tmp_path: Path, source: Path) -> None:
    def stop(clock: Any, logs: Any) -> None:
        if clock.images > 32:
            raise KeyboardInterrupt

    data = open_data(str(source))
    exam = QuickExam(data, 16, level=0)
    with pytest.raises(KeyboardInterrupt):
        train_unprobed(
            GAN, data, tmp_path / "run", arguments=GAN.small, examine=exam, settings=SETTINGS, watch=stop
        )
    agreement = rerun(Run(tmp_path / "run"), tmp_path / "again")
    assert agreement.exact
    assert agreement.lines == 2
    assert [line["images"] for line in Run(tmp_path / "again").log()] == [16, 32]


def test_with_the_weights_that_it_began_from(tmp_path: Path, source: Path) -> None:
    first = trained(tmp_path / "first", source)
    second = trained(tmp_path / "second", source, init=str(first.path), seed=4)
    assert rerun(second, tmp_path / "again").exact
    trained(tmp_path / "other", source, seed=9)
    (first.path / "model.safetensors").write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    with pytest.raises(RunError, match=r"weights of --init .* are others than when"):
        rerun(second, tmp_path / "third")


def copied(run: Run, to: Path, **changes: Any) -> Run:
    """A copy of what a run recorded, with changes."""
    import shutil

    shutil.copytree(run.path, to)
    write_json(to / "recipe.json", {**run.recipe, **changes})
    return Run(to)


def test_what_differs_is_said(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same run under another seed, passed off for the first: weights, log, samples, scores."""
    recorded = {**finished.recipe["settings"], "seed": 4}
    other = copied(finished, tmp_path / "other", settings=recorded, processes=2)
    assert cli(["rerun", str(other.path), "--out", str(tmp_path / "again"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert "differ by up to" in found["weights"]
    assert found["log"].startswith("line 1, after 16 images, has losses.")
    assert "3 of 3 sheets differ" in found["samples"]
    assert found["circumstances"] == ["processes: 2 then, 1 now"]
    assert not found["exact"]
    then, now = found["scores"]["fid"]
    assert then["low"] < then["high"]
    assert then["value"] != now["value"]
    assert cli(["rerun", str(other.path), "--out", str(tmp_path / "again"), "--loosely"]) in (0, 1)
    said = capsys.readouterr().out
    assert "is not" in said
    assert "fid: " in said


def test_other_data_is_refused(finished: Run, tmp_path: Path, source: Path) -> None:
    with pytest.raises(DataError, match="has changed since: train_sha256 was"):
        rerun(finished, tmp_path / "again", source=str(images(tmp_path / "set.npz", seed=1)))
    moved = copied(finished, tmp_path / "moved", data={**finished.recipe["data"], "source": "gone.npz"})
    with pytest.raises(DataError, match="cannot be opened") as error:
        rerun(moved, tmp_path / "again")
    assert "--data" in error.value.hint
    assert not (tmp_path / "again").exists()
    assert rerun(moved, tmp_path / "again", source=str(source)).exact


def test_what_cannot_be_repeated_says_why(finished: Run, tmp_path: Path) -> None:
    empty = copied(finished, tmp_path / "empty")
    (empty.path / "log.jsonl").write_text("")
    with pytest.raises(RunError, match="no line in its log"):
        rerun(empty, tmp_path / "again")
    recorded = read_json(finished.path / "recipe.json")
    del recorded["images"]
    write_json(empty.path / "recipe.json", recorded)
    with pytest.raises(RunError, match="not recorded its images"):
        rerun(Run(empty.path), tmp_path / "again")
    assert cli(["rerun", str(finished.path), "--out", str(finished.path)]) == 2


def test_a_duel_is_its_contenders(finished: Run, tmp_path: Path) -> None:
    copied(finished, tmp_path / "duel" / "a")
    copied(finished, tmp_path / "duel" / "b")
    copied(finished, tmp_path / "duel" / ".diptych-x")
    assert [run.path.name for run in runs_in(tmp_path / "duel")] == ["a", "b"]
    assert [run.path for run in runs_in(finished.path)] == [finished.path]
    copied(finished, tmp_path / ".diptych-x")  # a rehearsal's
    with pytest.raises(RunError, match="no run"):
        runs_in(tmp_path)
    assert open_run(finished.path).path == finished.path


def test_threads_are_those_of_then(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {**finished.recipe["machine"], "threads": 2}
    other = copied(finished, tmp_path / "other", machine=machine)
    used: list[int] = []
    monkeypatch.setattr(
        "diptych.training.rerun.train", lambda *args, **kwargs: used.append(torch.get_num_threads())
    )
    monkeypatch.setattr("diptych.training.rerun.compared", lambda *args: args)
    rerun(other, tmp_path / "again")
    assert used == [2]
    assert torch.get_num_threads() == 1


def test_entries_of_another_version_are_circumstances(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stripped(name: str, **versions: str) -> Path:
        run = copied(finished, tmp_path / name, versions={**finished.recipe["versions"], **versions})
        lines = [{k: v for k, v in line.items() if k != "weights_sha256"} for line in finished.log()]
        (run.path / "log.jsonl").write_text("".join(json.dumps({**line, "old": 1}) + "\n" for line in lines))
        return run.path

    out = tmp_path / "again"
    agreement = rerun(Run(stripped("same")), out)
    assert not agreement.exact
    assert agreement.log == "line 1, after 16 images, has old 1 then, none now"
    older = stripped("older", source_sha256="0" * 64)
    assert cli(["rerun", str(older), "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 sheets of samples what was otherwise source_sha256: 000" in said
    assert "the log has these entries then alone: old" in said
    assert "the log has these entries now alone: weights_sha256" in said


def test_a_run_without_sheets_is_not_said_to_have_the_same(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    bare, out = copied(finished, tmp_path / "bare"), tmp_path / "again"
    shutil.rmtree(bare.path / "samples")
    assert cli(["rerun", str(bare.path), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["exact"], found["sheets"], found["samples"]) == (True, 0, "")
    assert cli(["rerun", str(bare.path), "--out", str(out)]) == 0
    assert "no sheets of samples" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(out / "samples")
    assert cli(["rerun", str(finished.path), "--out", str(out)]) == 1
    assert "the repetition lacks 3 of 3 sheets" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("on_alarm", "rings", "calls", "lines"),
    [
        ("stop", (64,), 1, 4),  # stopped
        ("stop", (64, 96), 2, 6),  # let go on, and stopped once more
        ("stop", (64, 96), 3, 8),  # and let go on to the end
        ("rollback", (64, 80, 96, 112), 1, 7),  # back as often as may be, and then stopped
    ],
)
def test_runs_that_an_alarm_stopped(
    on_alarm: str,
    rings: tuple[int, ...],
    calls: int,
    lines: int,
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = replace(SETTINGS, budget="128-images", ticks=8, on_alarm=on_alarm)
    how: dict[str, Any] = {"arguments": {**GAN.small, "batch": 16}, "settings": settings}
    data, place = open_data(str(source)), tmp_path / "run"
    for _ in range(calls):
        try:
            train_unprobed(GAN, data, place, examine=Alarming(rings), **how)
        except Alarmed:
            assert not Run(place).finished
    assert Run(place).finished == (lines == 8)
    monkeypatch.setattr("diptych.training.rerun.QuickExam", lambda data, **terms: Alarming(rings))
    for _ in range(2):  # once it is there, the same call compares it again
        agreement = rerun(Run(place), tmp_path / "again")
        assert agreement.exact
        assert agreement.lines == len(Run(tmp_path / "again").log()) == lines


def test_what_a_stranger_may_have_written(finished: Run, tmp_path: Path) -> None:
    recorded = dict(finished.recipe)
    wrong: list[dict[str, Any]] = [
        {"machine": {"threads": 0}},
        {"machine": []},
        {"weights_sha256": 5},
        {"forced": [{"changes": 3}]},
        {"settings": {**recorded["settings"], "seed": "x"}},
        {"data": {**recorded["data"], "train_sha256": None}},
        {"data": {**recorded["data"], "arguments": {"size": "x"}}},
    ]
    for i, change in enumerate(wrong):
        with pytest.raises(RunError, match="cannot be read"):
            rerun(copied(finished, tmp_path / str(i), **change), tmp_path / "again")
    place = tmp_path / "written"
    card = {**recorded["data"], "arguments": {**recorded["data"]["arguments"], "cache": str(place)}}
    assert rerun(copied(finished, tmp_path / "cache", data=card), tmp_path / "again").exact
    assert not place.exists()
    lines = [{k: v for k, v in line.items() if k != "finished"} for line in finished.log()]
    bare = copied(finished, tmp_path / "bare")
    (bare.path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "has finished none then" in rerun(bare, tmp_path / "again").log
