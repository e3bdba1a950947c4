"""Under autocast to bfloat16: what must not be rounded to 8 bits is not."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych.adversarial.gamma import AutoGamma
from diptych.adversarial.look import Look
from diptych.adversarial.regularisers import overlap
from diptych.method import Clock
from diptych.methods.adversarial import Adversarial
from diptych.networks.bands import Band
from diptych.networks.biggan import BigCritic
from diptych.networks.biggan_deep import DeepCritic
from diptych.networks.dcgan import DCCritic
from diptych.networks.gat import GATCritic
from diptych.networks.mlp import MLPCritic
from diptych.networks.pggan import PGCritic
from diptych.networks.r3gan import R3Critic
from diptych.networks.resgan import ResCritic
from diptych.networks.stylegan2_critic import StyleGAN2Critic
from diptych.networks.stylegan3 import FourierInput
from diptych.training.state import Settings, Training

SHAPE = (1, 8, 8)
CRITICS: dict[type[nn.Module], dict[str, Any]] = {
    BigCritic: {"width": 8, "attention": 4},
    DCCritic: {"width": 8},
    DeepCritic: {"width": 8, "attention": 4},
    GATCritic: {"width": 32, "depth": 1},
    PGCritic: {"base": 64, "largest": 16},
    R3Critic: {"width": 16, "largest": 16},
    ResCritic: {"width": 8},
    StyleGAN2Critic: {"base": 64, "largest": 16},
}
KINDS = [
    (kind, {**more, **told})
    for kind, more in CRITICS.items()
    for told in ({}, {"classes": 3}, {"attributes": 2})
]


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def kept(x: Tensor) -> bool:
    """Whether it is of float32, and says more than bfloat16 could."""
    return x.dtype == torch.float32 and not torch.equal(x, x.bfloat16().float())


@pytest.mark.parametrize(("kind", "more"), [*KINDS, (MLPCritic, {}), (MLPCritic, {"spectrally": True})])
def test_logits_are_not_rounded(kind: type[nn.Module], more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    critic = kind(SHAPE, **more)
    label = {"classes": torch.arange(8) % 3, "attributes": torch.randn(8, 2)}
    given = next((label[name] for name in label if name in more), None)
    image = torch.randn(8, *SHAPE)
    with autocast():
        assert kept(critic(image, given))
    assert (
        critic.double()(image.double(), given if given is None or "classes" in more else given.double()).dtype
        == torch.float64
    )


GANS = {
    name: spec
    for name, spec in catalog.recipes().items()
    if isinstance(spec(made_up().train, **spec.small).method, Adversarial)
}


@pytest.mark.parametrize("name", GANS)
def test_every_gan_trains_in_half_precision(name: str) -> None:
    spec, data = GANS[name], made_up().train
    training = Training(spec(data, **spec.small), data, 1000, Settings(device="cpu", precision="bfloat16"))
    training.step()
    training.check_finite()


@pytest.mark.parametrize("name", GANS)
def test_every_gans_fakes_and_logits_are_of_float32(name: str) -> None:
    data = made_up().train
    method = GANS[name](data, **GANS[name].small).method
    assert isinstance(method, Adversarial)
    with autocast():
        look = method.look(data.batch(0, 0, 8), Clock(0, 1000, 0, 8))
        assert look.real.dtype == look.fake.dtype == torch.float32
        assert look.real_logit.dtype == look.fake_logit.dtype == torch.float32


def test_a_gap_of_rounded_logits_is_not_rounded_again() -> None:
    """A critic of bfloat16, which knows 100 and 100.5 and nothing between."""
    gamma = AutoGamma(gap=1.0, start=1.0, quickest=1)
    look = Look(lambda image, label: image, torch.zeros(2), None, lambda: torch.zeros(2))
    look.real_logit = torch.tensor([100.0, 100.5], dtype=torch.bfloat16)
    look.fake_logit = torch.tensor([100.0, 100.0], dtype=torch.bfloat16)
    gamma.observe(look, Clock(0, 1, 0))
    assert gamma.seen_gap.item() == pytest.approx(0.25)


@torch.no_grad()
def test_fourier_features_are_not_rounded() -> None:
    torch.manual_seed(0)
    layer = FourierInput(Band(1024, 300.0, 200.0, (40, 40), 16), style=4)
    layer.affine.weight.normal_()
    layer.transform.copy_(torch.tensor([[0.6, -0.8, 0.1], [0.8, 0.6, 0.2], [0.0, 0.0, 1.0]]))
    style = torch.randn(2, 4)
    expected = layer(style)
    with autocast():
        found = layer(style)
    assert torch.equal(found, expected)


def test_what_orthogonal_rows_share_is_not_rounded() -> None:
    """Sums that are nearly equal: bfloat16 makes their difference negative."""
    matrix = torch.linalg.qr(torch.randn(288, 64, generator=torch.Generator().manual_seed(0))).Q.T
    with autocast():
        found = overlap(matrix)
    assert 0 <= found < 1e-9


def test_neighbouring_levels_are_told_apart_in_full() -> None:
    """At the last stages bfloat16's error is as large as what the two images differ in."""
    data = made_up().train
    spec = catalog.recipe("consistency")
    losses = {}
    for rounded in (False, True):
        for progress in (0, 999):
            torch.manual_seed(0)
            method = spec(data, **spec.small).method
            for weight in method.parameters():  # the last layer begins at 0, which is not rounded
                torch.nn.init.normal_(weight, std=0.1)
            clock = Clock(progress, 1000, 0, 8)
            with autocast() if rounded else nullcontext():
                losses[rounded, progress] = method.loss(data.batch(0, 0, 8), clock)[0].item()  # type: ignore[attr-defined]
    assert losses[True, 999] == losses[False, 999]
    assert losses[True, 0] != losses[False, 0]  # the first stage is plain denoising
