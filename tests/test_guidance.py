"""Guidance against closed forms: mixtures of Gaussians, whose scores and classifiers are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diptych.autoguidance import autoguided
from diptych.diffusion.denoiser import Denoiser, each, one_level
from diptych.diffusion.guidance import (
    AutoGuided,
    ClassifierGuided,
    Composed,
    Guided,
    Strength,
    Thresholded,
    WeakGuide,
)
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.schedules import VE
from diptych.errors import NotMeasurable, RunError, WrongUse
from diptych.loop import train
from diptych.model import Condition
from diptych.runs import Run, load_model, save_model
from diptych.training import Settings

MEANS, DEVIATION = torch.tensor([-1.0, 0.5, 2.0]), 0.3
SHAPE = (1, 2, 2)


class Mixture(Denoiser):
    """The exact denoiser of independent pixels of N(MEANS[label], DEVIATION^2); label 3: of all alike."""

    def __init__(self, deviation: float = DEVIATION, classes: int = 3) -> None:
        super().__init__()
        self.image_shape, self.classes, self.schedule = SHAPE, classes, VE()
        self.deviation = deviation
        self.calls = 0

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.calls += 1
        s2 = each(sigma).square()
        v = self.deviation**2
        each_class = [(v * x + s2 * mean) / (v + s2) for mean in MEANS]
        weights = [-(x - mean).square().sum((1, 2, 3)) / 2 / (v + sigma.square()) for mean in MEANS]
        share = torch.stack(weights).softmax(0)
        mixed = sum(each(w) * d for w, d in zip(share, each_class, strict=True))
        label = condition.label
        if label is None:
            return mixed  # type: ignore[return-value]
        stacked = torch.stack([*each_class, mixed])  # type: ignore[list-item]
        return stacked[label, torch.arange(len(x))]


class Exact(nn.Module):
    """p(label | noisy image) of the mixture."""

    classes = 3

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = DEVIATION**2 + sigma.square()
        return torch.stack([-(x - m).square().sum((1, 2, 3)) / 2 / variance for m in MEANS], 1)


X, SIGMA, LABEL = torch.randn(3, *SHAPE), torch.tensor([0.4, 1.0, 3.0]), torch.tensor([0, 1, 2])
ASKED = Condition(label=LABEL)


@pytest.fixture
def mixture() -> Mixture:
    return Mixture()


def test_classifier_guidance_of_an_unconditional_model_is_the_conditional_one(mixture: Mixture) -> None:
    """grad log p(x | y) = grad log p(x) + grad log p(y | x), to the last digit."""
    unconditional = Mixture(classes=0)
    guided = ClassifierGuided(unconditional, Exact(), Strength(1.0))
    assert guided.classes == 3
    with torch.inference_mode():  # as sampling calls it
        found = guided(X, SIGMA, ASKED)
    torch.testing.assert_close(found, mixture(X, SIGMA, ASKED), rtol=1e-4, atol=1e-5)
    off = ClassifierGuided(unconditional, Exact(), Strength(2.0, low=100.0))(X, SIGMA, ASKED)
    torch.testing.assert_close(off, unconditional(X, SIGMA, Condition()))  # outside the interval
    none = Condition(label=torch.full((3,), 3))
    torch.testing.assert_close(guided(X, SIGMA, none), unconditional(X, SIGMA, Condition()))
    twice = ClassifierGuided(unconditional, Exact(), Strength(2.0))(X, SIGMA, ASKED)
    clean = unconditional(X, SIGMA, Condition())
    torch.testing.assert_close(twice, clean + 2 * (found - clean), rtol=1e-4, atol=1e-5)


def test_classifier_free_guidance(mixture: Mixture) -> None:
    good, none = mixture(X, SIGMA, ASKED), mixture(X, SIGMA, Condition())
    mixture.calls = 0
    found = Guided(mixture, 3.0)(X, SIGMA, ASKED)
    assert mixture.calls == 1  # both terms as one batch
    torch.testing.assert_close(found, none + 3 * (good - none))
    torch.testing.assert_close(Guided(mixture, 3.0)(X, SIGMA, Condition()), none)


def test_negative_label(mixture: Mixture) -> None:
    away = mixture(X, SIGMA, Condition(label=torch.tensor([2, 2, 2])))
    good = mixture(X, SIGMA, ASKED)
    found = Guided(mixture, 1.5, negative=2)(X, SIGMA, ASKED)
    torch.testing.assert_close(found, away + 1.5 * (good - away))


def test_interval(mixture: Mixture) -> None:
    good = mixture(X, SIGMA, ASKED)
    found = Guided(mixture, Strength(3.0, low=0.5, high=2.0))(X, SIGMA, ASKED)
    torch.testing.assert_close(found[[0, 2]], good[[0, 2]])  # 0.4 and 3.0 lie outside
    torch.testing.assert_close(found[1], Guided(mixture, 3.0)(X, SIGMA, ASKED)[1])


def test_outside_the_interval_nothing_more_is_computed(mixture: Mixture) -> None:
    """A sampler's own levels are known without asking the device: no second term there."""
    sizes = []
    hook = mixture.register_forward_hook(lambda module, inputs, result: sizes.append(len(inputs[0])))
    guided = Guided(mixture, Strength(3.0, low=0.5, high=2.0))
    weak = AutoGuided(mixture, mixture, Strength(3.0, low=0.5, high=2.0))
    for level in (0.4, 1.0, 3.0):
        sigma = one_level(level, X.device, X.dtype)
        plain = torch.full((1,), level, dtype=X.dtype)
        torch.testing.assert_close(guided(X, sigma, ASKED), guided(X, plain, ASKED))
        torch.testing.assert_close(weak(X, sigma, ASKED), weak(X, plain, ASKED))
    hook.remove()
    n = len(X)
    outside, inside = [n, 2 * n, n, n, n], [2 * n, 2 * n, n, n, n, n]
    assert sizes == [*outside, *inside, *outside]


