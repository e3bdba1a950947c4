"""Alarms: the statistics are the metrics', false positives come as often as stated, planted failures ring."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from diptych.alarms import Calibration, Watchman, calibrate
from diptych.alarms.calibration import Usual
from diptych.alarms.cells import cells_of
from diptych.alarms.draws import Pool
from diptych.alarms.statistics import BY_NAME, Reference
from diptych.alarms.verdict import ALARM, BEYOND, OK, Verdict
from diptych.data import open_data
from diptych.data.images import DataSet
from diptych.exam import Exam
from diptych.measuring.evaluation import measured
from diptych.measuring.judging import judge
from diptych.measuring.planted import blur, drop_modes
from diptych.measuring.quick import QuickExam
from diptych.method import Clock
from diptych.model import Condition, Model, Noise, from_uint8

TOTAL = 10_000


def mixture(seed: int, modes: int = 10, dim: int = 16) -> Callable[[int], Tensor]:
    """Draws of n from a known distribution: that many Gaussians."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(modes, dim, generator=generator)

    def draw(n: int, of: int = modes) -> Tensor:
        place = torch.randint(of, (n,), generator=generator)
        return centres[place] + torch.randn(n, dim, generator=generator)

    return draw


def line(images: int, exam: dict[str, float], n: int) -> dict[str, object]:
    return {"images": images, "exam": exam, "exam_n": n, "losses": {}}


def verdicts(
    known: Calibration, exams: list[dict[str, float]], first: int = 1000, every: int = 1000
) -> dict[str, Verdict]:
    """Of the last of these exams of one training."""
    history = [line(first + i * every, exam, known.n) for i, exam in enumerate(exams)]
    return Watchman(known).judge(history, Clock(first + (len(exams) - 1) * every, TOTAL, 0))


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return open_data("digits")


@pytest.fixture(scope="module")
def examine(digits: DataSet) -> QuickExam:
    """An exam of 64 digits that knows what is usual."""
    return QuickExam(digits, 64).settled(Replay(digits, 1), 0.0, 10, {})


class Replay(Model):
    """Draws from given images as if it had made them."""

    def __init__(self, data: DataSet, k: int = 0, images: Tensor | None = None) -> None:
        super().__init__()
        self.image_shape, self.options = data.train.shape, None
        chosen = data.train.tensor(slice(0, k or None)) if images is None else images
        self.register_buffer("images", from_uint8(chosen))
        self.seen = nn.Parameter(torch.zeros(1))

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        place = (noise.normal(1)[:, 0].abs() * 1e6).long() % len(self.images)
        return self.images[place]


def test_looking_up_gives_what_computing_gives() -> None:
    draw = mixture(0)
    train = draw(600)
    reference = Reference(draw(64), train, cells_of(train, None, 64))
    pool = Pool(reference, 64)
    for seed in range(3):
        rows = torch.randperm(pool.size, generator=torch.Generator().manual_seed(seed))[:64]
        found, exact = pool.of(rows), reference.of(pool.points[rows])
        assert found == pytest.approx({name: exact[name] for name in found}, abs=1e-6)


def test_statistics_are_those_of_the_metrics(digits: DataSet) -> None:
    images = digits.train.subset(slice(100, 228))
    exam = Exam(None, digits, n=128, fakes=images)
    real, train, fake = (exam.features(which) for which in ("real", "train", "fake"))
    found = Reference(real, train, cells_of(train, exam.labels("train"), 128)).of(fake)
    names = ("density_coverage", "precision_recall", "vendi", "copying", "fid")
    scores = {name: score.value for name, score in measured(exam, names).items()}
    scores["authentic"] = scores["authpct"] / 100
    shared = found.keys() & scores.keys()
    assert shared == found.keys() - {"histogram", "histogram_error"}
    assert {name: found[name] for name in shared} == pytest.approx({n: scores[n] for n in shared}, rel=1e-5)
    assert found["near_training"] == 1.0  # they are training images


def test_histograms_agree_or_not() -> None:
    train = torch.cat([torch.zeros(50, 2), torch.ones(50, 2)]) + 0.01 * torch.randn(100, 2)
    labels = torch.arange(100) // 50
    reference = Reference(train[::2] + 0.1, train, cells_of(train, labels, 50))
    assert reference.histogram(train)["histogram"] == pytest.approx(1.0)
    assert reference.histogram(train[:50])["histogram"] == pytest.approx(
        1 - 0.311278, abs=1e-5
    )  # JSD of (1/2, 1/2), (1, 0)


