"""Speed: against a model whose time and memory are known, in a process of its own."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych.errors import DiptychError, NotMeasurable
from diptych.exam import Exam
from diptych.metrics import speed as module
from diptych.metrics import stopwatch
from diptych.metrics.speed import (
    Timings,
    drift,
    latency,
    measure_speed,
    quantile,
    speed,
    speed_by_batch,
    throughput,
)
from diptych.metrics.speed import scores as speed_scores
from diptych.metrics.stopwatch import BATCHES, SPELLS, calls_by_batch, spells_by_batch, timed
from diptych.model import Condition, Model, Noise
from diptych.saveable import saveable


@saveable
@dataclass(frozen=True)
class Options:
    """How long one call takes, and how much longer each image makes it."""

    call_ms: float = 20.0
    image_ms: float = 1.0
    fail: bool = False


@saveable
class Sleeper(Model):
    """Sleeps a known time, holds a known amount of memory."""

    def __init__(self, megabytes: int = 0, options: Options = Options()) -> None:
        super().__init__()
        self.image_shape, self.options = (1, 4, 4), options
        self.level = nn.Parameter(torch.zeros(1))
        self.megabytes = megabytes

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        if self.options.fail:
            raise ValueError("this setting cannot be had")
        print("models may print")
        image = noise.normal(1, 4, 4)
        held = torch.ones(self.megabytes * 2**18)  # float32
        time.sleep((self.options.call_ms + self.options.image_ms * len(image)) / 1000)
        return image * self.level + held.sum() * 0


class Unsaveable(Sleeper):
    """Not marked with @saveable."""


def test_known_times_and_memory_in_another_process() -> None:
    model = Sleeper(megabytes=60, options=Options(image_ms=0.25))
    slow, slower = measure_speed(model, [{}, {"call_ms": 60.0}], patience=0.0)
    for scores, least in ((slow, 20), (slower, 60)):
        latencies = {"latency_ms", "latency_p95_ms", "latency_p99_ms"}
        assert set(scores) == latencies | {"images_per_s", "memory_mib"}
        # others may be using the machine: only what is fastest is sure to be near what is known
        assert scores["latency_ms"].low < least + 40
        assert least <= scores["latency_ms"].value
        assert scores["latency_ms"].low <= scores["latency_ms"].value <= scores["latency_ms"].high
        assert scores["latency_ms"].value <= scores["latency_p95_ms"].value <= scores["latency_p99_ms"].value
        assert 60 <= scores["memory_mib"].value < 110
    # one at a time it makes 1 image in 20 ms; the best batch is the largest, 256 images in 20 + 64 ms
    assert 1000 / 20 < slow["images_per_s"].value <= 1000 * 256 / 84
    assert slow["images_per_s"].better == "higher"


def test_a_model_that_cannot_be_opened_elsewhere_is_not_measurable() -> None:
    with pytest.raises(NotMeasurable, match="saved model: Unsaveable cannot be saved"):
        measure_speed(Unsaveable())
    script = type("Script", (Sleeper,), {"__module__": "__main__"})
    with pytest.raises(NotMeasurable, match="Script is defined in a script"):
        measure_speed(script())


def test_a_failure_in_the_other_process_is_told() -> None:
    with pytest.raises(DiptychError, match="this setting cannot be had"):
        measure_speed(Sleeper(), [{"fail": True}])


def test_throughput_stops_where_larger_batches_do_not_help() -> None:
    model = Sleeper(options=Options(call_ms=0.0, image_ms=5.0))  # 200 images/s whatever the batch
    calls = calls_by_batch(model, patience=0.0)
    estimate = throughput(Timings(calls, 0.0))
    assert 50 < estimate.value <= 200
    assert list(calls)[:2] == [1, BATCHES[0]]
    assert 256 not in calls
    assert estimate.note.startswith("median at batch ")


def scripted(
    monkeypatch: pytest.MonkeyPatch, call: float, image: float
) -> tuple[dict[int, list[float]], list[bool]]:
    """What is tried of a model whose calls take `call` + `image` * batch seconds, without waiting."""
    warmed: list[bool] = []

    def at_once(
        model: Model, batch: int, seconds: float, *, patience: float = 0.0, warm: bool = True
    ) -> list[float]:
        warmed.append(warm)
        return [call + image * batch] * 6

    monkeypatch.setattr(stopwatch, "timed", at_once)
    return calls_by_batch(Sleeper()), warmed


def test_a_larger_batch_is_tried_for_slow_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, warmed = scripted(monkeypatch, 4.0, 0.01)  # nearly four times as many images/s at batch 4
    assert list(calls) == [1, 4]
    assert warmed == [True, False]  # such a call is too dear to be thrown away
    assert throughput(Timings(calls, 0.0)).value == pytest.approx(4 / 4.04)
    calls, _ = scripted(monkeypatch, 11.0, 0.0)
    assert list(calls) == [1]
    calls, _ = scripted(monkeypatch, 0.1, 0.0001)  # all of which help and are short
    assert list(calls) == [1, *BATCHES]


SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to ..."),
    MemoryError(),
)


@pytest.mark.parametrize("error", [*SHORTAGES, RuntimeError("a shape is wrong")], ids=str)
def test_the_search_for_throughput_ends_where_memory_does(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    smallest = 64

    def until(model: Model, batch: int, seconds: float, **how: object) -> list[float]:
        if batch >= smallest:
            raise error
        return [0.1] * 6

    monkeypatch.setattr(stopwatch, "timed", until)
    if error not in SHORTAGES:
        with pytest.raises(RuntimeError, match="shape"):
            calls_by_batch(Sleeper())
        return
    assert list(calls_by_batch(Sleeper())) == [1, 4, 16]
    smallest = 1  # a model that not one image can be drawn from has no speed
    with pytest.raises(type(error)):
        calls_by_batch(Sleeper())


def test_by_batch_rests_on_the_same_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Model] = []

    def once(model: Model) -> list[Timings]:
        measured.append(model)
        return [Timings({1: [0.010] * 6, 4: [0.020] * 6, 16: [0.100] * 8}, 7.0)]

    monkeypatch.setattr(module, "timings", once)
    exam = Exam(Sleeper(), made_up((1, 4, 4)), n=2)
    found, by_batch = speed(exam), speed_by_batch(exam)
    assert len(measured) == 1
    assert found["images_per_s"].value == pytest.approx(200)
    assert "batch 4" in found["images_per_s"].note
    assert found["memory_mib"].value == 7
    assert set(by_batch) == {f"latency{part}_ms_b{b}" for part in ("", "_p95", "_p99") for b in (4, 16)}
    assert by_batch["latency_ms_b16"].value == pytest.approx(100)
    assert by_batch["latency_ms_b16"].n == 8
    assert by_batch["latency_p99_ms_b4"].note.startswith("p99, 4 images at a time")
    assert speed_by_batch.asked_only
    assert not speed.asked_only


def test_timed_spends_about_what_it_is_given() -> None:
    start = time.perf_counter()
    times = timed(Sleeper(), 1, 0.3)
    assert 0.3 < time.perf_counter() - start < 5
    assert len(times) >= 2
    assert min(times) >= 0.021
    # more calls are made for the p99, as long as that takes less than so many seconds
    assert len(timed(Sleeper(options=Options(0.0, 1.0)), 1, 0.05, patience=2.0)) * SPELLS >= 400
    assert sum(timed(Sleeper(), 1, 0.05, patience=0.4)) > 0.4


def test_spells_of_all_settings_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine does for a while meets every setting alike."""
    asked: list[tuple[int, int]] = []
    models = [Sleeper(), Sleeper()]

    def spell(model: Model, batch: int, seconds: float, *, least: int = 2, **how: object) -> list[float]:
        asked.append((models.index(model), batch))
        return [0.2 if batch == 1 else 0.8] * least  # batch 4 gives no more, and is tried

    monkeypatch.setattr(stopwatch, "timed", spell)
    found = spells_by_batch(models)
    assert asked == [(0, 1), (0, 4), (1, 1), (1, 4)] * SPELLS
    assert found == [{1: [[0.2] * 2] + [[0.2]] * 5, 4: [[0.8] * 2] + [[0.8]] * 5}] * 2
    assert len(Timings.of(found[0], 1.0).calls[1]) >= 6  # as the interval of a median needs


