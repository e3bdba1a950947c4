"""Energy and money: against counters and prices whose answer is known."""

from __future__ import annotations

import math
import os
import sys
import time
import types
from pathlib import Path

import pytest
import torch

from diptych.errors import NotMeasurable, WrongUse
from diptych.metrics import energy as energy_file
from diptych.metrics import price as price_file
from diptych.metrics.energy import Powercap, PowerDraw, TotalEnergy, joules_per_image, meter_of
from diptych.metrics.price import check_price, price_of_1000
from diptych.metrics.speed import Timings
from diptych.scores import Estimate

RANGE = 262_143_328_850  # microjoules at which a counter starts again


def zone(root: Path, name: str, what: str, microjoules: int) -> Path:
    """A zone as the kernel shows it."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    files = (("name", what), ("energy_uj", microjoules), ("max_energy_range_uj", RANGE))
    for file, content in files:
        (folder / file).write_text(f"{content}\n")
    return folder / "energy_uj"


def test_powercap_counts_packages_and_memory_and_wraps(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 2_000_000)
    cores = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 5)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 100)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 0)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0)  # the same package, seen another way
    meter = Powercap(tmp_path)
    assert meter.joules() == 0
    assert meter.what == "packages + dram"
    for file, more in ((cores, 7_000_000), (whole, 50_000_000), (memory, 500_005), (second, 4_000_100)):
        file.write_text(str(more))
    first.write_text("1000000")  # past its end: 2 J before it, 1 J after
    assert meter.joules() == pytest.approx(3 + 0.5 + 4)
    first.write_text("1500000")
    assert meter.joules() == pytest.approx(8)
    second.write_text("100")  # wraps on a later reading too
    assert meter.joules() == pytest.approx(8 + RANGE / 1e6 - 4)


def test_no_counter_or_one_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotMeasurable, match="there is no package under"):
        Powercap(tmp_path / "none")
    zone(tmp_path, "intel-rapl:0", "psys", 0)
    with pytest.raises(NotMeasurable, match="does not count energy"):
        Powercap(tmp_path)
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0)

    def refuse(path: Path, *rest: object, **named: object) -> str:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return path.read_bytes().decode()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        with pytest.raises(NotMeasurable, match="energy_uj may not be read") as caught:
            Powercap(tmp_path)
    assert "sudo chmod a+r" in caught.value.hint
    file.write_text("what")
    with pytest.raises(NotMeasurable, match="energy_uj cannot be read"):
        Powercap(tmp_path)
    with pytest.raises(NotMeasurable, match="nothing counts the energy of mps"):
        meter_of(torch.device("mps"))


class Steady:
    """So many joules an image, and so many watts whether or not anything happens."""

    what = "bench"

    def __init__(self, image: float, watts: float = 0.0) -> None:
        self.image, self.watts, self.images, self.start = image, watts, 0, time.perf_counter()

    def joules(self) -> float:
        return self.image * self.images + self.watts * (time.perf_counter() - self.start)

    def sample(self) -> int:
        time.sleep(0.004)
        self.images += 4
        return 4

    def close(self) -> None:
        pass


def test_joules_an_image_are_what_was_drawn() -> None:
    meter = Steady(3.0)
    found = joules_per_image(meter, meter.sample, "batch 4", seconds=0.02, settle=0.02)["energy_j"]
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))
    assert (found.n, found.unit, found.better) == (energy_file.SPELLS, "J", "lower")
    meter = Steady(3.0, watts=1000)  # a call of 4 images takes 4 ms or more: 1 J an image, or more
    found = joules_per_image(meter, meter.sample, "batch 4", seconds=0.02, settle=0.05)["energy_j"]
    assert 4 <= found.low <= found.value <= found.high
    assert "bench at batch 4, nothing subtracted; idle 1" in found.note
    stuck = Steady(0.0)
    with pytest.raises(NotMeasurable, match="the energy counter of bench stands still"):
        joules_per_image(stuck, stuck.sample, "batch 4", seconds=0.01, settle=0.01)


def program(tmp_path: Path, body: str) -> str:
    """Something to be run in nvidia-smi's place."""
    file = tmp_path / "nvidia-smi"
    file.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    file.chmod(0o755)
    return str(file)


def test_the_power_that_nvidia_smi_tells_is_summed(tmp_path: Path) -> None:
    steady = "while True:\n    print('80.00', flush=True)\n    time.sleep(0.02)"
    meter = PowerDraw("GPU-1", program(tmp_path, steady))
    before, start = meter.joules(), time.perf_counter()
    time.sleep(0.3)
    spent, took = meter.joules() - before, time.perf_counter() - start
    meter.close()
    assert spent == pytest.approx(80 * took, rel=0.02)
    ramp = "for watts in (0, 100, 100):\n    print(watts, flush=True)\n    time.sleep(0.1)\ntime.sleep(9)"
    meter = PowerDraw("GPU-1", program(tmp_path, ramp))
    meter._move(meter.last[0] + 2, 50.0)  # a trapezium: two seconds from what was read last to 50 W
    assert meter.total >= 50
    meter.close()