def test_the_consistency_sampler_is_for_denoisers_that_jump(mixture: Mixture) -> None:
    with pytest.raises(WrongUse, match="not trained to"):
        DiffusionModel(mixture, DiffusionOptions(sampler="consistency"))


def test_rescale_keeps_the_deviation(mixture: Mixture) -> None:
    good = mixture(X, SIGMA, ASKED)
    found = Guided(mixture, Strength(4.0, rescale=1.0))(X, SIGMA, ASKED)
    torch.testing.assert_close(found.std((1, 2, 3)), good.std((1, 2, 3)))
    half = Guided(mixture, Strength(4.0, rescale=0.5))(X, SIGMA, ASKED)
    plain = Guided(mixture, 4.0)(X, SIGMA, ASKED)
    ratio = good.std((1, 2, 3)) / plain.std((1, 2, 3))
    torch.testing.assert_close(half, plain * each(0.5 + 0.5 * ratio))


def test_autoguidance(mixture: Mixture) -> None:
    weak = Mixture(deviation=0.9)
    found = AutoGuided(mixture, weak, Strength(2.0))(X, SIGMA, Condition())
    good, bad = mixture(X, SIGMA, Condition()), weak(X, SIGMA, Condition())
    torch.testing.assert_close(found, bad + 2 * (good - bad))


def test_composition(mixture: Mixture) -> None:
    none = mixture(X, SIGMA, Condition())
    one, other = (mixture(X, SIGMA, Condition(label=torch.full((3,), k))) for k in (0, 2))
    mixture.calls = 0
    found = Composed(mixture, [0, 2], [1.0, -0.5])(X, SIGMA, Condition())
    assert mixture.calls == 1
    torch.testing.assert_close(found, none + (one - none) - 0.5 * (other - none))
    with pytest.raises(NotMeasurable):
        Composed(mixture, [0], [1.0]).moments(X, SIGMA, Condition())
    single = Composed(mixture, [1], [1.0])(X, SIGMA, Condition())
    torch.testing.assert_close(single, mixture(X, SIGMA, Condition(label=torch.full((3,), 1))))