def test_intervals_hold_where_the_machine_drifts() -> None:
    """The same model four times, in spells that are each 10 % faster or slower: calls alone are too sure."""
    random = np.random.default_rng(0)
    alone = together = 0
    for _ in range(100):
        found = []
        for _ in range(2):
            spells = [0.01 * (1 + random.normal() / 10 + random.normal(size=60) / 100) for _ in range(SPELLS)]
            found.append(Timings.of({1: [list(spell) for spell in spells]}, 0.0))
        first, second = (latency(each.calls[1])["latency_ms"] for each in found)
        alone += not first.overlaps(second)
        first, second = (speed_scores(each)["latency_ms"] for each in found)
        together += not first.overlaps(second)
    assert alone > 10
    assert together <= 5
    estimate = speed_scores(found[0])
    assert "t over the medians of 6 spells" in estimate["latency_ms"].note
    assert "t over the medians" in estimate["images_per_s"].note
    assert estimate["images_per_s"].low < estimate["images_per_s"].value < estimate["images_per_s"].high


def test_spells_that_agree_leave_the_interval_of_the_calls() -> None:
    spell = [i / 1000 for i in range(1, 101)]
    assert drift([spell] * SPELLS) == 0
    assert drift([spell]) == 0
    assert drift([[1.0], [1.2]]) == pytest.approx(12.706 * 0.1 / 1.1, rel=1e-4)
    steady = Timings.of({1: [spell] * SPELLS}, 0.0)
    assert speed_scores(steady)["latency_ms"] == latency(spell * SPELLS)["latency_ms"]


