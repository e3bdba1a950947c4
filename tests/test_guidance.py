"""Guidance against closed forms: mixtures of Gaussians, whose scores and classifiers are known."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import brief, made_up
from conftest import train_unprobed as train
from diptych import catalog
from diptych.autoguidance import autoguided
from diptych.diffusion.denoiser import Denoiser, EDMDenoiser, each, one_level
from diptych.diffusion.editing import Regions, Vary, Windows, wide
from diptych.diffusion.guidance import (
    AutoGuided,
    ClassifierGuide,
    ClassifierGuided,
    Composed,
    Guided,
    Strength,
    Thresholded,
    WeakGuide,
)
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.objective import lognormal, uniform
from diptych.diffusion.schedules import VE, Flow
from diptych.errors import NotMeasurable, RunError, WrongUse
from diptych.methods.denoising import Denoising
from diptych.model import Condition, Noise
from diptych.networks.unet import UNet
from diptych.runs import Run, load_model, save_model
from diptych.saveable import change, from_tree, to_tree
from diptych.training.state import Settings

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
    guided = ClassifierGuided(unconditional, ClassifierGuide(Exact()), Strength(1.0))
    assert guided.classes == 3
    with torch.inference_mode():  # as sampling calls it
        found = guided(X, SIGMA, ASKED)
    torch.testing.assert_close(found, mixture(X, SIGMA, ASKED), rtol=1e-4, atol=1e-5)
    off = ClassifierGuided(unconditional, ClassifierGuide(Exact()), Strength(2.0, low=100.0))(X, SIGMA, ASKED)
    torch.testing.assert_close(off, unconditional(X, SIGMA, Condition()))  # outside the interval
    none = Condition(label=torch.full((3,), 3))
    torch.testing.assert_close(guided(X, SIGMA, none), unconditional(X, SIGMA, Condition()))
    twice = ClassifierGuided(unconditional, ClassifierGuide(Exact()), Strength(2.0))(X, SIGMA, ASKED)
    clean = unconditional(X, SIGMA, Condition())
    torch.testing.assert_close(twice, clean + 2 * (found - clean), rtol=1e-4, atol=1e-5)


class Imperfect(Exact):
    """A classifier whose logits are off by a hundredth a pixel, as a network's are at every level."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        wave = torch.sin(5 * x / (1 + each(sigma))).sum((1, 2, 3))
        return super().forward(x, sigma) + 0.01 * wave[:, None] * torch.arange(3.0)


@pytest.mark.parametrize(("grid", "steps"), [("trailing", 20), ("trailing", 150), ("karras", 20)])
def test_classifier_guidance_from_pure_noise(grid: str, steps: int) -> None:
    """Level 1e5, where sigma^2 times the slope of an imperfect classifier is no image at all."""
    unconditional = Mixture(classes=0)
    unconditional.schedule = Flow()
    options = DiffusionOptions(steps=steps, grid=grid, sampler="dpm++2m", guidance=1.0)
    model = DiffusionModel(unconditional, options, ClassifierGuide(Imperfect()))
    for label, mean in enumerate(MEANS.tolist()):
        found = model(Noise(range(256)), Condition(label=torch.full((256,), label)))
        assert found.mean().item() == pytest.approx(mean, abs=0.08)
        assert found.std().item() == pytest.approx(DEVIATION, abs=0.06)


def test_classifier_guidance_asks_at_a_level_where_it_can_be_told() -> None:
    """Whether the level is known as a number or as a tensor."""
    guided = ClassifierGuided(Mixture(classes=0), ClassifierGuide(Imperfect()), Strength(1.0))
    x = 3e4 * torch.randn(3, *SHAPE)
    number = guided(x, one_level(3e4, x.device, x.dtype), ASKED)
    torch.testing.assert_close(number, guided(x, torch.full((3,), 3e4), ASKED), rtol=1e-4, atol=1e-4)
    assert number.abs().max() < 10


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
    mixture.jumps = True  # what heun makes of such a denoiser has twice its deviation
    with pytest.raises(WrongUse, match="sampler heun walks along means"):
        DiffusionModel(mixture, DiffusionOptions(sampler="heun"))


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


def test_composition_around_a_guide(mixture: Mixture) -> None:
    """The weaker denoiser is asked for the same labels: a model guided by itself stays as it is."""
    compose, seen = "0:1.5,2:-0.5", (X, SIGMA, ASKED)
    plain = DiffusionModel(mixture, DiffusionOptions(compose=compose)).guided()
    options = DiffusionOptions(compose=compose, guidance=3.0)
    itself = DiffusionModel(mixture, options, WeakGuide(mixture)).guided()
    torch.testing.assert_close(itself(*seen), plain(*seen))
    weak = Mixture(deviation=0.9)
    found = DiffusionModel(mixture, options, WeakGuide(weak)).guided()(*seen)
    bad = Composed(weak, [0, 2], [1.5, -0.5])(*seen)
    torch.testing.assert_close(found, bad + 3 * (plain(*seen) - bad), rtol=1e-4, atol=1e-4)
    with pytest.raises(WrongUse, match="a classifier leads to one label") as said:
        DiffusionModel(mixture, options, ClassifierGuide(Exact()))
    assert "--label" in said.value.hint
    DiffusionModel(mixture, DiffusionOptions(compose=compose, guidance=0.0), ClassifierGuide(Exact()))
    wider = wide(DiffusionModel(mixture, options, WeakGuide(mixture)), 2, 3)
    assert wider.guided()(torch.randn(1, 1, 2, 3), SIGMA[:1], Condition()).isfinite().all()
    with pytest.raises(WrongUse, match="a classifier leads to one label"):
        wide(DiffusionModel(mixture, guide=ClassifierGuide(Exact())).using(guidance=2.0), 2, 3).using(
            compose=compose
        )


