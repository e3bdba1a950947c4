"""What a training does on an alarm: warn, stop, go back; and the same again after a kill."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import brief, made_up, train_unprobed
from diptych import catalog
from diptych.cli import run as command_line
from diptych.errors import Alarmed, Diverged, WrongUse
from diptych.method import Clock, Method
from diptych.model import Model
from diptych.runs import Run
from diptych.system.files import read_tensors
from diptych.training.loop import build
from diptych.training.state import Settings, Training
from diptych.training.track import Watch

GAN, EDM = catalog.recipe("r3gan"), catalog.recipe("edm")
SETTINGS = Settings(budget="128-images", ticks=8, device="cpu", keep=20)  # a tick every 16 images, one step


@dataclass
class Alarming:
    """An exam that scores best after 48 images, and rings where it is told to."""

    rings: tuple[int, ...] = ()
    n: int = 1
    every: int = 1
    looked: int = 0
    name: str = "collapse"

    def settled(self, model: Model, seconds: float, ticks: int, recorded: Mapping[str, Any]) -> Alarming:
        return self

    def terms(self) -> dict[str, Any]:
        return {"n": self.n, "every": self.every}

    def memory(self, method: Method, clock: Clock) -> dict[str, float]:
        self.looked = clock.images
        return {}

    def judge(self, history: Sequence[Mapping[str, Any]], clock: Clock) -> dict[str, dict[str, Any]]:
        assert [line["images"] for line in history] == list(range(16, clock.images + 1, 16))
        state = "alarm" if clock.images in self.rings else "ok"
        return {self.name: {"name": self.name, "state": state, "sentence": "coverage is 0.1"}}

    def copies(self, verdicts: Mapping[str, Mapping[str, Any]]) -> Tensor | None:
        ringing = verdicts[self.name]["state"] == "alarm"
        return torch.zeros(64, 1, 8, 8, dtype=torch.uint8) if ringing else None

    def __call__(self, model: Model) -> dict[str, float]:
        return {"fid": 1.0 + abs(self.looked + 16 - 48) / 16}


def go(
    out: Path,
    on_alarm: str,
    rings: Sequence[int],
    recipe: str = "r3gan",
    watch: Watch = lambda clock, logs: None,
    every: int = 1,
    name: str = "collapse",
) -> Run:
    """every: ticks from exam to exam; 0: there are none. name: of the alarm."""
    spec, settings = brief(catalog.recipe(recipe)), replace(SETTINGS, on_alarm=on_alarm)
    exam = Alarming(tuple(rings), every=every, name=name) if every else None
    return train_unprobed(
        spec,
        made_up(),
        out,
        arguments={**spec.small, "batch": 16},
        settings=settings,
        examine=exam,
        watch=watch,
    )


def state(run: Run, images: int) -> Any:
    return run.checkpoints.read(run.checkpoints.at(images))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training without alarms."""
    return go(tmp_path_factory.mktemp("quiet") / "run", "warn", [])


def test_a_warning_changes_nothing(quiet: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "diptych"):
        loud = go(tmp_path / "loud", "warn", [64, 80])
    (told,) = [r.getMessage() for r in caplog.records if "collapse" in r.getMessage()]
    assert told == "collapse: alarm: coverage is 0.1"  # once, though it rang twice
    assert [line["alarms"]["collapse"]["state"] for line in loud.log()][3:6] == ["alarm", "alarm", "ok"]
    one, other = (read_tensors(run.path / "model.safetensors")[0] for run in (loud, quiet))
    assert all(torch.equal(one[key], other[key]) for key in one)
    sheets = sorted(path.name for path in (loud.path / "samples").glob("*-copies.png"))
    assert sheets == ["000000000064-copies.png", "000000000080-copies.png"]


def test_stopping_leaves_a_checkpoint_and_goes_on_if_asked_again(tmp_path: Path) -> None:
    with pytest.raises(Alarmed, match=r"after 64 images: collapse: coverage is 0\.1"):
        go(tmp_path, "stop", [64])
    run = Run(tmp_path)
    assert run.log()[-1]["images"] == 64
    assert max(run.checkpoints.kept) == 64
    assert Alarmed("x").exit_code == 1
    assert go(tmp_path, "stop", [64]).finished


