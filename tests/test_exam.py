"""The exam, the report and the floor: what is looked at, computed once, refused, and said."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych import exam as ruler
from diptych.data.images import DataCard, DataSet, Images
from diptych.errors import NotMeasurable, WrongUse
from diptych.exam import Exam, nearest_training_images, shuffle
from diptych.features import store
from diptych.features.extractor import Extractor, extractor
from diptych.measuring.evaluation import evaluate, floor_of, measured, metrics_named
from diptych.measuring.quick import QuickExam
from diptych.metric import metric
from diptych.metrics.cost import cost, flops_per_image
from diptych.model import Condition, Model, Noise, from_uint8
from diptych.scores import Estimate, Report
from diptych.system.machine import machine

QUALITY = ("fid", "kid", "precision_recall", "density_coverage", "cost")


@dataclass(frozen=True)
class Options:
    """Only so that there is one to report."""

    steps: int = 3


class Replayer(Model):
    """Shows training images of the class asked for: as good as real ones, for the ruler."""

    def __init__(self, images: Images, noise: float = 0.0) -> None:
        super().__init__()
        assert images.labels is not None
        self.image_shape, self.classes, self.options, self.noise = (
            images.shape,
            images.classes,
            Options(),
            noise,
        )
        self.register_buffer("label", torch.from_numpy(images.labels))
        self.image = nn.Parameter(from_uint8(images.tensor()).contiguous())

    label: Tensor

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        choice = (noise.normal(1)[:, 0] * 1e4).long().abs()
        assert condition.label is not None
        rows = [(self.label == label).nonzero()[:, 0] for label in condition.label]
        picked = torch.stack([row[i % len(row)] for row, i in zip(rows, choice, strict=True)])
        return self.image[picked] + self.noise * noise.normal(*self.image_shape)


class PixelGaussian(Model):
    """Independent pixels with the right mean and variance; no labels."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        pixels = from_uint8(images.tensor())
        self.image_shape, self.options = images.shape, Options()
        self.mean, self.std = nn.Parameter(pixels.mean(0)), nn.Parameter(pixels.std(0))

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        return self.mean + self.std * noise.normal(*self.image_shape)


def digits_data() -> DataSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    pixels = np.rint(bunch.images[order, :, :, None] * (255 / 16)).astype(np.uint8)
    everything = Images(pixels, bunch.target[order].astype(np.int64), tuple("0123456789"))
    train, held_out = everything.subset(slice(0, 1437)), everything.subset(slice(1437, None))
    card = DataCard("digits", "digits", 1437, 360, (1, 8, 8), "as it is", train.sha256, held_out.sha256)
    return DataSet(train, held_out, card)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return digits_data()


@pytest.fixture(scope="module")
def report(digits: DataSet) -> Report:
    return evaluate(Replayer(digits.train), digits, name="replayer", recipe="none", metrics=QUALITY)


def test_the_exam_looks_at_each_held_out_image_once(digits: DataSet) -> None:
    exam = Exam(Replayer(digits.train), digits, n=5000)
    assert exam.n == 360
    assert sorted(exam.chosen) == list(range(360))
    torch.testing.assert_close(exam.images("real"), digits.held_out.tensor(exam.chosen))
    smaller = Exam(None, digits, n=50)
    np.testing.assert_array_equal(smaller.chosen, exam.chosen[:50])


def test_fakes_have_labels_of_training_images_and_the_seeds_asked_for(digits: DataSet) -> None:
    model = Replayer(digits.train)
    exam = Exam(model, digits, n=40, seed=7)
    assert digits.train.labels is not None
    label = torch.from_numpy(digits.train.labels[shuffle(len(digits.train))[:40]])
    assert torch.equal(exam.labels("fake"), label)  # type: ignore[arg-type]
    torch.testing.assert_close(exam.images("fake"), model.sample(range(7, 47), Condition(label=label)))


