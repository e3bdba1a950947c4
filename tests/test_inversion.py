"""Inversion against images that the generator itself made."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych.adversarial.latent import GeneratorModel, LatentModel
from diptych.adversarial.style import StyleModel
from diptych.errors import RunError, WrongUse
from diptych.features._perceptual import Perceptual
from diptych.features.extractor import to_rgb
from diptych.latent.inversion import Inversion, InversionOptions, invert, rate
from diptych.latent.points import Points, drawn, moments, read_points, rendered, write_points
from diptych.methods.edm import edm
from diptych.model import Condition, from_uint8
from generators import Linear, Styled

QUICK = InversionOptions(start="mean", steps=60, lr=0.2)


def settled(model: GeneratorModel, image: Tensor, **changes: Any) -> Inversion:
    options = InversionOptions(**{**QUICK.__dict__, **changes})
    return invert(model, image, options=options, names=tuple(f"{i}.png" for i in range(len(image))))


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_own_images_are_found_again(space: str) -> None:
    model = LatentModel(Linear()) if space == "z" else StyleModel(Styled())
    image = model.sample([3])
    found = settled(model, image, space=space)
    assert (found.distance < found.begin / 10).all()
    assert (found.image.int() - image.int()).abs().float().mean() < 4
    assert found.psnr.min() > 30
    assert torch.equal(found.image, rendered(model, found.points))
    assert torch.allclose(found.mse, (from_uint8(found.image) - from_uint8(image)).square().mean((1, 2, 3)))
    if space == "z":
        assert (found.points.latents - drawn(model, [3]).latents).abs().max() < 0.2
    else:
        assert (found.points.latents.std(1).max() < 1e-6) == (space == "w")  # one style for all layers


def test_z_of_a_style_model_goes_through_the_mapping() -> None:
    model = StyleModel(Styled(layers=2, classes=3))
    image = model.sample([2])
    found = invert(model, image, label=torch.tensor(2), options=InversionOptions("z", 60, 0.2, "mean"))
    assert (found.distance < found.begin / 10).all()
    assert found.points.latents.shape == (1, 2, 5)
    assert found.points.label is None  # styles know it


@pytest.mark.parametrize("start", ["mean", "best"])
def test_the_class_is_found_too(start: str) -> None:
    generator = Linear(classes=3)
    with torch.no_grad():
        generator.matrix *= 0.3
    model = LatentModel(generator)
    image = model.sample([1, 5], Condition(label=torch.tensor([2, 0])))
    found = settled(model, image, start=start, candidates=24, steps=2)
    assert found.points.label is not None
    assert found.points.label.tolist() == [2, 0]
    told = invert(
        model, image, label=torch.tensor(1), options=QUICK.__class__(start=start, candidates=9, steps=1)
    )
    assert told.points.label is not None
    assert told.points.label.tolist() == [1, 1]


def test_the_nearest_candidate_is_nearer_than_the_mean() -> None:
    model = LatentModel(Linear(latent=2))
    image = model.sample(range(4))
    mean, best = (
        settled(model, image, start=start, steps=1, candidates=96).begin for start in ("mean", "best")
    )
    assert (best < mean).all()
    assert best.mean() < 0.5 * mean.mean()


def test_an_image_does_not_depend_on_the_others() -> None:
    model = LatentModel(Linear())
    image = model.sample([0, 1, 2])
    together, apart = settled(model, image, steps=8), settled(model, image[2:], steps=8, batch=1)
    assert (together.points.latents[2] - apart.points.latents[0]).abs().max() < 1e-3
    in_parts = settled(model, image, steps=8, batch=2)
    assert (together.points.latents - in_parts.points.latents).abs().max() < 1e-3


def test_options_that_keep_near_the_mean_do_not_bind() -> None:
    model = LatentModel(Linear())
    narrow = model.using(truncation=0.1, threshold=0.5)
    image = model.sample([3])
    assert torch.equal(
        settled(narrow, image, steps=5).points.latents, settled(model, image, steps=5).points.latents
    )
    assert moments(narrow, 512)[1] == moments(model, 512)[1]


def test_weights_get_no_gradients_and_the_model_keeps_its_mode() -> None:
    model = LatentModel(Linear()).train()
    watched: list[int] = []
    image = model.sample([0, 1, 2])
    invert(model, image, options=InversionOptions(steps=2, candidates=4, batch=2), watch=watched.append)
    assert all(p.grad is None for p in model.parameters())
    assert watched == [2, 4, 5, 6]
    assert model.training


def test_the_eye_sees_what_the_ruler_sees_and_can_be_differentiated() -> None:
    eye = Perceptual()
    stream = torch.Generator().manual_seed(0)
    for channels in (1, 3, 4):
        levels = torch.randint(0, 256, (2, channels, 12, 10), generator=stream, dtype=torch.uint8)
        image = from_uint8(levels)
        assert torch.allclose(to_rgb((image + 1) * 127.5), to_rgb(levels), atol=1e-6)
        other = (image + 0.1 * torch.randn(image.shape, generator=stream)).requires_grad_()
        assert (eye(image) - eye(image)).abs().max() == 0
        distance = (eye(other) - eye(image)).square().sum()
        (slope,) = torch.autograd.grad(distance, other)
        along = slope / slope.norm()
        with torch.no_grad():
            up, down = ((eye(other + s * along) - eye(image)).square().sum() for s in (1e-2, -1e-2))
        assert abs(float((up - down) / 2e-2) / float(slope.norm()) - 1) < 0.05


def test_the_rate_rises_stays_and_falls() -> None:
    assert [round(rate(t), 3) for t in (0, 0.025, 0.05, 0.5, 0.75, 0.875, 1)] == [0, 0.5, 1, 1, 1, 0.5, 0]


def test_points_come_back_from_their_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, file = LatentModel(Linear(classes=3)), tmp_path / "latents.npz"
    points = drawn(model, [4, 5])
    write_points(file, points)
    again = read_points(file, model)
    assert torch.equal(again.latents, points.latents)
    assert again.label is not None
    assert again.label.tolist() == [1, 2]
    assert again.names == ("4", "5")
    assert torch.equal(rendered(model, again), model.sample([4, 5]))
    with caplog.at_level(logging.WARNING, "diptych"):
        write_points(file, points, model)
        read_points(file, model.using(truncation=0.5))
        assert not caplog.messages
        with torch.no_grad():
            next(model.network.parameters()).add_(1.0)
        read_points(file, model)
        assert "made with other weights" in caplog.text
    with pytest.raises(WrongUse, match=r"shape \(2, 1, 6\), but \(N, 3, 5\)"):
        read_points(file, StyleModel(Styled()))
    with pytest.raises(WrongUse, match="label"):
        read_points(file, LatentModel(Linear()))
    write_points(file, Points(points.latents * np.nan))
    with pytest.raises(WrongUse, match="not finite"):
        read_points(file, model)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot be read"):
        read_points(file, model)


WRONG: dict[str, dict[str, Any]] = {
    "space cannot be 'w\\+\\+'": {"space": "w++"},
    "start cannot be 'worst'": {"start": "worst"},
    "steps must be at least 1": {"steps": 0},
    "lr must be above 0 and finite, not 0.0\\n\\nhint: 0.1 is usual": {"lr": 0.0},
    "lr must be above 0 and finite, not inf": {"lr": math.inf},
    "pixels must be at least 0 and finite, not nan\\n\\nhint: 1.0 is usual": {"pixels": math.nan},
    "pixels must be at least 0 and finite, not inf": {"pixels": math.inf},
    "pixels must be at least 0 and finite, not -1": {"pixels": -1.0},
    "jitter must be at least 0 and finite, not nan": {"jitter": math.nan},
    "without styles has no space w": {"space": "w"},
}


@pytest.mark.parametrize("message", WRONG)
def test_searches_that_cannot_be(message: str) -> None:
    model = LatentModel(Linear())
    with pytest.raises(WrongUse, match=message):
        settled(model, model.sample([0]), **WRONG[message])


def test_images_and_models_that_do_not_fit() -> None:
    model = LatentModel(Linear())
    with pytest.raises(WrongUse, match="uint8"):
        invert(model, torch.zeros(1, 1, 8, 8))
    diffusion = edm(made_up().train, **edm.small).method.model
    with pytest.raises(WrongUse, match="no latent space"):
        invert(diffusion, torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
