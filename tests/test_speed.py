"""Speed: against a model whose time and memory are known, in a process of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from diptych.errors import DiptychError, NotMeasurable
from diptych.metrics.speed import BATCHES, latency, measure_speed, quantile, throughput, timed
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
    slow, slower = measure_speed(Sleeper(megabytes=60), [{}, {"call_ms": 60.0}])
    for scores, least in ((slow, 21), (slower, 61)):
        assert set(scores) == {"latency_ms", "latency_p95_ms", "images_per_s", "memory_mib"}
        # others may be using the machine: only what is fastest is sure to be near what is known
        assert least <= scores["latency_ms"].low < least + 40
        assert scores["latency_ms"].low <= scores["latency_ms"].value <= scores["latency_ms"].high
        assert scores["latency_ms"].value <= scores["latency_p95_ms"].value
        assert 60 <= scores["memory_mib"].value < 110
    # one at a time it makes 1 image in 21 ms; the best batch is the largest, 256 images in 20 + 256 ms
    assert 1000 / 21 < slow["images_per_s"].value <= 1000 * 256 / 276
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
    estimate = throughput(model, timed(model, 1, 0.1))
    assert 50 < estimate.value <= 200
    assert BATCHES[0] == 4
    assert estimate.note.startswith("median at batch ")
    assert "256" not in estimate.note


def test_timed_spends_about_what_it_is_given() -> None:
    start = time.perf_counter()
    times = timed(Sleeper(), 1, 0.3)
    assert 0.3 < time.perf_counter() - start < 5
    assert len(times) >= 3
    assert min(times) >= 0.021


def test_percentiles_are_order_statistics() -> None:
    found = latency([i / 1000 for i in range(1, 101)])
    assert found["latency_ms"].value == pytest.approx(51)
    assert found["latency_p95_ms"].value == pytest.approx(96)
    assert (found["latency_ms"].low, found["latency_ms"].high) == pytest.approx((40, 61), abs=1.5)
    assert quantile([3.0], 0.95, "lower", "ms", "").high == 3.0