def test_labels_that_are_asked_for_are_drawn_apart_from_those_of_the_reals(digits: DataSet) -> None:
    """With the very labels of the held-out images a model would be nearer to them than real images are."""
    for data in (digits, replace(digits, train=digits.train.subset(slice(0, 30)))):  # of few some come twice
        exam = Exam(Replayer(digits.train), data, n=300)
        real, asked = exam.labels("real"), exam.labels("fake")
        assert real is not None
        assert asked is not None
        assert not torch.equal(real.bincount(minlength=10), asked.bincount(minlength=10))
        assert data.train.labels is not None
        assert set(asked.tolist()) <= set(data.train.labels.tolist())
    whole = replace(digits, train=digits.train.subset(slice(0, 0)))
    alone = Exam(Replayer(digits.train), whole, n=300)
    first, second = alone.labels("real"), alone.labels("fake")
    assert first is not None
    assert second is not None
    assert not torch.equal(first.sort().values, second.sort().values)


def test_each_part_is_computed_once(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        calls.append(kwargs["what"])
        return store.seen(*args, **kwargs)

    monkeypatch.setattr(ruler, "seen", counted)
    exam = Exam(PixelGaussian(digits.train), digits, n=33)
    for _ in range(3):
        assert exam.features("fake").shape == exam.features("real").shape == (33, exam.extractor.dim)
    # another model of the same data set shares the real side
    Exam(PixelGaussian(digits.train), digits, n=33).features("real")
    assert sorted(calls) == ["fake", "real"]


def test_a_perfect_model_scores_the_floor_and_a_poor_one_does_not(digits: DataSet, report: Report) -> None:
    poor = evaluate(
        PixelGaussian(digits.train), digits, name="poor", recipe="none", metrics=QUALITY, floor=report.floor
    )
    for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
        score, floor = report.scores[name], report.floor[name]
        assert score.overlaps(floor), name
        assert score.low <= score.value <= score.high, name
        assert score.n == 360
        if name != "recall":  # noise lies everywhere, so it covers much
            assert floor.beats(poor.scores[name]), name
    assert poor.floor == report.floor


def test_the_report_says_what_it_was_made_with(digits: DataSet, report: Report) -> None:
    card = report.ruler
    assert (card.extractor, card.data, card.n, card.seed) == ("diptych-1", "digits", 360, 0)
    assert card.extractor_sha256 == extractor().sha256
    assert card.held_out_sha256 == digits.held_out.sha256
    assert report.options == {"steps": 3}
    assert set(report.floor) == {"fid", "kid", "precision", "recall", "density", "coverage"}
    assert report.machine["threads"] == torch.get_num_threads()
    assert Report.from_json(report.to_json()) == report


def test_floor_of_equals_the_floor_in_the_report(digits: DataSet, report: Report) -> None:
    assert floor_of(digits, metrics=QUALITY) == report.floor


def test_no_floor_of_fewer_images(caplog: pytest.LogCaptureFixture) -> None:
    """FID of 36 training images beside that of 324 would tell of n alone."""
    few = made_up((1, 8, 8), n=36, held_out=324)
    with caplog.at_level(logging.WARNING, "diptych"):
        assert floor_of(few, metrics=QUALITY) == {}
    assert "36 training images tell none" in caplog.text
    assert floor_of(few, n=36, metrics=["kid"])


def test_given_images_are_measured_without_a_model(digits: DataSet) -> None:
    exam = Exam(None, digits, n=100, fakes=digits.held_out.subset(Exam(None, digits, n=100).chosen))
    scores = measured(exam, QUALITY)
    assert scores["fid"].value < 1e-8
    assert scores["precision"].value == scores["coverage"].value == 1
    assert "parameters" not in scores


def test_too_few_images_is_an_error_that_names_how_many(
    digits: DataSet, caplog: pytest.LogCaptureFixture
) -> None:
    model = Replayer(digits.train)
    for name, needed in (("fid", 16), ("kid", 4), ("precision_recall", 12), ("density_coverage", 12)):
        with pytest.raises(NotMeasurable, match=f"needs {needed} real.* there are 3"):
            evaluate(model, digits, name="few", recipe="none", n=3, metrics=[name])
    with caplog.at_level(logging.WARNING, "diptych"):
        left = evaluate(model, digits, name="few", recipe="none", n=3, floor=False)
    assert set(left.scores) == {"parameters", "flops"}
    assert "fid: FID needs 16" in caplog.text


def test_a_score_may_be_asked_for_by_its_name(report: Report) -> None:
    assert [metric.name for metric in metrics_named(["recall", "fid", "precision"])] == [
        "precision_recall",
        "fid",
    ]
    given = {metric.name for score in report.scores for metric in metrics_named([score])}
    assert given == set(QUALITY)


def test_wrong_uses(digits: DataSet) -> None:
    model = Replayer(digits.train)
    with pytest.raises(WrongUse, match="did you mean fid"):
        evaluate(model, digits, name="", recipe="", metrics=["fit"])
    with pytest.raises(WrongUse, match="did you mean recall"):
        metrics_named(["recal"])
    with pytest.raises(WrongUse, match="n is 0"):
        Exam(model, digits, n=0)
    model.image_shape = (1, 16, 16)
    with pytest.raises(WrongUse, match="16x16 with 1 channel but the held-out images are 8x8"):
        Exam(model, digits)
    with pytest.raises(NotMeasurable, match="no model"):
        cost(Exam(None, digits))


def test_features_that_are_not_finite_are_named(digits: DataSet) -> None:
    class Broken(Extractor):
        name, dim, sha256, resize, views = "broken", 2, "", "", {"pooled": 2}

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"pooled": torch.tensor([[0.0, 1.0], [torch.inf, 1.0]])[(image[:, 0, 0, 0] > 9).long()]}

    images = torch.zeros(70, 1, 8, 8, dtype=torch.uint8)
    images[66:] = 10
    with pytest.raises(NotMeasurable, match="not finite for 4 of 70 fake images") as caught:
        store.seen(Broken(), lambda rows: images[rows], 70, "", what="fake", keep=False)
    assert "number 66" in caught.value.hint


