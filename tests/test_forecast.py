"""--dry-run: parts that add up, counts that are the loop's own, nothing left behind, promises kept."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import made_up
from diptych import catalog
from diptych.cli.foretell import foretell, mebibytes
from diptych.data.images import DataSet
from diptych.errors import RunError
from diptych.measuring.quick import QuickExam
from diptych.system.aside import MARK
from diptych.training import forecast
from diptych.training.forecast import Forecast
from diptych.training.loop import train
from diptych.training.state import Settings

GAN = catalog.recipe("r3gan")
SETTINGS = Settings(budget="480-images", ticks=6, device="cpu", snapshots=2)


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short spells of steps: what is looked at is not their speed."""
    monkeypatch.setattr(forecast, "SPELL", 0.0625)


def foretold(data: DataSet, out: Path, settings: Settings = SETTINGS, **how: Any) -> Forecast:
    return forecast.forecast(GAN, data, out, arguments=GAN.small, settings=settings, **how)


def test_leaves_nothing_and_draws_nothing(tmp_path: Path, brisk: None) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    data = made_up()
    foretold(data, tmp_path / "not" / "there", examine=QuickExam(data, 16, level=0))
    assert torch.equal(torch.rand(3), expected)
    assert not list(tmp_path.iterdir())


HOLD = """
import sys; from pathlib import Path; from diptych.system.aside import aside
with aside(Path(sys.argv[1])) as folder:
    (folder / "checkpoints").mkdir(); print(folder.name, flush=True); input()
"""