def test_one_healthy_exam_in_twenty_is_beyond_chance() -> None:
    hits: dict[str, int] = {}
    loud, looks = 0, 0
    for seed in range(8):
        draw = mixture(seed)
        train = draw(400)
        reference = Reference(draw(64), train, cells_of(train, None, 64), draw(512))
        known = calibrate(reference, draws=100)
        exams = [reference.of(draw(64)) for _ in range(27)]
        for i in range(4, 27):
            found = verdicts(known, exams[i - 4 : i + 1])
            for name in known.limits:
                hits[name] = hits.get(name, 0) + (found[name].state != OK)
                loud += found[name].state == ALARM
                assert found[name].false_positives == 0.05
            looks += 1
    assert looks == 184
    # 9 are expected of each; eight calibrations have errors of their own
    assert all(count <= 22 for count in hits.values()), hits
    assert 10 <= sum(hits.values()) <= 46, hits
    assert loud <= 0.03 * 3 * looks


def test_more_images_mean_a_smaller_spread_and_json_keeps_all() -> None:
    draw = mixture(7)
    train = draw(1500)
    small, large = (
        calibrate(Reference(draw(n), train, cells_of(train, None, 64)), draws=60) for n in (64, 256)
    )
    for name in ("coverage", "precision", "vendi_ratio"):
        assert large.usual[name].spread < small.usual[name].spread
    assert Calibration.from_json(json.loads(json.dumps(small.to_json()))) == small


def planted(name: str, data: DataSet) -> Tensor:
    """128 images of a model that fails in a known way; they come from the held-out ones."""
    others = data.held_out.tensor(slice(64, 320))
    labels = data.held_out.label(slice(64, 320))
    assert labels is not None
    return {
        "collapse": drop_modes(others, labels, 0.5, 0),
        "frozen": others[:1].repeat(128, 1, 1, 1),
        "quality": blur(others, 0.6, 0),
        "copying": data.train.tensor(slice(0, 12)),
    }[name]


@pytest.mark.parametrize("failure", ["collapse", "frozen", "quality", "copying"])
def test_planted_failures_ring(failure: str, digits: DataSet, examine: QuickExam) -> None:
    healthy = Replay(digits, images=digits.held_out.tensor(slice(64, 360)))
    before = [line(1000 * i, examine(healthy), examine.n) for i in (1, 2, 3)]
    assert all(v["state"] != ALARM for v in examine.judge(before, Clock(3000, TOTAL, 0)).values())
    failed = line(4000, examine(Replay(digits, images=planted(failure, digits))), examine.n)
    found = examine.judge([*before, failed], Clock(4000, TOTAL, 0))
    meant = "collapse" if failure == "frozen" else failure
    assert found[meant]["state"] == ALARM
    assert found[meant]["value"] > found[meant]["limit"] > 0
    assert (examine.copies(found) is None) == (found["copying"]["state"] == OK)


def test_the_sheet_shows_copies_beside_their_originals(digits: DataSet, examine: QuickExam) -> None:
    copied = digits.train.tensor(slice(0, 12))
    scores = examine(Replay(digits, images=copied))
    found = examine.judge([line(9000, scores, examine.n)], Clock(9000, TOTAL, 0))
    assert found["copying"]["state"] == ALARM
    sheet = examine.copies(found)
    assert sheet is not None
    assert sheet.shape == (64, *digits.train.shape)
    assert torch.equal(sheet[::2], sheet[1::2])  # what is replayed is found


def test_real_images_that_were_never_trained_on_are_no_copies(digits: DataSet, examine: QuickExam) -> None:
    scores = examine(Replay(digits, images=digits.held_out.tensor(slice(64, 360))))
    found = examine.judge([line(9000, scores, examine.n)], Clock(9000, TOTAL, 0))
    assert found["copying"]["state"] == OK
    assert examine.copies(found) is None


def usual(known: Calibration) -> dict[str, float]:
    return {name: each.mean for name, each in known.usual.items()}


@pytest.fixture(scope="module")
def known(examine: QuickExam) -> Calibration:
    return Calibration.from_json(examine.calibration)


def test_a_young_model_that_improves_does_not_ring(known: Calibration) -> None:
    good = usual(known)
    young = [{**good, "coverage": 0.04 * i, "recall": 0.03 * i} for i in range(1, 8)]
    for i in range(1, 8):
        assert verdicts(known, young[:i])["collapse"].state == BEYOND