def always_labelled() -> DiffusionModel:
    """As training without label dropout leaves it."""
    network = UNet((1, 4, 4), classes=3, width=8, multipliers=(1,), blocks=1)
    options = {"levels": lognormal(-1.2, 1.2), "weight": uniform, "label_dropout": 0.0}
    return Denoising(EDMDenoiser(network), **options).model  # type: ignore[arg-type]


def test_without_label_dropout_none_is_never_asked_for() -> None:
    model = always_labelled()
    label, none = Condition(label=torch.tensor([1])), Condition()
    picture = Condition(image=torch.zeros(1, 1, 4, 4))
    wrong = (
        lambda: model.using(guidance=2.0),
        lambda: model.using(guidance=0.5),
        lambda: model.using(compose="0:1.5,1:-0.2"),
        lambda: model(Noise([0]), none),
        lambda: Vary(model)(Noise([0]), picture),
        lambda: Regions(model, [0, 3]),
        lambda: Windows(model.denoiser, 4, 6)(torch.zeros(1, 1, 4, 6), SIGMA[:1], none),
        lambda: model.log_prob(torch.zeros(1, 1, 4, 4)),
    )
    for make in wrong:
        with pytest.raises(WrongUse, match="never trained without labels") as said:
            make()
        assert "--label-dropout 0.1" in said.value.hint
    assert model(Noise([0]), label).isfinite().all()
    for fine in ({"guidance": 2.0, "negative": 1}, {"compose": "0:0.5,1:0.5"}):
        assert model.using(**fine).sample([0]).shape == (1, 1, 4, 4)
    weaker = DiffusionModel(model.denoiser, DiffusionOptions(guidance=2.0), WeakGuide(model.denoiser))
    assert weaker.sample([0]).shape == (1, 1, 4, 4)


def test_that_a_model_needs_labels_is_saved_and_old_files_know_nothing_of_it() -> None:
    model = always_labelled()
    assert from_tree(to_tree(model.denoiser)).unlabelled is False
    old = to_tree(model.denoiser)
    del old["unlabelled"]
    assert from_tree(old).unlabelled is True


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
        lambda: DiffusionModel(mixture, DiffusionOptions(compose="0:nan")),
        lambda: DiffusionModel(mixture, DiffusionOptions(compose="0:1,1:inf")),
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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"guidance_rescale": 1.5}, "guidance_rescale must be from 0 to 1, not 1.5"),
        ({"guidance_rescale": -0.1}, "guidance_rescale must be from 0 to 1, not -0.1"),
        ({"sampler": "ddim", "eta": 1.5}, "eta must be from 0 to 1, not 1.5"),
        ({"sampler": "ddim", "eta": -1.0}, "eta must be from 0 to 1, not -1"),
        ({"sampler": "edm-stochastic", "churn": 1e9}, "churn must be from 0 to 1000"),
        ({"guidance": float("inf")}, "guidance must be finite, not inf"),
        ({"guidance": float("nan")}, "guidance must be finite, not nan"),
        ({"sigmas": (float("inf"), 1.0, 0.0), "steps": 2}, "sigmas must be finite"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1, not 1.5"),
        ({"threshold": -0.5}, "threshold must be from 0 to 1, not -0.5"),
        ({"tolerance": 0.0}, "tolerance must be at least 1e-09"),
    ],
)
def test_options_out_of_range_are_named_and_a_hint_says_what_they_do(
    wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(WrongUse, match=re.escape(says)) as said:
        DiffusionOptions(**wrong)  # type: ignore[arg-type]
    assert said.value.hint


def test_labels_out_of_range_are_named_alone(mixture: Mixture) -> None:
    with pytest.raises(WrongUse, match="labels are 0 to 2, not 3, 5") as said:
        Composed(mixture, [0, 3, 2, 5], [1.0] * 4)
    assert said.value.hint == "the model knows 3 classes"
    with pytest.raises(WrongUse, match="threshold must lie above 0"):
        Thresholded(mixture, 1.5)


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
    plain, led = (m(Noise(range(64)), label) for m in (model, model.using(guidance=3.0)))
    assert plain.mean().item() == pytest.approx(2.0, abs=0.1)
    assert plain.std().item() == pytest.approx(DEVIATION, abs=0.05)
    assert led.mean() > plain.mean() + 0.05


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = brief(catalog.recipe("edm"))
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
    with pytest.raises(RunError, match="kept no weights"):
        autoguided(run.path, run.path, images=7)
    denoiser = copy.deepcopy(run.model().denoiser)  # type: ignore[attr-defined]
    change(denoiser, jumps=True)
    jumping = DiffusionModel(denoiser, DiffusionOptions(steps=1, sampler="consistency"))
    save_model(jumping, tmp_path / "jumping")
    for one, other in ((run.path, tmp_path / "jumping"), (tmp_path / "jumping", run.path)):
        with pytest.raises(WrongUse, match="which jumps"):
            autoguided(one, other)