def test_what_a_killed_rehearsal_left_goes_with_the_next(tmp_path: Path) -> None:
    """Not what a living process holds, what another machine made, or what only has such a name."""
    others = [tmp_path / name for name in (".diptych-cache", ".diptych-far", ".diptych-run")]
    for folder, file in zip(others, ("x", MARK, ".lock"), strict=True):
        folder.mkdir()
        (folder / file).write_text("another machine")
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    with subprocess.Popen(command, env=env, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout
        left = tmp_path / process.stdout.readline().strip()
        with forecast.beside(tmp_path / "run") as folder:
            assert {*tmp_path.iterdir()} == {*others, left, folder}
        process.kill()
        process.wait()
        assert (left / "checkpoints").is_dir()
    with forecast.beside(tmp_path / "run") as folder:
        assert {*tmp_path.iterdir()} == {*others, folder}
    assert {*tmp_path.iterdir()} == {*others}


def test_disk_is_what_a_run_leaves(tmp_path: Path, brisk: None) -> None:
    data = made_up()
    expected = foretold(data, tmp_path / "run", examine=QuickExam(data, 32))
    run = train(
        GAN, data, tmp_path / "run", arguments=GAN.small, settings=SETTINGS, examine=QuickExam(data, 32)
    )
    files = {f.stat().st_ino: f for f in run.path.rglob("*") if f.is_file()}
    held = sum(f.stat().st_size for f in files.values()) / 2**20
    older_best = len(run.checkpoints.kept) < sum(f.parent.name == "checkpoints" for f in files.values())
    promised = expected.disk_most_mib if older_best else expected.disk_mib
    assert held == pytest.approx(promised, rel=0.1)
    one = expected.disk_of["checkpoints"] / SETTINGS.keep
    assert expected.disk_most_mib - expected.disk_mib == pytest.approx(one)
    assert held <= expected.disk_peak_mib
    assert sum(expected.disk_of.values()) == pytest.approx(expected.disk_mib)
    looks = [line for line in run.log() if line["exam"]]
    assert (expected.ticks, expected.exams, expected.exam_images) == (len(run.log()), len(looks), 32)
    assert expected.images == run.spent["images"]


def test_time_is_the_sum_of_its_parts(tmp_path: Path, brisk: None) -> None:
    """With a clock that only a step and a tick move, both are counted as often as they happen."""
    now = [100.0]
    data = made_up()

    def step(self: Any) -> None:
        now[0] += 0.5
        self.images += self.batch
        self.steps += 1

    def tick(self: Any) -> None:
        now[0] += 10.0
        self.lines.append({"exam_seconds": 0.0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diptych.training.state.Training.step", step)
        patch.setattr("diptych.training.loop.Loop.tick", tick)
        patch.setattr(forecast, "PATIENCE", 1e9)
        found = foretold(data, tmp_path / "run", started=70.0, clock=lambda: now[0])
    assert found.images_per_s == 8 / 0.5
    assert found.seconds_of["steps"] == 480 / 8 * 0.5
    assert found.seconds_of["checkpoints"] == 6 * 10.0
    assert found.seconds_of["start"] >= 30.0
    assert found.seconds == pytest.approx(sum(found.seconds_of.values()))
    assert found.seconds_between == pytest.approx((found.seconds, found.seconds))


def test_a_machine_that_others_use_is_looked_at_for_longer(
    tmp_path: Path, brisk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third spell at half the speed: the mean is of steps a second, between quickest and slowest."""
    spells: list[tuple[int, float]] = []
    slow = forecast.some_steps

    def spell(training: Any, seen: Any, clock: Any) -> None:
        slow(training, seen, clock)
        seen.spells[-1] = (6 if len(seen.spells) % 3 else 3, forecast.SPELL)
        spells[:] = seen.spells

    monkeypatch.setattr(forecast, "some_steps", spell)
    found = foretold(made_up(), tmp_path / "run")
    assert len(spells) == forecast.MOST
    assert found.images_per_s == pytest.approx(8 * 5 / forecast.SPELL)
    low, high = found.seconds_between
    assert high - low == pytest.approx(480 / 8 * (1 / 3 - 1 / 6) * forecast.SPELL)
    assert low < found.seconds < high
    monkeypatch.setattr(forecast, "ALIKE", 0.1)
    foretold(made_up(), tmp_path / "run")
    assert forecast.FEWEST <= len(spells) < 15


def test_slow_steps_are_not_waited_for_longer_than_quick_ones() -> None:
    """Seconds count, not spells: with steps of ten spells each, the fewest there may be are enough."""
    slow = [(1, 10 * forecast.SPELL)] * forecast.TICKS
    assert forecast.known([*slow, slow[0]])
    assert not forecast.known([(10, forecast.SPELL)] * (forecast.FEWEST - 1))
    uneven = [(1, 12 * forecast.SPELL), (1, 18 * forecast.SPELL)]
    assert not forecast.known(uneven[:1])
    assert forecast.known(uneven)


def test_a_rehearsal_does_not_ring(
    tmp_path: Path, brisk: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alarms of a model that has hardly begun are no news; the level of the log is what it was."""
    tick = forecast.loop.Loop.tick

    def ringing(self: Any) -> None:
        logging.getLogger("diptych").warning("collapse")
        tick(self)

    monkeypatch.setattr("diptych.training.loop.Loop.tick", ringing)
    level = logging.getLogger("diptych").level
    foretold(made_up(), tmp_path / "run")
    assert "collapse" not in caplog.text
    assert logging.getLogger("diptych").level == level


def test_memory_counts_what_an_exam_takes(tmp_path: Path, brisk: None) -> None:
    """A model whose samples need a lot makes the peak; 0.25 GiB is more than anything before it took."""
    data = made_up()
    before = foretold(data, tmp_path / "run").memory_mib

    class Greedy(QuickExam):
        def __call__(self, model: Any) -> dict[str, float]:
            return {"score": float(torch.ones(int(before + 250) * 2**18).sum() > 0)}

        def settled(self, *given: Any) -> Any:
            return self

    assert foretold(data, tmp_path / "run", examine=Greedy(data, 8)).memory_mib > before + 200


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process's peak never falls")
def test_each_forecast_has_a_peak_of_its_own(tmp_path: Path, brisk: None) -> None:
    """What was held before, by another contender's rehearsal, say, is not counted; from the start, it is."""
    data = made_up()
    usual = foretold(data, tmp_path / "run").memory_mib
    held = torch.ones(int(usual + 400) * 2**18)
    assert foretold(data, tmp_path / "run").memory_mib > usual + 300  # in use all the time
    del held
    assert foretold(data, tmp_path / "run").memory_mib < usual + 150
    once = torch.ones(int(usual + 400) * 2**18).sum()
    assert once > 0
    whole = foretold(data, tmp_path / "run", started=time.perf_counter()).memory_mib
    assert whole > usual + 300


def test_what_is_said(tmp_path: Path, brisk: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = foretold(made_up(), tmp_path / "run")
    foretell({"r3gan": found}, as_json=True)
    assert json.loads(capsys.readouterr().out)["seconds_of"].keys() >= {"start", "steps", "sheets"}
    foretell({"r3gan": found}, as_json=False)
    said = capsys.readouterr().out
    for word in ("steps", "memory", "disk", "images/s", "MiB"):
        assert word in said
    foretell({"a": found, "b": found}, as_json=False)
    assert capsys.readouterr().out.count("FLOP") == 3
    assert [mebibytes(x) for x in (0.21, 310.4, 1950.0)] == ["0.21 MiB", "310 MiB", "1.9 GiB"]


def test_a_rehearsal_that_memory_does_not_suffice_for_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("diptych.training.state.Training.step", full)
    with pytest.raises(RunError, match="the rehearsal needs more memory than there is") as raised:
        foretold(made_up(), tmp_path / "run")
    assert "--microbatch" in raised.value.hint
    assert not (tmp_path / "run").exists()