def test_thresholding() -> None:
    class Wide(Mixture):
        def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            return torch.tensor([-3.0, -0.5, 0.5, 1.5]).view(1, *SHAPE).expand_as(x)

    found = Thresholded(Wide(), 1.0)(X, SIGMA, Condition())[0].flatten()
    assert found.tolist() == [-1.0, -0.5, 0.5, 1.0]
    # half of the absolute values 0.5, 0.5, 1.5, 3 are at most 1.0: nothing is divided
    assert Thresholded(Wide(), 0.5)(X, SIGMA, Condition())[0].flatten().tolist() == found.tolist()
    bound = torch.tensor([0.5, 0.5, 1.5, 3.0]).quantile(0.9)
    found = Thresholded(Wide(), 0.9)(X, SIGMA, Condition())[0].flatten()
    torch.testing.assert_close(found, torch.tensor([-1.0, -0.5 / bound, 0.5 / bound, 1.5 / bound]))


def test_bad_arguments(mixture: Mixture) -> None:
    for make in (
        lambda: Composed(mixture, [0, 3], [1.0, 1.0]),
        lambda: Composed(mixture, [0], [1.0, 1.0]),
        lambda: Composed(Mixture(classes=0), [0], [1.0]),
        lambda: Thresholded(mixture, 1.5),
        lambda: DiffusionModel(Mixture(classes=0), DiffusionOptions(guidance=2.0)),
        lambda: DiffusionModel(mixture, DiffusionOptions(negative=3)),
        lambda: DiffusionModel(mixture, DiffusionOptions(compose="0:1,5:1")),
        lambda: DiffusionModel(mixture, DiffusionOptions(compose="a:1")),
        lambda: DiffusionModel(mixture, DiffusionOptions(compose="0:1", guidance=2.0)),
        lambda: DiffusionOptions(steps=0),
        lambda: DiffusionOptions(sampler="hein"),
        lambda: DiffusionOptions(sampler="euler", churn=1.0),
        lambda: DiffusionOptions(sigmas=(1.0, 2.0, 0.0)),
        lambda: DiffusionOptions(sigma_min=3.0, sigma_max=2.0),
        lambda: DiffusionOptions(sigmas=(5.0, 1.0), steps=1),
        lambda: DiffusionOptions(guidance=float("nan")),
        lambda: DiffusionOptions(sampler="ddim", eta=-1.0),
        lambda: DiffusionOptions(sampler="edm-stochastic", churn=-4.0),
        lambda: DiffusionOptions(guidance_low=3.0, guidance_high=2.0),
        lambda: DiffusionModel(mixture, DiffusionOptions(sigma_min=200.0)),
        lambda: DiffusionModel(mixture, DiffusionOptions(compose="0:1", negative=1)),
        lambda: DiffusionModel(mixture, DiffusionOptions(sampler="ddpm", variance="learned")),
    ):
        with pytest.raises(WrongUse):
            make()
    with pytest.raises(NotMeasurable):
        mixture.moments(X, SIGMA, ASKED)


def test_labels_out_of_range_are_named_alone(mixture: Mixture) -> None:
    with pytest.raises(WrongUse, match="labels are 0 to 2, not 3, 5"):
        Composed(mixture, [0, 3, 2, 5], [1.0] * 4)