def test_percentiles_are_order_statistics() -> None:
    found = latency([i / 1000 for i in range(1, 101)])
    assert found["latency_ms"].value == pytest.approx(51)
    assert found["latency_p95_ms"].value == pytest.approx(96)
    assert found["latency_p99_ms"].value == pytest.approx(100)
    assert (found["latency_ms"].low, found["latency_ms"].high) == pytest.approx((40, 61), abs=1.5)


@pytest.mark.parametrize(("q", "needed"), [(0.5, 6), (0.95, 72), (0.99, 368)])
def test_an_interval_has_no_upper_end_where_calls_are_too_few_for_it(q: float, needed: int) -> None:
    enough = quantile([float(i) for i in range(needed)], q, "lower", "ms", "")
    assert enough.high == needed - 1
    assert "no upper end" not in enough.note
    few = quantile([float(i) for i in range(needed - 1)], q, "lower", "ms", "")
    assert few.high == math.inf
    assert f"no upper end below {needed} calls" in few.note
    one = quantile([3.0], q, "lower", "ms", "")
    assert (one.low, one.high) == (3.0 if q == 0.99 else 0.0, math.inf)


def test_intervals_of_percentiles_hold_the_truth() -> None:
    """Exponential calls, whose quantiles are known: at least 95 % of intervals hold them."""
    draws = torch.empty(400, 100, dtype=torch.float64).exponential_(
        generator=torch.Generator().manual_seed(0)
    )
    for q in (0.5, 0.95, 0.99):
        found = [quantile(sorted(row), q, "lower", "ms", "") for row in draws.tolist()]
        held = sum(e.low <= -math.log(1 - q) <= e.high for e in found) / len(found)
        assert held >= 0.93, (q, held)
