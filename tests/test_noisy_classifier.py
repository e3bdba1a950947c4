"""The classifier of noisy images: its pooling, what it learns, and that it leads a diffusion model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import made_up
from conftest import train_unprobed as train
from diptych import catalog
from diptych.autoguidance import autoguided
from diptych.diffusion.classifier import NoisyClassifier
from diptych.diffusion.denoiser import Denoiser, each
from diptych.diffusion.guidance import ClassifierGuide
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.schedules import VE
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Condition
from diptych.methods.noisy_classifier import ClassifierGuidance
from diptych.metrics.cost import flops_per_image
from diptych.model import Noise
from diptych.networks.noisy_classifier import ADMClassifier, AttentionPool
from diptych.runs import Run
from diptych.training.state import Settings, Training
from test_adm import shaken

SETTINGS = Settings(budget="16-images", ticks=1, device="cpu")


def test_pooling_is_attention_of_the_mean() -> None:
    """The whole attention, written out, at its first place."""
    pool = shaken(AttentionPool(8, 6, 2, 5))
    x = torch.randn(3, 8, 2, 3)
    tokens = x.flatten(2).mT
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + pool.place
    q, (k, v) = pool.ask(tokens), pool.answer(tokens).chunk(2, 2)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = (q[:, :, part] @ k[:, :, part].mT / 2).softmax(2)
        heads.append(weights @ v[:, :, part])
    torch.testing.assert_close(pool(x), pool.out(torch.cat(heads, 2))[:, 0])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (4, 28, 20)], ids=str)
def test_classifies_any_size(shape: tuple[int, int, int]) -> None:
    network = shaken(ADMClassifier(shape, classes=3, width=8, multipliers=(1, 2), blocks=1))
    classifier, x = NoisyClassifier(network, VE()), torch.randn(2, *shape)
    with torch.no_grad():
        logits = classifier(x, torch.tensor([0.5]))
        assert logits.shape == (2, 3)
        torch.testing.assert_close(classifier(x, torch.tensor([0.5, 0.5])), logits)
        assert not torch.allclose(classifier(x, torch.tensor([20.0])), logits, atol=1e-3)


SHADE, SPREAD = 0.3, 0.2


class Shades(Denoiser):
    """All pixels about -SHADE or about SHADE, as likely, with noise: the exact denoiser, without labels."""

    def __init__(self) -> None:
        super().__init__()
        self.image_shape, self.classes, self.schedule = (1, 8, 8), 0, VE()

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        variance = SPREAD**2 + each(sigma).square()
        mean = SHADE * (SHADE * x.sum((1, 2, 3), keepdim=True) / variance).tanh()
        return (SPREAD**2 * x + each(sigma).square() * mean) / variance


def shades(n: int) -> Batch:
    label = torch.arange(n) % 2
    image = SHADE * (2.0 * each(label) - 1) + SPREAD * torch.randn(n, 1, 8, 8)
    return Batch(image, Condition(label=label))


@pytest.fixture(scope="module")
def led() -> ClassifierGuidance:
    """A classifier of the two shades, trained for some seconds."""
    torch.manual_seed(0)
    network = ADMClassifier((1, 8, 8), classes=2, width=8, multipliers=(1, 2), blocks=1, attention=(4,))
    options = DiffusionOptions(sampler="euler", steps=18)
    method = ClassifierGuidance(Shades(), NoisyClassifier(network, VE()), learns=False, options=options)
    (phase,) = method.phases()
    for group in phase.optimizer.param_groups:
        group["lr"] = 3e-3
    for _ in range(80):
        loss, _ = phase.loss(shades(64), Clock(0, 1, 0))
        phase.optimizer.zero_grad()
        loss.backward()
        phase.optimizer.step()
    method.eval()
    return method


@pytest.mark.parametrize("sigma", [0.1, 2.0, 6.0])
def test_becomes_as_good_as_bayes(led: ClassifierGuidance, sigma: float) -> None:
    """The sum of 64 pixels decides: right with probability Phi(8 SHADE / sqrt(SPREAD^2 + sigma^2))."""
    torch.manual_seed(1)
    batch = shades(2048)
    noisy = batch.image + sigma * torch.randn_like(batch.image)
    with torch.no_grad():
        chosen = led.classifier(noisy, torch.tensor([sigma])).argmax(1)
    assert batch.condition.label is not None
    accuracy = (chosen == batch.condition.label).float().mean().item()
    best = 0.5 * (1 + math.erf(8 * SHADE / math.sqrt(2 * (SPREAD**2 + sigma**2))))
    assert best - 0.06 < accuracy < best + 0.03


def test_low_and_high_noise_are_told_apart(led: ClassifierGuidance) -> None:
    """Low is the first half of the schedule's time: for this one below a level of 0.4."""
    torch.manual_seed(2)
    with torch.no_grad():
        _, logs = led.classifier_loss(shades(2048), Clock(0, 1, 0))
    assert logs["accuracy_low_noise"] > 0.98
    assert 0.6 < logs["accuracy_high_noise"] < 0.9
    _, alone = led.classifier_loss(shades(1), Clock(0, 1, 0))
    assert all(value.isfinite() for value in alone.values())