def test_an_nvidia_gpu_that_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(NotMeasurable, match=r"does not tell what this GPU draws: \[N/A\]"):
        PowerDraw("GPU-1", program(tmp_path, "print('[N/A]', flush=True)\ntime.sleep(9)"))
    with pytest.raises(NotMeasurable, match="draws: silence"):
        PowerDraw("GPU-1", program(tmp_path, "time.sleep(9)"), patience=0.2)
    with pytest.raises(NotMeasurable, match="there is no nvidia-none"):
        PowerDraw("GPU-1", "nvidia-none")
    echo = program(tmp_path, "print(' '.join(sys.argv[1:]), flush=True)")
    with pytest.raises(NotMeasurable, match=r"--id=GPU-7 --query-gpu=power\.draw --format=csv,noheader"):
        PowerDraw("GPU-7", echo)


def test_the_counter_of_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter((5_000, 5_000, 7_500))  # millijoules
    calls: list[str] = []
    library = types.SimpleNamespace(
        nvmlInit=lambda: calls.append("init"),
        nvmlDeviceGetHandleByUUID=lambda uuid: calls.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda gpu: next(readings),
        nvmlShutdown=lambda: calls.append("shutdown"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    meter = TotalEnergy("GPU-1")
    assert (meter.joules(), meter.joules()) == (0.0, 2.5)
    meter.close()
    assert calls == ["init", "GPU-1", "shutdown"]


class FakeExam:
    """What these metrics look at."""

    def __init__(self, price: float | None = None, model: bool = True) -> None:
        self.price, self.model, self.measured = price, model, 0

    def asked(self, what: str) -> Still:
        if not self.model:
            raise NotMeasurable(f"no model: {what}")
        return Still()

    def shared(self, key: str, compute: object) -> Timings:
        assert key == "speed"
        self.measured += 1
        return Timings({1: [0.1] * 6, 4: [0.2] * 8}, 1.0)


class Still(torch.nn.Module):
    """Makes images without doing anything but to tell the meter."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(1))

    def sample(self, seeds: range, batch: int) -> None:
        time.sleep(0.002)
        Still.meter.images += len(seeds)

    meter = Steady(2.0)
    device = torch.device("cpu")


def test_energy_is_measured_at_the_best_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    Still.meter = Steady(2.0)
    monkeypatch.setattr(energy_file, "meter_of", lambda device: Still.meter)
    monkeypatch.setattr(energy_file.joules_per_image, "__defaults__", (0.01, 0.01))
    found = energy_file.energy(FakeExam())["energy_j"]  # type: ignore[arg-type]
    assert found.value == pytest.approx(2)
    assert "batch 4" in found.note
    assert energy_file.energy.asked_only


@pytest.mark.skipif(os.path.exists(energy_file.POWERCAP), reason="this machine may count energy")
def test_without_a_counter_nothing_else_is_measured() -> None:
    exam = FakeExam()
    with pytest.raises(NotMeasurable, match="does not count energy"):
        energy_file.energy(exam)  # type: ignore[arg-type]
    assert exam.measured == 0


def test_the_price_of_a_thousand_images() -> None:
    rate = Estimate(10.0, 8.0, 16.0, 9, "higher", "images/s", "median at batch 64")
    found = price_of_1000(rate, 3.6)["price_per_1000"]  # 0.001 a second
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.0625, 0.125))
    assert (found.better, found.n) == ("lower", 9)
    assert found.note == "at 3.6 an hour, in its currency; median at batch 64"
    assert price_of_1000(Estimate(1.0, 0.0, math.inf, 3), 1.0)["price_per_1000"].high == math.inf


def test_a_price_is_needed_and_speed_is_not_measured_twice() -> None:
    exam = FakeExam()
    with pytest.raises(NotMeasurable, match="price of this machine is not known") as caught:
        price_file.price(exam)  # type: ignore[arg-type]
    assert "--price 2.5" in caught.value.hint
    assert exam.measured == 0
    found = price_file.price(FakeExam(price=7.2))["price_per_1000"]  # type: ignore[arg-type]
    assert found.value == pytest.approx(1000 / 20 * 7.2 / 3600)
    for odd in (-1.0, math.inf, math.nan):
        with pytest.raises(WrongUse, match="the price of an hour"):
            check_price(odd)
    with pytest.raises(NotMeasurable, match="no model: a price"):
        price_file.price(FakeExam(price=1.0, model=False))  # type: ignore[arg-type]
