"""Networks for points: shapes, spectral normalisation, and what stands between latents and points."""

from __future__ import annotations

import torch

from diptych.diffusion.denoiser import EDMDenoiser
from diptych.model import Condition
from diptych.networks.mlp import MLPCritic, MLPDenoiser, MLPGenerator


def test_a_generator_is_its_mapping_and_its_synthesis() -> None:
    torch.manual_seed(0)
    generator = MLPGenerator((2, 1, 1), latent=4, width=16)
    z = torch.randn(5, 4)
    assert generator(z).shape == (5, 2, 1, 1)
    torch.testing.assert_close(generator.synthesis(generator.mapping(z)), generator(z))


def test_a_spectrally_normalised_critic_stretches_nothing() -> None:
    """Each layer and each leaky ReLU has a slope of 1 at most, so the whole has."""
    torch.manual_seed(0)
    for spectrally, most in ((True, 1.001), (False, 1e9)):
        critic = MLPCritic((2, 1, 1), width=32, spectrally=spectrally)
        if not spectrally:
            for p in critic.parameters():
                p.data.mul_(10)
        point = torch.randn(200, 2, 1, 1, requires_grad=True)
        (slope,) = torch.autograd.grad(critic(point).sum(), point)
        assert slope.flatten(1).norm(dim=1).max() <= most
        assert (slope.flatten(1).norm(dim=1).max() > 1) != spectrally
        assert {id(p) for part in critic.parts() for p in part.parameters()} == {
            id(p) for p in critic.parameters()
        }


def test_a_denoiser_hears_the_level() -> None:
    torch.manual_seed(0)
    denoiser = EDMDenoiser(MLPDenoiser((2, 1, 1), width=16))
    x = torch.randn(3, 2, 1, 1)
    low, high = (denoiser(x, torch.tensor([sigma]), Condition()) for sigma in (0.1, 5.0))
    assert low.shape == x.shape
    assert not torch.allclose(low, high)