@pytest.mark.parametrize("idle", [{"negative": 1}, {"guidance_low": 0.3}, {"guidance_rescale": 0.7}])
def test_options_of_guidance_that_do_nothing_are_not_silent(
    mixture: Mixture, idle: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    model, (name,) = DiffusionModel(mixture), idle
    with pytest.raises(WrongUse, match=f"{name} means nothing at guidance 1"):
        model.using(**idle)
    model.using(guidance=2.0, **idle).using(steps=3)
    assert not caplog.records
    model.using(guidance=1.0, **idle)  # a sweep from 1 on
    assert f"{name} means nothing at guidance 1" in caplog.text


def test_what_does_nothing_depends_on_the_guide(mixture: Mixture) -> None:
    led = DiffusionModel(mixture, guide=WeakGuide(mixture))
    with pytest.raises(WrongUse, match="guidance_low means nothing at guidance 1"):
        led.using(guidance_low=0.3)
    with pytest.raises(WrongUse, match="negative means nothing to a model that has a guide"):
        led.using(guidance=2.0, negative=1)


def test_a_model_guides_as_its_options_say(mixture: Mixture) -> None:
    options = DiffusionOptions(guidance=3.0, guidance_low=0.5, guidance_high=2.0, threshold=1.0)
    guided = DiffusionModel(mixture, options).guided()
    expected = Guided(mixture, Strength(3.0, 0.5, 2.0))(X, SIGMA, ASKED).clamp(-1, 1)
    torch.testing.assert_close(guided(X, SIGMA, ASKED), expected)
    assert DiffusionModel(mixture).guided() is mixture
    both = DiffusionModel(mixture, DiffusionOptions(compose="0:1.5,2:-0.5")).guided()
    torch.testing.assert_close(both(X, SIGMA, ASKED), Composed(mixture, [0, 2], [1.5, -0.5])(X, SIGMA, ASKED))


def test_guidance_concentrates_samples(mixture: Mixture) -> None:
    """On the mixture, guidance moves samples of class 2 outwards, away from the other classes."""
    model = DiffusionModel(mixture, DiffusionOptions(steps=12))
    label = Condition(label=torch.full((64,), 2))
    from diptych.model import Noise

    plain, led = (m(Noise(range(64)), label) for m in (model, model.using(guidance=3.0)))
    assert plain.mean().item() == pytest.approx(2.0, abs=0.1)
    assert plain.std().item() == pytest.approx(DEVIATION, abs=0.05)
    assert led.mean() > plain.mean() + 0.05


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from conftest import made_up
    from diptych import catalog

    spec = catalog.recipe("edm")
    out = tmp_path_factory.mktemp("auto") / "run"
    settings = Settings(budget="96-images", ticks=4, device="cpu", snapshots=2)
    return train(spec, made_up(), out, arguments=spec.small, settings=settings)


def test_snapshots_are_kept_and_opened(run: Run) -> None:
    assert list(run.snapshots) == [24, 48]
    early, late = run.model(images=24), run.model()
    assert not torch.equal(early.sample([0]), late.sample([0]))
    with pytest.raises(RunError, match="24, 48"):
        run.model(images=25)


def test_autoguided_model_is_a_model_like_any_other(run: Run, tmp_path: Path) -> None:
    model = autoguided(run.path, guidance=2.5)
    save_model(model, tmp_path / "guided")
    again = load_model(tmp_path / "guided", "cpu")
    assert again.options.guidance == 2.5
    assert torch.equal(again.sample(range(3)), model.sample(range(3)))
    assert torch.equal(again.using(guidance=1.0).sample(range(3)), run.model().sample(range(3)))
    x, sigma = torch.randn(1, 1, 8, 8), torch.tensor([1.0])
    good, weak = (m.denoiser(x, sigma, Condition()) for m in (run.model(), run.model(images=24)))  # type: ignore[operator]
    torch.testing.assert_close(model.guided()(x, sigma, Condition()), weak + 2.5 * (good - weak))


def test_models_made_of_a_run_know_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diptych.cli import run as command_line

    run, guided, tuned = (tmp_path / name for name in ("run", "guided", "tuned"))
    small = "--width 8 --blocks 1 --batch 8 --steps 2 --exam 0 --device cpu"
    assert command_line(f"train edm digits --budget 32-images --ticks 2 --out {run} {small}".split()) == 0
    assert command_line(f"guide {run} --out {guided} --guidance 1.5".split()) == 0
    seeds = "--seeds 0-3 --others 8-11 --fine 8 --rounds 1 --device cpu"
    assert command_line(f"tune-steps {run} --out {tuned} --steps 3 {seeds}".split()) == 0
    assert Run(guided).recipe["derived"]["guided"]["guidance"] == 1.5
    assert Run(tuned).recipe["derived"]["tuned"]["steps"] == 3
    capsys.readouterr()
    assert command_line(f"evaluate {guided} {tuned} --n 32 --metric fid --device cpu --json".split()) == 0
    reports = json.loads(capsys.readouterr().out)
    assert len(str(reports)) > 100
    for words, says in (
        (f"train edm digits --budget 32-images --ticks 2 --out {guided} {small}", "made of a run"),
        (f"rerun {tuned} --out {tmp_path / 'again'}", "made of a run"),
        (f"guide {run} --out {guided}", "there is something in"),
    ):
        assert command_line(words.split()) != 0
        assert says in capsys.readouterr().err


def test_autoguidance_refuses(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="kept no weights"):
        autoguided(run.path, images=7)
    save_model(run.model(), tmp_path / "bare")
    with pytest.raises(RunError, match="early weights"):
        autoguided(tmp_path / "bare")
