"""The exam of training ticks: as large as 5 % of the time allow, and no larger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych import api, catalog
from diptych.cli.watch import examined, spoken
from diptych.contest import Rules
from diptych.data.images import DataSet, Images
from diptych.errors import WrongUse
from diptych.measuring.quick import MARGIN, SHARE, QuickExam
from diptych.method import Clock
from diptych.model import Condition, Model, Noise
from diptych.runs import Run
from diptych.training.loop import train
from diptych.training.state import Settings
from diptych.training.track import Watch


def test_fewer_samples_than_none_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for wrong in (
        lambda: QuickExam(made_up(), -5),
        lambda: Rules(exam=-5),
        lambda: api.train("edm", made_up(), out=tmp_path / "run", exam=-5),
    ):
        with pytest.raises(WrongUse, match="-5 samples") as raised:
            wrong()
        assert "--exam" in raised.value.hint
    assert not list(tmp_path.iterdir())


def test_what_is_asked_for_is_none_some_or_as_many_as_can_be_afforded() -> None:
    data = made_up()
    assert QuickExam.asked(data, 0) is None
    assert QuickExam.asked(data, "auto") == QuickExam(data)
    assert QuickExam.asked(data, 20) == QuickExam(data, 20)
    assert (QuickExam(data).size, QuickExam(data, 20).n) == (None, 20)
    with pytest.raises(AssertionError, match="settled"):
        _ = QuickExam(data).n
    with pytest.raises(WrongUse, match="0 samples"):
        QuickExam(data, 0)


class Slow(Model):
    """Takes a known time for each image."""

    def __init__(self, milliseconds: float = 0.0) -> None:
        super().__init__()
        self.image_shape, self.options = (1, 8, 8), None
        self.level = nn.Parameter(torch.ones(1))
        self.milliseconds, self.drawn = milliseconds, 0

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        image = noise.normal(1, 8, 8) * self.level
        time.sleep(self.milliseconds * len(image) / 1000)
        self.drawn += len(image)
        return image


@pytest.fixture(scope="module")
def many() -> DataSet:
    return made_up(n=64, held_out=3000)


def scripted(patch: pytest.MonkeyPatch, cost: Callable[[int], float]) -> list[int]:
    """Exams that take so many seconds without doing anything; returns the sizes that are tried."""
    tried: list[int] = []

    def timed(self: QuickExam, model: Model) -> Iterator[QuickExam]:
        for n in (64, 128, 256, 512, 1024, 2048):
            tried.append(n)
            yield replace(self, size=n, seconds=cost(n))

    patch.setattr(QuickExam, "_timed", timed)
    return tried


@pytest.mark.parametrize("ticks", [1, 10, 37])
@pytest.mark.parametrize("per_image", [1e-5, 3e-4, 2e-3, 0.05, 3.0])
def test_the_largest_that_5_per_cent_allow(
    ticks: int, per_image: float, many: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, lambda n: per_image * n)
    found = QuickExam(many).affordable(Slow(), 600.0, ticks)
    allowed = 600 * 0.05 * MARGIN
    assert SHARE == 0.05
    assert found.seconds == pytest.approx(per_image * found.n)
    if per_image * 64 > allowed:  # too dear even once: at the end only
        assert (found.n, found.every) == (64, ticks)
        return
    assert -(-ticks // found.every) * found.seconds <= allowed  # it can be afforded
    if found.every == 1:
        assert found.n == 2048 or ticks * 2 * found.seconds > allowed  # one of twice as many cannot
    else:
        assert found.n == 64
        assert -(-ticks // (found.every - 1)) * found.seconds > allowed  # nor can more of the smallest


def test_a_size_that_is_hopeless_is_not_tried(many: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = scripted(monkeypatch, lambda n: 0.001 * n)
    assert QuickExam(many).affordable(Slow(), 350.0, 10).n == 1024  # each may take 1.05 s
    assert tried == [64, 128, 256, 512, 1024]
    tried.clear()
    assert QuickExam(many).affordable(Slow(), 350.0, 20).n == 512  # 0.525 s
    assert tried == [64, 128, 256, 512]


def test_with_a_clock(many: DataSet) -> None:
    examine = QuickExam(many, metrics=("density_coverage",))
    found = examine.affordable(Slow(milliseconds=1.0), 60.0, 10)
    # exam and sheet may take 0.18 s: of 64 each they take 0.128 s, with 256 they do not fit
    assert found.n in (64, 128)
    assert found.seconds >= 0.001 * found.n
    assert found.sheet >= 0.064
    dear = examine.affordable(Slow(milliseconds=1.0), 8.0, 10)  # 0.24 s for all of them
    assert dear.n == 64
    assert dear.every >= 5  # two of 0.128 s do not fit
    model = Slow(milliseconds=20.0)
    start = time.perf_counter()
    hopeless = examine.affordable(model, 5.0, 10)  # a sheet takes 1.3 s
    assert (hopeless.n, hopeless.every) == (64, 10)
    assert model.drawn == 8  # which is known from eight
    assert hopeless.cost == pytest.approx(2 * 1.28, rel=0.5)
    assert time.perf_counter() - start < 1.28  # less than a sheet


def test_cut_to_the_held_out_images_and_settled_once() -> None:
    small = made_up(held_out=40)
    found = QuickExam(small).settled(Slow(), 1e6, 10, {})
    assert (found.n, found.every) == (40, 1)
    assert found.seconds > found.sheet > 0
    told = {"n": 40, "every": 1, "seconds": found.seconds, "sheet": found.sheet}
    none = {"train": 0, "calibration": {}}  # 64 training images are too few to learn from
    assert found.terms() == told | none
    model = Slow()
    before = {"n": 32, "every": 3, "seconds": 1.5, "sheet": 0.5}
    assert QuickExam(small).settled(model, 1e6, 10, before).terms() == before | none
    given = QuickExam(small, 100).settled(model, 1e-6, 10, before)  # asked for: taken, whatever it costs
    assert (given.n, given.every) == (40, 1)
    assert model.drawn == 0  # nothing had to be tried
    with pytest.raises(WrongUse, match="-5 samples"):
        QuickExam(small, -5).settled(model, 1.0, 10, {})
    with pytest.raises(WrongUse, match="the fakes are 8x8"):
        QuickExam(made_up((1, 16, 16)), 20).settled(model, 1.0, 10, {})


def test_a_training_decides_records_and_keeps_it(tmp_path: Path) -> None:
    spec, data = catalog.recipe("r3gan"), made_up()
    settings = Settings(budget="64-images", ticks=4, device="cpu")

    def stop(clock: Clock, logs: Mapping[str, float]) -> None:
        if clock.images >= 32:
            raise KeyboardInterrupt

    def go(watch: Watch) -> Run:
        where = tmp_path / "run"
        examine = QuickExam(data)
        return train(spec, data, where, arguments=spec.small, settings=settings, examine=examine, watch=watch)

    with pytest.raises(KeyboardInterrupt):
        go(stop)
    recorded = Run(tmp_path / "run").recipe["exam"]
    assert recorded["n"] == 32  # all that is held out
    assert recorded["every"] == 4  # a training of milliseconds affords none; the last tick has one
    run = go(lambda clock, logs: None)
    assert run.recipe["exam"] == recorded
    assert [bool(line["exam"]) for line in run.log()] == [False, False, False, True]
    assert run.log()[-1]["exam_n"] == 32
    assert {"fid", "coverage"} <= run.log()[-1]["exam"].keys()


def test_the_reals_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    examine, model = QuickExam(made_up(held_out=48), 48), Slow()
    scores = examine(model)
    assert {"fid", "kid", "density", "coverage"} <= scores.keys()

    def refuse(self: Images, indices: object = None) -> Tensor:
        raise AssertionError("the held-out images are read again")

    monkeypatch.setattr(Images, "tensor", refuse)
    assert examine(model) == scores


def test_what_the_progress_display_says() -> None:
    logs = {"exam/fid": 12.34, "exam/kid": 0.1, "exam/coverage": 0.5, "critic": 0.25, "critic_gradient": 9.0}
    assert examined(logs) == "fid 12.3  coverage 0.5"
    assert spoken({**logs, "logit_gap": 0.1, "r1": 2.0}) == "critic 0.25 ∇9  ·  gap 0.1  r1 2"
    assert spoken({"critic": 1.0}) == "critic 1"
    assert spoken({}) == examined({}) == ""
