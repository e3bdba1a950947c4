"""The duel end to end on small networks: equal terms, continuing after a kill, a contender that diverges."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import brief, foreseen, made_up, newest
from diptych import catalog, contenders, contest
from diptych.cli import run as typed
from diptych.cli.evaluate import keep
from diptych.contenders import Entry, Rules, distinct, foreign, measured_of_points, ready, report_file
from diptych.contest import duel
from diptych.data.images import DataSet
from diptych.errors import Diverged, WrongUse
from diptych.measuring.grading import Grading
from diptych.measuring.quick import QuickExam
from diptych.measuring.subject import open_subject
from diptych.method import Clock
from diptych.model import Model
from diptych.recipe import RecipeSpec
from diptych.report.record import DuelRecord
from diptych.runs import Run, save_model
from diptych.scores import Estimate, point_name
from diptych.sheets import neighbour_sheet
from diptych.system.files import write_json
from diptych.training import loop
from diptych.training.probe import Plan
from diptych.training.state import Settings

NAMES = ("r3gan", "edm", "consistency")
RULES = Rules(settings=Settings(budget="32-images", ticks=2, device="cpu"), n=24, exam=16, best="kid")


def entries(*names: str) -> list[Entry]:
    specs = catalog.recipes()
    return [Entry(name, specs[name], brief(specs[name]).small) for name in names or NAMES]


@pytest.fixture(autouse=True)
def no_stopwatch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Speed is measured by its own tests; here it is a number that grows with the steps."""
    asked: list[int] = []

    def speed(model: Model, settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Estimate]]:
        asked.append(len(settings))
        milliseconds = [float(setting.get("steps", 1)) for setting in settings]
        return [{"latency_ms": Estimate(ms, 0.9 * ms, 1.1 * ms, 9, "lower", "ms")} for ms in milliseconds]

    monkeypatch.setattr(contenders, "measure_speed", speed)
    return asked


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is training timed before it begins, but where the exam is decided by that."""

    def planned(spec: RecipeSpec, data: DataSet, *, settings: Settings, **how: Any) -> Plan:
        return foreseen(settings)

    monkeypatch.setattr(loop, "plan", planned)


@pytest.fixture(scope="module")
def small() -> DataSet:
    return made_up()


def test_a_whole_duel(small: DataSet, tmp_path: Path, no_stopwatch: list[int]) -> None:
    record = duel(small, entries(), tmp_path, rules=RULES, command="diptych duel made-up")
    assert [len(c.points) for c in record.contenders] == [1, 6, 3]
    assert {c.spent["images"] for c in record.contenders} == {32}
    cards = {point.ruler for c in record.contenders for point in c.points}
    assert len(cards) == 1
    (card,) = cards
    assert card.held_out_sha256 == small.held_out.sha256
    assert card.n == 24
    for contender in record.contenders:
        assert [line["images"] for line in contender.curve] == [16, 32]
        assert all("fid" in line["exam"] for line in contender.curve)
        for point in contender.points:
            assert {
                "fid",
                "kid",
                "precision",
                "recall",
                "density",
                "coverage",
                "latency_ms",
                "flops",
            } <= point.scores.keys()
            assert {"fid", "recall"} <= point.floor.keys()
            assert {
                name: e.better for name, e in point.scores.items()
            }.items() <= measured_of_points().items()
        assert all((tmp_path / picture).exists() for picture in contender.samples.values())
        assert (tmp_path / contender.neighbours).exists()
    assert record.choice.chosen is not None
    page = (tmp_path / "index.html").read_text()
    assert all(name in page for name in NAMES)
    assert "diptych duel made-up" in page
    assert (
        DuelRecord.from_json(json.loads((tmp_path / "report.json").read_text())).contenders[1].points
        == record.contenders[1].points
    )
    assert no_stopwatch == [1, 6, 3]


def test_what_is_asked_for_is_checked_before_anything_is_trained() -> None:
    for wrong, says in (
        ({"best": "foo"}, "no score called foo"),
        ({"at_most": {"latency": 3.0}}, "no score called latency"),
        ({"best": "vendi_ratio"}, "no better side"),
        ({"at_least": {"recall": math.nan}}, "not a number"),
        ({"n": 0}, "n is 0"),
    ):
        with pytest.raises(WrongUse, match=says):
            Rules(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "says", "hint"),
    [
        ({"best": "fid", "n": 12}, "fid is to decide .* FID needs 16 .* there are 12", "--n"),
        ({"best": "fid_infinity", "n": 2000}, "fid_infinity is to decide", "32 images are held out"),
        (
            {"best": "kid", "at_least": {"authpct": 50.0}},
            "authpct has a limit .* copying needs 40",
            "--held-out",
        ),
    ],
)
def test_a_score_that_the_data_is_too_small_for_is_refused_before_training(
    small: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    says: str,
    hint: str,
) -> None:
    monkeypatch.setattr(contest, "train", None)
    monkeypatch.setattr(contest, "plan", None)
    with pytest.raises(WrongUse, match=says) as error:
        duel(small, entries("edm"), tmp_path, rules=Rules(settings=RULES.settings, **asked))
    assert hint in error.value.hint
    assert not list(tmp_path.iterdir())


def test_every_score_that_can_be_had_may_decide() -> None:
    """Of enough images, also where fewer are trained on than measured; what needs a model is left."""
    for few in (made_up(n=400, held_out=320), made_up(n=100, held_out=320)):
        for name in (name for name, better in measured_of_points().items() if better != "neither"):
            contest.check_measurable(few, Rules(best=name))
    for name in ("latency_ms", "parameters", "flops", "memory_mib", "images_per_s"):
        contest.check_measurable(made_up(held_out=2), Rules(best=name))


def test_a_dry_run_refuses_such_a_score_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", pixels)
    command = ["duel", str(tmp_path / "few.npz"), "--dry-run", "--device", "cpu", "--contenders", "edm"]
    assert typed([*command, "--out", str(tmp_path / "duel")]) == 2
    assert "fid is to decide but cannot be measured here" in capsys.readouterr().err


def test_killed_and_run_again_it_continues(small: DataSet, tmp_path: Path, no_stopwatch: list[int]) -> None:
    def watch(name: str) -> Any:
        def look(clock: Clock, logs: Mapping[str, float]) -> None:
            if name == "consistency" and clock.images >= 16:
                raise KeyboardInterrupt

        return look

    with pytest.raises(KeyboardInterrupt):
        duel(small, entries("r3gan", "consistency"), tmp_path, rules=RULES, watch=watch)
    assert Run(tmp_path / "r3gan").finished
    assert not Run(tmp_path / "consistency").finished
    before = newest(Run(tmp_path / "r3gan")).stat().st_mtime_ns
    first = duel(small, entries("r3gan", "consistency"), tmp_path, rules=RULES)
    assert newest(Run(tmp_path / "r3gan")).stat().st_mtime_ns == before
    no_stopwatch.clear()
    again = duel(small, entries("r3gan", "consistency"), tmp_path, rules=RULES)
    assert not no_stopwatch  # every report was there
    assert [c.points for c in again.contenders] == [c.points for c in first.contenders]
    smaller = duel(small, entries("r3gan", "consistency"), tmp_path, rules=replace(RULES, n=20))
    assert no_stopwatch == [1, 3]  # another ruler: nothing of before is taken
    assert {point.ruler.n for c in smaller.contenders for point in c.points} == {20}


def test_a_model_trained_anew_is_measured_anew(
    small: DataSet, tmp_path: Path, no_stopwatch: list[int]
) -> None:
    duel(small, entries("r3gan"), tmp_path, rules=RULES)
    sheet = (tmp_path / "r3gan" / "samples" / "r3gan.png").read_bytes()
    longer = replace(RULES, settings=replace(RULES.settings, budget="64-images"))
    record = duel(small, entries("r3gan"), tmp_path, rules=longer, force=True)
    assert no_stopwatch == [1, 1]
    assert record.contenders[0].points[0].training["images"] == 64
    assert (tmp_path / "r3gan" / "samples" / "r3gan.png").read_bytes() != sheet


def test_what_evaluate_leaves_of_a_point_takes_nothing_from_it(
    small: DataSet, tmp_path: Path, no_stopwatch: list[int]
) -> None:
    """A GAN's one point is called as the run is: both commands keep its report in one file."""
    (point,) = duel(small, entries("r3gan"), tmp_path, rules=RULES).contenders[0].points
    kid = replace(point.scores["kid"], note="again")
    keep(Grading((replace(point, run=str(tmp_path / "r3gan"), scores={"kid": kid}),)), "")
    (again,) = duel(small, entries("r3gan"), tmp_path, rules=RULES).contenders[0].points
    assert again.scores == {**point.scores, "kid": kid}
    assert no_stopwatch == [1]
    for lost in ("fid", "latency_ms", "parameters"):  # as a report of fewer scores would be
        less = {name: score for name, score in point.scores.items() if name != lost}
        file = report_file(Run(tmp_path / "r3gan"), "r3gan")
        write_json(file, replace(point, scores=less).to_json())
        (whole,) = duel(small, entries("r3gan"), tmp_path, rules=RULES).contenders[0].points
        assert whole.scores.keys() == point.scores.keys()
    assert no_stopwatch == [1] * 4