def test_an_alarm_at_the_end_fails_a_training_that_is_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Alarmed, match=r"ended with an alarm after 128 images: collapse: coverage") as raised:
        go(tmp_path, "stop", [128])
    assert "trains no further" in raised.value.hint
    run = Run(tmp_path)
    assert run.finished
    assert max(run.checkpoints.kept) == 128
    assert run.log()[-1]["reaction"] == "stop"
    last, average = state(run, 128), read_tensors(tmp_path / "model.safetensors")[0]
    assert all(torch.equal(average[key], last["average"][key]) for key in average)
    before = run.log()
    caplog.clear()
    assert go(tmp_path, "stop", [128]).log() == before  # over is over
    assert "an alarm rang at its end: collapse: coverage is 0.1" in caplog.text


@pytest.mark.parametrize("on_alarm", ["rollback", "firmer"])
def test_at_the_end_nobody_goes_back(
    on_alarm: str, quiet: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = go(tmp_path, on_alarm, [128])
    assert "nothing is left of the budget" in caplog.text
    assert f"{run.best} holds the best weights" in caplog.text
    assert "reaction" not in run.log()[-1]
    one, other = state(run, 128)["average"], state(quiet, 128)["average"]
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_exams_at_the_end_only_are_too_late_to_react(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for on_alarm, every in (("stop", 8), ("rollback", 8), ("stop", 4), ("warn", 8)):
        caplog.clear()
        go(tmp_path / f"{on_alarm}{every}", on_alarm, [], every=every)
        late = [r.getMessage() for r in caplog.records if "only at the end" in r.getMessage()]
        assert len(late) == (on_alarm != "warn" and every == 8)
        assert all(f"--on-alarm {on_alarm} acts on divergence alone" in said for said in late)


@pytest.fixture
def exploding(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 96 images everything that is logged is far above what it used to be, once."""
    step = Training.step

    def louder(self: Training) -> None:
        step(self)
        if self.images == 96 and not self.reactions:
            self.logs.sums = {name: 1e12 * value for name, value in self.logs.sums.items()}

    monkeypatch.setattr(Training, "step", louder)


@pytest.mark.parametrize("recipe", ["r3gan", "edm"])
@pytest.mark.usefixtures("exploding")
def test_divergence_is_seen_without_exams(recipe: str, tmp_path: Path) -> None:
    loud = go(tmp_path / "warn", "warn", [], recipe, every=0)
    assert all(line["alarms"].keys() == {"divergence"} for line in loud.log())
    states = [line["alarms"]["divergence"]["state"] for line in loud.log()]
    assert states[:6] == ["ok"] * 5 + ["alarm"]
    with pytest.raises(Alarmed, match=r"after 96 images: divergence: .* times what it used to be"):
        go(tmp_path / "stop", "stop", [], recipe, every=0)
    assert Run(tmp_path / "stop").log()[-1]["reaction"] == "stop"
    assert go(tmp_path / "stop", "stop", [], recipe, every=0).finished


@pytest.mark.usefixtures("exploding")
def test_going_back_needs_exams(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="there are no exams"):
        go(tmp_path / "none", "rollback", [], every=0)
    assert not (tmp_path / "none" / "recipe.json").exists()

    def stop(clock: Clock, logs: Mapping[str, float]) -> None:
        if clock.images == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "some", "rollback", [], watch=stop)
    run = go(tmp_path / "some", "rollback", [], every=0)  # the best of those that there were
    assert [line["images"] for line in run.log() if line.get("reaction") == "rollback"] == [96]


@pytest.mark.parametrize("on_alarm", ["rollback", "firmer"])
def test_going_back(on_alarm: str, quiet: Run, tmp_path: Path) -> None:
    run = go(tmp_path, on_alarm, [80])
    log = run.log()
    assert [line["images"] for line in log] == list(range(16, 129, 16))  # the clock goes on
    assert [line.get("reaction") for line in log] == [None] * 4 + [on_alarm] + [None] * 3
    best, after, end = state(run, 48), state(run, 80), state(run, 128)
    for part in ("method", "average"):
        assert all(torch.equal(after[part][key], best[part][key]) for key in best[part])
    assert (best["reactions"], after["reactions"], end["reactions"]) == (0, 1, 1)
    rates = [s["optimizers"][0]["param_groups"][0]["lr"] for s in (state(quiet, 128), end)]
    assert rates[1] == rates[0] / 2


def test_a_killed_training_does_the_same_again(tmp_path: Path) -> None:
    whole = go(tmp_path / "whole", "firmer", [64, 96])
    for moment in (64, 80):

        def stop(clock: Clock, logs: Mapping[str, float], moment: int = moment) -> None:
            if clock.images == moment:
                raise KeyboardInterrupt

        out = tmp_path / str(moment)
        with pytest.raises(KeyboardInterrupt):
            go(out, "firmer", [64, 96], watch=stop)
        again = go(out, "firmer", [64, 96])
        one, other = state(whole, 128), state(again, 128)
        assert one["reactions"] == other["reactions"] == 2
        assert all(torch.equal(one["method"][key], other["method"][key]) for key in one["method"])
        told = [[(line["images"], line.get("reaction")) for line in run.log()] for run in (whole, again)]
        assert told[0] == told[1]


def test_three_times_and_then_no_more(tmp_path: Path) -> None:
    with pytest.raises(Alarmed, match="3 times it went back"):
        go(tmp_path, "rollback", [64, 80, 96, 112])
    log = Run(tmp_path).log()
    assert [line.get("reaction") for line in log][3:] == ["rollback"] * 3 + ["stop"]


def test_before_any_exam_was_best_there_is_nowhere_to_go_back(tmp_path: Path) -> None:
    with pytest.raises(Alarmed):
        go(tmp_path, "rollback", [16], name="copying")


@pytest.mark.parametrize(("name", "back"), [("collapse", []), ("quality", []), ("copying", [48])])
def test_from_the_best_so_far_nobody_goes_back_for_more_of_the_same(
    name: str, back: list[int], tmp_path: Path
) -> None:
    """After 32 and 48 images the exams are better than ever: low quality is no reason to give them up."""
    run = go(tmp_path, "rollback", [48], name=name)
    assert [line["images"] for line in run.log() if "reaction" in line] == back
    kept = json.loads((run.best / "log.jsonl").read_text())["images"]
    assert kept == (32 if back else 48)  # what was given up is not the best


def test_firmer_penalties(tmp_path: Path) -> None:
    data = made_up()
    training = build(GAN, data, GAN.small, replace(SETTINGS, on_alarm="firmer"), 1000)
    batch = data.train.batch(0, 0, 8)

    def penalty() -> float:
        torch.manual_seed(0)
        method: Any = training.method
        term, _ = method.penalties[0](method.look(batch, training.clock), training.clock)
        torch.manual_seed(0)
        loss, _ = method.critic_loss(batch, training.clock)
        torch.manual_seed(0)
        before, method.penalties[0].firmness = method.penalties[0].firmness, 0.0
        bare, _ = method.critic_loss(batch, training.clock)
        method.penalties[0].firmness = before
        return float(((loss - bare) / term).detach())

    saved = training.state_dict()
    assert penalty() == pytest.approx(1.0, rel=1e-3)
    training.take_back(saved)
    assert penalty() == pytest.approx(2.0, rel=1e-3)
    fresh = build(GAN, data, GAN.small, replace(SETTINGS, on_alarm="firmer"), 1000)
    fresh.load_state_dict(training.state_dict())
    method: Any = fresh.method
    assert method.penalties[0].firmness == 2.0
    with pytest.raises(WrongUse, match="no penalty"):
        go(tmp_path / "edm", "firmer", [], recipe="edm")
    assert not (tmp_path / "edm" / "recipe.json").exists()  # nothing has begun


def test_numbers_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training.step

    def poisoned(self: Training) -> None:
        step(self)
        if self.images == 64 and not self.reactions:
            self.first_bad[0] = 3.0
            with torch.no_grad():
                next(self.method.parameters()).fill_(torch.nan)

    monkeypatch.setattr(Training, "step", poisoned)
    with pytest.raises(Diverged):
        go(tmp_path / "warn", "warn", [])
    run = go(tmp_path / "back", "rollback", [])
    line = run.log()[3]
    assert line["alarms"]["divergence"]["state"] == "alarm"
    assert (line["reaction"], line["exam"]) == ("rollback", {})
    assert run.finished
    assert all(value.isfinite().all() for value in read_tensors(run.path / "model.safetensors")[0].values())


def test_the_command_line_judges_a_run(quiet: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["alarms", str(quiet.path), "--n", "-1"]) == 2
    assert "n is -1" in capsys.readouterr().err
    assert command_line(["alarms", str(quiet.path), "--against", "digits", "--n", "48", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["calibrated"]) == (48, True)
    # 128 images of training on noise make no digits
    assert found["alarms"]["collapse"]["state"] == found["alarms"]["quality"]["state"] == "alarm"
    asked = ["alarms", str(quiet.path), "--against", "digits", "--n", "48"]
    assert command_line([*asked, "--fail"]) == 3
    assert "what was seen" in capsys.readouterr().out
