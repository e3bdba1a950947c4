"""Improved DDPM: the terms of the bound in closed form, and what the hybrid loss teaches whom."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych.diffusion.denoiser import ScheduleDenoiser
from diptych.diffusion.model import DiffusionModel
from diptych.diffusion.schedules import BETAS, Cosine, Discrete
from diptych.diffusion.variational import bounds, discretized_nll, ending, learned, normal_kl, posterior_mean
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Condition
from diptych.methods.iddpm import Hybrid, numbers

CLOCK = Clock(0, 1, 0)


@pytest.mark.parametrize("betas", list(BETAS))
def test_bounds_are_beta_tilde_and_beta(betas: str) -> None:
    """The textbook's, of x_t, divided by alpha_bar of the step that is reached."""
    beta = BETAS[betas](1000)[:999]  # pure noise has a level that is cut
    alpha_bar = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    tilde = beta * (1 - before) / (1 - alpha_bar)
    tilde[0] = tilde[1]  # as improved DDPM clips it
    schedule = Discrete(betas)
    levels = torch.tensor((0.0, *schedule.exact[:999]), dtype=torch.float64)
    small, large = bounds(levels[1:], levels[:-1], ending(*schedule.exact[:2]))
    torch.testing.assert_close(small, (tilde / before).log())
    torch.testing.assert_close(large, (beta / before).log())
    half, _ = bounds(levels[1:2], levels[:1])
    torch.testing.assert_close(half, large[:1] - math.log(2))
    torch.testing.assert_close(learned(small, large, torch.tensor(0.25)), 0.75 * small + 0.25 * large)


def test_posterior_mean_is_ddpms() -> None:
    """Equation 7 of DDPM, for x_t and x_(t-1) both divided by their alphas."""
    alpha_bar = (1 - BETAS["linear"](1000)).cumprod(0)
    now, before = alpha_bar[500], alpha_bar[499]
    x, clean = torch.randn(2, 4, dtype=torch.float64)
    beta = 1 - now / before
    mean = before.sqrt() * beta * clean + (now / before).sqrt() * (1 - before) * now.sqrt() * x
    sigma, following = ((1 - a).div(a).sqrt() for a in (now, before))
    found = posterior_mean(x, clean, sigma, following)
    torch.testing.assert_close(found, mean / (1 - now) / before.sqrt())


def test_normal_kl() -> None:
    mean, logvar = torch.randn(2, 5), torch.randn(2, 5)
    one, two = (torch.distributions.Normal(m, (v / 2).exp()) for m, v in zip(mean, logvar, strict=True))
    known = torch.distributions.kl_divergence(one, two)
    torch.testing.assert_close(normal_kl(mean[0], logvar[0], mean[1], logvar[1]), known)


@pytest.mark.parametrize(("mean", "deviation"), [(0.3, 0.2), (0.99, 1e-3), (-2.0, 0.05), (0.0, 30.0)])
def test_the_masses_of_all_levels_add_up_to_one(mean: float, deviation: float) -> None:
    level = torch.linspace(-1, 1, 256, dtype=torch.float64)
    nll = discretized_nll(level, torch.tensor(mean), torch.tensor(2 * math.log(deviation)))
    assert nll.exp().reciprocal().sum().item() == pytest.approx(1, abs=1e-6)


def test_masses_far_out_in_the_tail() -> None:
    """40 deviations from the mean, where the difference of two distribution functions is 0 in any float."""
    deviation, mean = 0.01, torch.tensor(-0.4, dtype=torch.float64)
    level = torch.tensor([0.0, -0.8], dtype=torch.float64)
    z = (0.4 - 1 / 255) / deviation  # the near end of the pixel
    known = z**2 / 2 + math.log(z * math.sqrt(2 * math.pi)) + 1 / z**2
    nll = discretized_nll(level, mean, torch.tensor(2 * math.log(deviation)))
    torch.testing.assert_close(nll, torch.full((2,), known, dtype=torch.float64), rtol=1e-6, atol=1e-4)


class Two(nn.Module):
    """One number for the image, one for the variance."""

    def __init__(self, eps: float = 0.0, fraction: float = 0.0) -> None:
        super().__init__()
        self.image_shape, self.classes = (1, 8, 8), 0
        self.eps, self.fraction = nn.Parameter(torch.tensor(eps)), nn.Parameter(torch.tensor(fraction))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        return torch.cat([self.eps.expand_as(x), self.fraction.expand_as(x)], 1)


def hybrid(network: nn.Module, vlb_weight: float = 0.001, betas: str = "cosine") -> Hybrid:
    denoiser = ScheduleDenoiser(network, Discrete(betas), learned_variance=True)
    return Hybrid(denoiser, vlb_weight=vlb_weight)


def test_the_bound_teaches_the_variance_alone_and_the_simple_loss_the_mean() -> None:
    gradients = []
    for weight in (0.0, 1.0):
        network = Two(eps=0.1)
        torch.manual_seed(0)
        loss, logs = hybrid(network, weight).loss(Batch(torch.rand(16, 1, 8, 8), Condition()), CLOCK)
        loss.backward()
        gradients.append((network.eps.grad, network.fraction.grad))
        assert loss.item() == pytest.approx((logs["simple"] + weight * logs["vlb"]).item(), rel=1e-5)
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert gradients[0][1] == 0
    assert gradients[1][1] != 0


