"""Bits per dimension: models whose answer is known, and models that have none."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from diptych.diffusion.denoiser import EDMDenoiser
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metrics.bits_per_dim import MOST, bits_of, bits_per_dim, dequantised
from diptych.model import Condition, Model, Noise, from_uint8, to_uint8
from diptych.networks.unet import UNet

SHAPE = (1, 4, 4)


class Gaussian(Model):
    """Every channel of a pixel is normal around a mean that may depend on the label."""

    def __init__(self, std: float, by_label: Tensor | None = None) -> None:
        super().__init__()
        self.image_shape, self.std = SHAPE, std
        self.classes = 0 if by_label is None else len(by_label)
        self.by_label = nn.Parameter(torch.zeros(1) if by_label is None else by_label)

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        return self.std * noise.normal(*SHAPE)

    def log_prob(self, image: Tensor, condition: Condition = Condition()) -> Tensor:
        assert not torch.is_grad_enabled()
        label = condition.label
        mean = self.by_label[torch.zeros(len(image), dtype=torch.int64) if label is None else label]
        density = torch.distributions.Normal(mean[:, None, None, None], self.std)
        return density.log_prob(image).flatten(1).sum(1)


class Uniform(Gaussian):
    """All 256 levels are equally likely."""

    def log_prob(self, image: Tensor, condition: Condition = Condition()) -> Tensor:
        edge = 1 + 1 / 255
        inside = (image.abs() <= edge).all(1).all(1).all(1)
        nats = torch.full((len(image),), -math.log(256 / 127.5) * math.prod(SHAPE))
        return torch.where(inside, nats, -math.inf)


class NoDensity(Gaussian):
    def log_prob(self, image: Tensor, condition: Condition = Condition()) -> Tensor:
        raise NotMeasurable("a generator has no density")


def made(model: Model, images: Tensor, labels: Tensor | None = None) -> Exam:
    return cast(
        Exam,
        SimpleNamespace(
            asked=lambda what: model,
            images=lambda which: images,
            condition=lambda which: None if labels is None else Condition(label=labels),
            device=torch.device("cpu"),
        ),
    )


def random_images(n: int = 40) -> Tensor:
    return torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_knowing_nothing_is_eight_bits() -> None:
    assert bits_of(Uniform(1.0), random_images()).tolist() == pytest.approx([8.0] * 40, abs=1e-5)


def test_a_gaussian_needs_its_entropy() -> None:
    std = 0.2
    draws = std * torch.randn(250, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = bits_per_dim(made(Gaussian(std), to_uint8(draws)))["bits_per_dim"]
    # the entropy of a normal with a variance of one level's box added, 127.5 levels to a unit
    exact = 0.5 * math.log2(2 * math.pi * math.e * (127.5 * std) ** 2)
    assert found.low < exact < found.high
    assert found.value == pytest.approx(exact, abs=0.03)
    assert (found.n, found.better, found.unit, len(found.replicates)) == (250, "lower", "bits", 100)


def test_labels_that_tell_the_mean_save_bits() -> None:
    labels = torch.arange(60) % 2
    images = to_uint8(torch.where(labels == 0, -0.8, 0.8)[:, None, None, None].expand(-1, *SHAPE))
    told = Gaussian(0.05, torch.tensor([-0.8, 0.8]))
    bits = bits_per_dim(made(told, images, labels))["bits_per_dim"]
    assert bits.value < 4.1  # log2 (127.5 · 0.05 · sqrt(2 pi)) = 4.0
    assert "given their labels" in bits.note
    assert bits_per_dim(made(told, images, 1 - labels))["bits_per_dim"].value > 100


def test_levels_are_spread_within_half_a_level() -> None:
    images = random_images(50)
    off = (dequantised(images) - from_uint8(images)) * 127.5
    assert float(off.abs().max()) <= 0.5 + 1e-4
    assert float(off.std()) == pytest.approx(12**-0.5, rel=0.1)
    assert torch.equal(dequantised(images)[3:5], dequantised(images[3:5], first=3))
    assert torch.equal(to_uint8(dequantised(images)), images)


def test_the_mode_of_the_model_is_given_back_and_images_are_capped() -> None:
    model = Uniform(1.0).train()
    assert bits_per_dim(made(model, random_images(MOST + 9)))["bits_per_dim"].n == MOST
    assert model.training


def test_models_without_a_density_say_why() -> None:
    with pytest.raises(NotMeasurable, match="a generator has no density"):
        bits_per_dim(made(NoDensity(1.0), random_images()))
    odd = random_images()
    impossible = Uniform(1.0)
    impossible.log_prob = lambda image, condition=None: torch.full((len(image),), -math.inf)  # type: ignore
    with pytest.raises(NotMeasurable, match="not finite for 40 of 40"):
        bits_per_dim(made(impossible, odd))


@pytest.mark.parametrize("likelihood", ["ode", "bound"])
def test_a_diffusion_model_is_measured_in_both_ways_whatever_its_option(likelihood: str) -> None:
    """Two numbers of two models, each with a note of what it is."""
    torch.manual_seed(0)
    network = UNet((1, 8, 8), width=8, multipliers=(1, 2), blocks=1)
    options = DiffusionOptions(likelihood=likelihood, tolerance=1e-2, terms=4)
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    found = bits_per_dim(made(DiffusionModel(EDMDenoiser(network), options), images))
    assert list(found) == ["bits_per_dim", "bits_per_dim_bound"]
    assert found["bits_per_dim"].note.startswith("density under uniform dequantisation of 3 held-out")
    assert found["bits_per_dim_bound"].note.startswith("variational bound on the 256 levels of 3 held-out")
    assert found["bits_per_dim"].value != found["bits_per_dim_bound"].value


def test_densities_are_found_of_fewer_images_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = Gaussian(0.5), random_images(70)
    whole, log_prob = bits_of(model, images), Gaussian.log_prob

    def short(self: Gaussian, image: Tensor, condition: Condition = Condition()) -> Tensor:
        if len(image) > 8:
            raise MemoryError
        return log_prob(self, image, condition)

    monkeypatch.setattr(Gaussian, "log_prob", short)
    torch.testing.assert_close(bits_of(model, images), whole, rtol=1e-5, atol=1e-5)