def test_a_model_that_stays_below_half_rings_after_half_of_training(known: Calibration) -> None:
    bad = {**usual(known), "coverage": 0.1}
    states = [verdicts(known, [bad] * i)["collapse"].state for i in range(1, 11)]
    assert states == [BEYOND] * 4 + [ALARM] * 6


def test_an_imperfect_model_that_stays_as_it_is_does_not_ring(known: Calibration) -> None:
    level = 0.7 * known.usual["coverage"].mean
    told = [verdicts(known, [{**usual(known), "coverage": level}] * i)["collapse"] for i in range(1, 11)]
    assert {verdict.state for verdict in told} == {BEYOND}
    fallen = [{**usual(known), "coverage": level}] * 4 + [{**usual(known), "coverage": level - 0.4}]
    last = verdicts(known, fallen)["collapse"]
    assert last.state == ALARM
    assert "it was 0.6" in last.sentence


def test_judging_is_a_function_of_the_log(known: Calibration) -> None:
    bad = {**usual(known), "fid": 30 * known.usual["fid"].mean}
    history = [line(1000, usual(known), known.n), line(2000, bad, known.n)]
    once = Watchman(known).judge(history, Clock(2000, TOTAL, 0))
    again = Watchman(Calibration.from_json(json.loads(json.dumps(known.to_json())))).judge(
        json.loads(json.dumps(history)), Clock(2000, TOTAL, 0)
    )
    assert once == again
    assert once["quality"].state == ALARM
    assert Verdict.from_json(json.loads(json.dumps(once["quality"].to_json()))) == once["quality"]


def test_an_exam_of_another_size_is_not_judged(known: Calibration) -> None:
    assert "collapse" not in verdicts(known, [{}])
    other = [line(1000, usual(known), known.n + 1)]
    assert set(Watchman(known).judge(other, Clock(1000, TOTAL, 0))) == {"divergence"}


def test_shares_spread_as_their_value_says(known: Calibration) -> None:
    mean = known.usual["precision"].mean
    expected = (0.25 / (mean * (1 - mean))) ** 0.5
    assert known.looser("precision", {"precision": 0.5}) == pytest.approx(max(1.0, expected))
    assert known.looser("fid", {"fid": 4 * known.usual["fid"].mean}) == pytest.approx(2.0)
    assert known.looser("vendi_ratio", {"vendi_ratio": 0.1}) == 1.0


def test_histograms_spread_as_their_error_says(known: Calibration) -> None:
    generator, n, classes = torch.Generator().manual_seed(0), 64, 10
    reference = Reference.__new__(Reference)
    reference.counts = torch.full((classes,), n / classes)  # as many of each
    reference.cells = Mock(counts=lambda fake: fake.bincount(minlength=classes))

    def exams(weights: Tensor) -> dict[str, Tensor]:
        draws = torch.multinomial(weights.expand(2000, -1), n, replacement=True, generator=generator)
        found = [reference.histogram(each) for each in draws]
        return {name: torch.tensor([each[name] for each in found]) for name in found[0]}

    real = exams(torch.ones(classes))
    usual = {name: Usual(float(of.mean()), float(of.std()), 0.0) for name, of in real.items()}
    calibration = replace(known, n=n, usual=usual)
    skewed = [(1 - skew) ** torch.arange(classes).float() for skew in (0.0, 0.2, 0.4, 0.6)]
    seven = (torch.arange(classes) < 7).float()  # three are never drawn: the rest is as it was
    for weights in (*skewed, seven):
        fake = exams(weights)
        ratio = max(1.0, float(fake["histogram"].std() / real["histogram"].std()))
        told = [
            calibration.looser("histogram", {name: float(of[i]) for name, of in fake.items()})
            for i in range(200)
        ]
        assert sum(told) / len(told) == pytest.approx(ratio, rel=0.3), weights


def test_a_model_is_judged_beside_a_data_set(digits: DataSet) -> None:
    found = judge(Replay(digits, 12), digits, n=64)
    assert found.calibrated
    assert found.verdicts["copying"]["state"] == ALARM
    assert found.copies is not None
    tree = found.to_json()
    assert {"n", "calibrated", "scores", "alarms", "not_judged", "provenance"} <= tree.keys()
    assert set(tree["not_judged"]) == {"overfit", "divergence", "overtraining"}  # there is no log
    assert all(name in found.scores for name in BY_NAME)