def test_leads_an_unconditional_model_to_the_labels(led: ClassifierGuidance) -> None:
    """Guidance 1 and more: the shade asked for; 0: both shades, whatever is asked for."""
    label = torch.arange(60) % 2
    for guidance, least, most in ((1.0, 0.8, 1.0), (3.0, 0.95, 1.0), (0.0, 0.3, 0.7)):
        model = led.model.using(guidance=guidance)
        assert model.classes == 2
        with torch.no_grad():
            image = model(Noise(range(60)), Condition(label=label))
        found = (image.mean((1, 2, 3)) > 0).long()
        share = (found == label).float().mean().item()
        assert least <= share <= most, f"guidance {guidance}: {share}"
    with torch.no_grad():
        same = led.model.using(guidance=1.0)(Noise(range(8)), Condition())
        bare = DiffusionModel(Shades(), led.model.options)(Noise(range(8)))
    torch.testing.assert_close(same, bare)  # nothing asked for: not led


@pytest.fixture(scope="module")
def adm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = catalog.recipe("adm")
    path = tmp_path_factory.mktemp("runs") / "adm"
    return train(spec, made_up(), path, arguments=spec.small, settings=SETTINGS)


def test_leads_a_denoiser_that_is_trained_and_leaves_it_alone(adm: Run, tmp_path: Path) -> None:
    spec, data = catalog.recipe("noisy-classifier"), made_up()
    arguments = {**spec.small, "denoiser": str(adm.path), "guidance": 2.0}
    run = train(spec, data, tmp_path / "led", arguments=arguments, settings=SETTINGS)
    model, before = run.model(), adm.model()
    assert isinstance(model, DiffusionModel)
    assert isinstance(model.guide, ClassifierGuide)
    assert isinstance(before, DiffusionModel)
    assert model.classes == 4
    assert (model.options.guidance, model.options.sampler) == (2.0, "ddpm")  # the run's own sampler
    ours, theirs = model.denoiser.state_dict(), before.denoiser.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert "accuracy_low_noise" in run.log()[0]["losses"]
    with torch.no_grad():
        for parameter in model.guide.parameters():  # two steps teach it next to nothing: make it loud
            parameter.add_(0.3 * torch.randn_like(parameter))
    unled = model.using(guidance=0.0).sample(range(4))
    assert torch.equal(unled, before.sample(range(4)))
    assert not torch.equal(model.sample(range(4)), unled)


def test_what_it_costs_is_counted_through_its_gradients(led: ClassifierGuidance) -> None:
    one, two = (flops_per_image(led.model.using(steps=steps)) for steps in (1, 2))
    assert 0 < one < two == 2 * one


def test_only_the_classifier_moves(adm: Run) -> None:
    spec, data = catalog.recipe("noisy-classifier"), made_up().train
    recipe = spec(data, **spec.small, denoiser=str(adm.path))
    training = Training(recipe, data, 1000, Settings(device="cpu"))
    assert [phase.name for phase in training.phases] == ["classifier"]
    before = {key: p.detach().clone() for key, p in training.method.named_parameters()}
    for _ in range(3):
        training.step()
    for key, parameter in training.method.named_parameters():
        assert torch.equal(parameter, before[key]) == key.startswith("model.denoiser."), key


def test_refuses(adm: Run, tmp_path: Path) -> None:
    spec = catalog.recipe("noisy-classifier")
    with pytest.raises(WrongUse, match="needs labels"):
        spec(made_up(classes=0).train, **spec.small)
    with pytest.raises(WrongUse, match="makes images"):
        spec(made_up((3, 8, 8)).train, **spec.small, denoiser=str(adm.path))
    with pytest.raises(WrongUse, match="makes images"):
        spec(made_up(classes=3).train, **spec.small, denoiser=str(adm.path))
    gan = catalog.recipe("r3gan")
    other = train(gan, made_up(), tmp_path / "gan", arguments=gan.small, settings=SETTINGS)
    with pytest.raises(WrongUse, match="no denoiser"):
        spec(made_up().train, **spec.small, denoiser=str(other.path))


def test_a_led_model_is_not_taken_for_the_denoiser_in_it(adm: Run, tmp_path: Path) -> None:
    """It would make images without labels, where its classes are its guide's."""
    spec, data = catalog.recipe("noisy-classifier"), made_up()
    run = train(spec, data, tmp_path / "led", arguments=spec.small, settings=SETTINGS)
    for name, flag in (("consistency", "teacher"), ("flow", "reflow"), ("noisy-classifier", "denoiser")):
        other = catalog.recipe(name)
        with pytest.raises(WrongUse, match="led by a guide, which would be lost"):
            other(data.train, **{**other.small, flag: str(run.path)})
    with pytest.raises(WrongUse, match="has a guide, which would be lost"):
        autoguided(run.path, adm.path)