def test_a_model_that_is_there_takes_part(
    small: DataSet, tmp_path: Path, no_stopwatch: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saved model is measured as it is, beside one that is trained; again only with other weights."""
    out = tmp_path / "duel"
    spec = catalog.recipe("r3gan")
    model = spec(small.train, **spec.small).method.model
    save_model(model, tmp_path / "mine")
    both = [ready(str(tmp_path / "mine")), *entries("dcgan")]
    record = duel(small, both, out, rules=RULES)
    mine, trained = record.contenders
    assert (mine.name, mine.recipe, mine.arguments, mine.spent, mine.curve) == (
        "mine",
        "LatentModel",
        {},
        {},
        (),
    )
    assert mine.points[0].scores.keys() == trained.points[0].scores.keys()
    assert mine.weights_sha256 == mine.points[0].provenance["weights_sha256"]
    assert "mine (saved model) was there already" in record.notes[0]
    assert (out / mine.neighbours).exists()
    page = (out / "index.html").read_text()
    assert "mine (saved model) was there already" in page
    assert duel(small, both, out, rules=RULES).contenders[0].points == mine.points
    assert no_stopwatch == [1, 1]
    with torch.no_grad():
        next(model.parameters()).add_(1)
    save_model(model, tmp_path / "mine")
    assert (
        duel(small, both, out, rules=RULES).contenders[0].points[0].scores["kid"]
        != mine.points[0].scores["kid"]
    )
    assert no_stopwatch == [1, 1, 1]


def test_a_run_says_what_it_has_not_seen(small: DataSet, tmp_path: Path) -> None:
    """A run on the same split, and no training at all beside it."""
    duel(small, entries("dcgan"), tmp_path / "a", rules=RULES)
    record = duel(small, [ready(str(tmp_path / "a" / "dcgan"), "old")], tmp_path / "b", rules=RULES)
    assert record.notes == (
        "old (run) was there already and had a budget of its own; "
        "the held-out images here were held out there too.",
    )
    assert record.contenders[0].spent["images"] == 32


def test_a_model_that_cannot_take_part(small: DataSet, tmp_path: Path) -> None:
    spec = catalog.recipe("r3gan")
    for name, data in (("large", made_up((3, 16, 16))), ("few", made_up(classes=2))):
        save_model(spec(data.train, **spec.small).method.model, tmp_path / name)
    (tmp_path / "pictures").mkdir()
    write_json(tmp_path / "few" / "source.json", {"licence": "theirs"})
    assert foreign(open_subject(tmp_path / "few"), small, tmp_path / "few").endswith("Licence: theirs.")
    with pytest.raises(WrongUse, match="large makes images of 16x16 with 3 channels, not 8x8"):
        duel(small, [ready(str(tmp_path / "large"))], tmp_path / "out", rules=RULES)
    with pytest.raises(WrongUse, match="few knows 2 classes, not"):
        duel(small, [ready(str(tmp_path / "few"))], tmp_path / "out", rules=RULES)
    for name in ("..", "a/b"):
        with pytest.raises(WrongUse, match="cannot be a contender's name"):
            ready(str(tmp_path / "few"), name)
    twice = distinct([ready(str(tmp_path / "few"))] * 2)
    assert [entry.name for entry in twice] == ["few", "few-2"]
    with pytest.raises(WrongUse, match="is no model"):
        ready(str(tmp_path / "pictures"))
    duel(small, entries("dcgan"), tmp_path / "out", rules=RULES)
    save_model(spec(small.train, **spec.small).method.model, tmp_path / "dcgan")
    with pytest.raises(WrongUse, match="holds a run of a contender of the same name"):
        duel(small, [ready(str(tmp_path / "dcgan"))], tmp_path / "out", rules=RULES)


def test_what_no_point_can_have_is_said_once(
    small: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    duel(small, entries("consistency", "r3gan"), tmp_path, rules=RULES)
    said = [entry.getMessage() for entry in caplog.records if "fid_infinity" in entry.getMessage()]
    assert len(said) == 1


def test_neighbours_are_of_the_point_that_is_shown(small: DataSet, tmp_path: Path) -> None:
    for most, steps in ((1.5, "1 step"), (2.5, None)):
        rules = replace(RULES, exam=0, best="latency_ms" if steps else "kid", at_most={"latency_ms": most})
        record = duel(small, entries("consistency"), tmp_path, rules=rules)
        (contender,) = record.contenders
        assert record.choice.chosen is not None
        shown = record.choice.chosen.name
        assert steps is None or shown == f"consistency, {steps}"
        assert contender.neighbours_of == shown
        setting = dict(record.choice.chosen.options)["steps"]
        expected = neighbour_sheet(Run(tmp_path / "consistency").model("cpu").using(steps=setting), small)
        with Image.open(tmp_path / contender.neighbours) as drawn:
            assert np.array_equal(np.asarray(drawn), np.asarray(expected))
        page = (tmp_path / "index.html").read_text()
        assert f"Samples of {shown}, each with its nearest training images" in page


def test_a_contender_that_diverges_is_shown_as_such(
    small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = contest.train

    def train(spec: Any, *args: Any, **kwargs: Any) -> Run:
        if spec.name == "r3gan":
            raise Diverged("phase 'critic' was no longer finite in step 3")
        return honest(spec, *args, **kwargs)

    monkeypatch.setattr(contest, "train", train)
    record = duel(small, entries("r3gan", "consistency"), tmp_path, rules=RULES)
    assert "no longer finite" in record.contenders[0].failed
    assert not record.contenders[0].points
    assert record.choice.chosen is not None
    assert "no longer finite" in (tmp_path / "index.html").read_text()


def test_constraints_decide(small: DataSet, tmp_path: Path) -> None:
    rules = Rules(settings=RULES.settings, n=24, exam=0, best="kid", at_most={"latency_ms": 1.5})
    record = duel(small, entries("consistency"), tmp_path, rules=rules)
    assert record.choice.chosen is not None
    assert record.choice.chosen.name == "consistency, 1 step"
    assert {name for name, _ in record.choice.dropped} == {"consistency, 2 steps", "consistency, 4 steps"}


def test_names_of_points() -> None:
    assert point_name("r3gan", {}) == "r3gan"
    assert point_name("edm", {"steps": 1}) == "edm, 1 step"
    assert point_name("edm", {"steps": 8, "guidance": 2.0}) == "edm, 8 steps, 2.0 guidance"


def test_all_have_the_exam_that_the_slowest_can_afford(
    small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided before the first training, from the one probe of each; kept when the duel goes on."""
    asked: list[float] = []
    sizes = iter((32, 16))
    probed: list[str] = []

    def affordable(self: QuickExam, model: Model, seconds: float, ticks: int) -> QuickExam:
        asked.append(seconds)
        return replace(self, size=next(sizes), every=len(asked), seconds=0.5)

    def plan(spec: RecipeSpec, *args: Any, **kwargs: Any) -> Plan:
        probed.append(spec.name)
        return honest(spec, *args, **kwargs)

    honest = contest.plan
    monkeypatch.setattr(QuickExam, "affordable", affordable)
    monkeypatch.setattr(contest, "plan", plan)
    monkeypatch.setattr(loop, "plan", None)  # nothing is probed twice
    rules = replace(RULES, exam="auto")

    def watch(name: str) -> Any:
        def look(clock: Clock, logs: Mapping[str, float]) -> None:
            assert len(asked) == 2  # both are known before either is trained
            if name == "consistency":
                raise KeyboardInterrupt

        return look

    with pytest.raises(KeyboardInterrupt):
        duel(small, entries("r3gan", "consistency"), tmp_path, rules=rules, watch=watch)
    record = duel(small, entries("r3gan", "consistency"), tmp_path, rules=rules)
    assert probed == ["r3gan", "consistency"]
    assert len(asked) == 2
    for contender, every in zip(record.contenders, (1, 2), strict=True):
        recorded = Run(tmp_path / contender.name).recipe
        assert (recorded["exam"]["n"], recorded["exam"]["every"]) == (16, every)
        assert recorded["probe"]["seconds"] in asked
        assert {line["exam_n"] for line in contender.curve if line["exam"]} == {16}
        assert contender.curve[-1]["exam"]
    page = (tmp_path / "index.html").read_text()
    assert " of 16 images (" in page
    assert " of exams and samples (" in page
    assert " of exams and samples (" in (tmp_path / "report.md").read_text()