def test_simple_loss_is_the_error_of_eps() -> None:
    """A network that answers 0 is wrong by the noise itself, of variance 1."""
    torch.manual_seed(0)
    _, logs = hybrid(Two()).loss(Batch(torch.rand(1024, 1, 8, 8), Condition()), CLOCK)
    assert logs["simple"].item() == pytest.approx(1, abs=0.02)


def test_no_divergence_where_mean_and_variance_are_the_posteriors() -> None:
    method, x = hybrid(Two()), torch.rand(64, 1, 8, 8)
    step = torch.randint(1, 1000, (64,))
    noisy = x + method.levels[step + 1].view(-1, 1, 1, 1) * torch.randn_like(x)
    term = method.term(x, noisy, x, torch.zeros_like(x), step)
    assert term.abs().max() < 1e-6


@pytest.mark.parametrize("step", [2, 20, 200])
def test_the_bound_is_least_at_the_true_variance(step: int) -> None:
    """For normal data x_following given x_t is normal, of the posterior's variance and the image's own."""
    torch.manual_seed(0)
    method, deviation = hybrid(Two(), betas="linear"), 0.5
    x = deviation * torch.randn(100, 1, 32, 32)
    sigma, following = method.levels[step + 1].item(), method.levels[step].item()
    noisy = x + sigma * torch.randn_like(x)
    clean = noisy * deviation**2 / (deviation**2 + sigma**2)
    unknown = (deviation * sigma) ** 2 / (deviation**2 + sigma**2)  # the variance of the image given x_t
    small, large = method.log_small[step].item(), method.log_large[step].item()
    true = math.log(math.exp(small) + (1 - (following / sigma) ** 2) ** 2 * unknown)
    steps, place = torch.full((100,), step), (true - small) / (large - small)
    assert 0 < place < 1
    low, best, high = (
        method.term(x, noisy, clean, torch.full_like(x, place + moved / (large - small)), steps).mean()
        for moved in (-0.3, 0, 0.3)
    )
    assert best < low
    assert best < high
    fraction = torch.full_like(x, place, requires_grad=True)
    (slope,) = torch.autograd.grad(method.term(x, noisy, clean, fraction, steps).mean(), fraction)
    scale = (large - small) / 2  # the slope of each of the two halves that cancel
    assert abs(slope.sum().item()) < 0.02 * scale


def test_the_first_step_counts_what_the_decoder_says_of_levels() -> None:
    method = hybrid(Two())
    x = torch.randint(0, 256, (4, 1, 8, 8)) / 127.5 - 1
    fraction, clean, step = torch.full_like(x, 0.3), x + 0.002, torch.zeros(4, dtype=torch.int64)
    logvar = learned(method.log_small[0], method.log_large[0], torch.tensor(0.3))
    noisy = x + method.levels[1] * torch.randn_like(x)
    found = method.term(x, noisy, clean, fraction, step)
    torch.testing.assert_close(found, discretized_nll(x, clean, logvar.expand_as(x)))


@pytest.mark.parametrize("name", ["iddpm", "adm"])
def test_trains_and_samples_with_its_variances(name: str) -> None:
    data = made_up().train
    spec = catalog.recipe(name)
    method = spec(data, **spec.small, diffusion_steps=100).method
    model = method.model
    assert isinstance(model, DiffusionModel)
    assert (model.options.sampler, model.options.variance) == ("ddpm", "learned")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    learnt = model.sample(range(4))
    assert not torch.equal(model.using(variance="small").sample(range(4)), learnt)
    guided = model.using(guidance=3.0)
    assert guided.sample(range(4)).shape == (4, 1, 8, 8)  # both terms, and the variance beside them
    assert spec(data, **spec.small, sampler="euler").method.model.options.variance is None


def test_another_sampler_keeps_the_options_that_it_takes() -> None:
    spec = catalog.recipe("iddpm")
    model = spec(made_up().train, **spec.small, diffusion_steps=20).method.model
    assert isinstance(model, DiffusionModel)
    other = model.using(sampler="ddim", eta=0.5)
    assert (other.options.variance, other.options.eta) == (None, 0.5)
    back = other.using(sampler="ddpm")
    assert (back.options.variance, back.options.eta) == ("learned", None)
    assert model.using(sampler="ddpm", variance="small").options.variance == "small"
    with pytest.raises(WrongUse, match="euler has no variance"):
        model.using(sampler="euler", variance="learned")
    assert [one["steps"] for one in model.dial()] == [1, 2, 4, 8, 18]  # of a chain of 20
    for one in model.dial():
        model.using(**one)


def test_adm_guides_where_it_is_asked_to() -> None:
    spec = catalog.recipe("adm")
    assert spec(made_up().train, **spec.small, guidance=2.0).method.model.options.guidance == 2
    with pytest.raises(WrongUse, match="knows labels"):
        spec(made_up(classes=0).train, **spec.small, guidance=2.0)


def test_bad_arguments() -> None:
    assert numbers("32, 16,8", "attention") == (32, 16, 8)
    assert numbers("", "attention") == ()
    for text in ("16;8", "1,-2", "a"):
        with pytest.raises(WrongUse, match="attention must be"):
            numbers(text, "attention")
    with pytest.raises(WrongUse, match="discrete schedule"):
        Hybrid(ScheduleDenoiser(Two(), Cosine(), learned_variance=True))
    spec = catalog.recipe("iddpm")
    with pytest.raises(WrongUse, match="no betas called cosin"):
        spec(made_up().train, **spec.small, betas="cosin")