def test_quick_exam_is_the_full_one_in_small(digits: DataSet) -> None:
    quick = QuickExam(digits, 128)
    good, bad = quick(Replayer(digits.train)), quick(PixelGaussian(digits.train))
    assert set(good) == {"fid", "fid_error", "kid", "density", "coverage"}
    assert good["fid"] < bad["fid"]
    full = evaluate(Replayer(digits.train), digits, name="", recipe="", n=128, metrics=["fid"], floor=False)
    assert good["fid"] == full.scores["fid"].value


def test_nearest_training_images_are_found(digits: DataSet) -> None:
    wanted = np.arange(0, 1437, 47)
    found = nearest_training_images(digits.train.tensor(wanted), digits, 4)
    assert found.shape == (31, 4)
    np.testing.assert_array_equal(found[:, 0], wanted)
    assert digits.train.labels is not None
    same = digits.train.labels[found] == digits.train.labels[wanted][:, None]
    assert same.mean() > 0.9


def test_cost_of_a_network_counted_by_hand(digits: DataSet) -> None:
    class Small(Model):
        def __init__(self) -> None:
            super().__init__()
            self.image_shape, self.options = (1, 8, 8), None
            self.linear, self.conv = nn.Linear(10, 128), nn.Conv2d(2, 1, 3, padding=1)

        def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
            out: Tensor = self.conv(self.linear(noise.normal(10)).view(-1, 2, 8, 8))
            return out

    assert flops_per_image(Small()) == 2 * 10 * 128 + 2 * 64 * (2 * 9)
    scores = cost(Exam(Small(), digits))
    assert scores["parameters"].value == 10 * 128 + 128 + 18 + 1


def test_a_metric_is_found_by_its_file() -> None:
    assert {"fid", "kid", "precision_recall", "density_coverage", "speed", "cost"} <= set(catalog.metrics())


def test_a_metric_gives_what_it_declares(digits: DataSet) -> None:
    def answer(exam: Exam) -> dict[str, Estimate]:
        """The answer."""
        return {"answer": Estimate.exact(42)}

    exam = Exam(Replayer(digits.train), digits, n=20)
    side = Estimate.exact(42).better
    good = metric({"answer": side})(answer)
    assert (good.name, good.doc, good(exam)["answer"].value) == ("answer", "The answer.", 42)
    for wrong in ({"answers": side}, {"answer": "higher" if side == "lower" else "lower"}):
        with pytest.raises(TypeError, match="does not say that answer is"):
            metric(wrong)(answer)(exam)


def test_machine_card_names_no_host_and_no_path() -> None:
    card = machine("cpu")
    assert card["device"] == "cpu"
    assert card["cores"] >= 1
    assert card["memory_gib"] > 0
    import platform

    assert platform.node() not in str(card.values())
    assert "/" not in str([value for key, value in card.items() if key != "cpu"])
