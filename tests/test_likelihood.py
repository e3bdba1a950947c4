"""Densities by the probability-flow ODE and by the variational bound, where they are known exactly."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.special import ndtr

from diptych.diffusion.bound import chain_of, variational_bound
from diptych.diffusion.classifier import NoisyClassifier
from diptych.diffusion.denoiser import Denoiser, EDMDenoiser
from diptych.diffusion.guidance import ClassifierGuide, ClassifierGuided, Guided, Strength
from diptych.diffusion.likelihood import directions, ode_log_prob, seen
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.ode import State, dormand_prince
from diptych.diffusion.schedules import VE, Discrete, Schedule, Tabulated
from diptych.errors import NotMeasurable, WrongUse
from diptych.metrics.bits_per_dim import bits_of, estimators
from diptych.model import Condition, from_uint8, to_uint8
from diptych.networks.noisy_classifier import ADMClassifier
from diptych.networks.unet import UNet
from diptych.saveable import rebuilt

LOW, HIGH = 0.002, 80.0


class Mixture(Denoiser):
    """E[x_0 | x] where x_0 is one of normals of means (K, D), covariances (K, D, D) and equal weights.

    With a label it is that one of them.
    """

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor,
        shape: tuple[int, int, int],
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.means, self.covariances = means, covariances
        self.image_shape, self.classes, self.schedule = shape, len(means), schedule or VE()
        self.asked = 0  # rows in all

    def noisy(self, sigma: Tensor) -> Tensor:
        """Covariances (n or 1, K, D, D) at these noise levels."""
        eye = torch.eye(self.means.shape[1], dtype=self.means.dtype)
        return self.covariances + sigma.to(eye).square().view(-1, 1, 1, 1) * eye

    def terms(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Log densities (n, K) of each part at noisy images (n, D)."""
        normal = torch.distributions.MultivariateNormal(self.means, self.noisy(sigma))
        return normal.log_prob(x[:, None])

    def exact(self, x: Tensor, sigma: float) -> Tensor:
        """Log density (n,) of images (n, C, H, W) that are noisy at sigma."""
        terms = self.terms(x.flatten(1), torch.tensor([sigma]))
        return terms.logsumexp(1) - math.log(self.classes)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.asked += len(x)
        flat = x.flatten(1).to(self.means)
        gap = (flat[:, None] - self.means)[..., None]
        moved = self.covariances @ torch.linalg.solve(self.noisy(sigma), gap)
        clean = self.means + moved[..., 0]
        if condition.label is None:
            share = self.terms(flat, sigma).softmax(1)
        else:
            share = torch.nn.functional.one_hot(condition.label, self.classes)
        return (share[..., None] * clean).sum(1).view(x.shape).to(x)


def correlated(d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A mean and a covariance with eigenvalues from 0.01 on."""
    stream = torch.Generator().manual_seed(d)
    factor = 0.2 * torch.randn(d, d, generator=stream, dtype=dtype)
    return 0.3 * torch.randn(1, d, generator=stream, dtype=dtype), factor @ factor.T + 0.01 * torch.eye(d)


def draws(mean: Tensor, covariance: Tensor, n: int, shape: tuple[int, int, int]) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    white = torch.randn(n, mean.shape[-1], generator=stream, dtype=mean.dtype)
    return (mean + white @ torch.linalg.cholesky(covariance).T).view(n, *shape)


def led_down(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The log density that normal noise of deviation HIGH has after the ODE of a Gaussian, exactly."""
    values, axes = torch.linalg.eigh(covariance)
    along = (x.flatten(1) - mean) @ axes
    stretched = ((values + HIGH**2) / (values + LOW**2)).sqrt()
    ends = mean @ axes + along * stretched
    prior = torch.distributions.Normal(torch.zeros((), dtype=x.dtype), HIGH)
    return prior.log_prob(ends).sum(1) + stretched.log().sum()


def test_the_density_of_a_gaussian_with_full_covariance_is_exact() -> None:
    mean, covariance = correlated(6)
    x, denoiser = draws(mean, covariance, 8, (1, 2, 3)), Mixture(mean, covariance[None], (1, 2, 3))
    expected = led_down(x, mean, covariance)
    for tolerance in (1e-3, 1e-6):
        found = ode_log_prob(denoiser, x, LOW, HIGH, tolerance=tolerance, probes=0)
        assert (found - expected).abs().max() < 20 * 6 * tolerance
    # and that is the data's own, but for the prior, which has no mean and no deviation but HIGH
    torch.testing.assert_close(found, denoiser.exact(x, LOW), atol=0.05, rtol=0)


@pytest.mark.parametrize("d", [1, 2])
def test_the_density_of_a_mixture_sums_to_one(d: int) -> None:
    """Midpoint quadrature, and the closed form at each point of it."""
    means = torch.tensor([[-0.5, 0.2], [0.3, -0.4], [0.4, 0.5]], dtype=torch.float64)[:, :d]
    spread = torch.tensor([0.03, 0.01, 0.02], dtype=torch.float64)[:, None, None] * torch.eye(d)
    denoiser, n = Mixture(means, spread, (1, 1, d)), 256 if d == 1 else 24
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) * (3 / n) - 1.5
    points = torch.cartesian_prod(*[axis] * d).view(-1, 1, 1, d)
    found = ode_log_prob(denoiser, points, LOW, HIGH, tolerance=1e-4, probes=0)
    assert float(found.exp().sum() * (3 / n) ** d) == pytest.approx(1, abs=2e-3)
    exact = denoiser.exact(points, LOW)
    likely = exact > exact.max() - 8
    assert (found - exact)[likely].abs().max() < 0.03


def test_a_label_chooses_the_density() -> None:
    means = torch.tensor([[-0.5, -0.5], [0.5, 0.5]], dtype=torch.float64)
    denoiser = Mixture(means, 0.01 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2), (1, 1, 2))
    x, label = means.view(2, 1, 1, 2), torch.tensor([0, 1])
    told = ode_log_prob(denoiser, x, LOW, HIGH, Condition(label=label), probes=0)
    untold = ode_log_prob(denoiser, x, LOW, HIGH, probes=0)
    torch.testing.assert_close(told - untold, torch.full_like(told, math.log(2)), atol=0.01, rtol=0)
    wrong = ode_log_prob(denoiser, x, LOW, HIGH, Condition(label=1 - label), probes=0)
    assert (told - wrong > 50).all()


def test_random_signs_estimate_the_divergence_without_bias() -> None:
    mean, covariance = correlated(6)
    denoiser, x = Mixture(mean, covariance[None], (1, 2, 3)), draws(mean, covariance, 1, (1, 2, 3))
    sigma = torch.tensor([0.3], dtype=torch.float64)
    _, exact = seen(denoiser, x.clone(), sigma, Condition(), directions(x, 0))
    jacobian = covariance @ torch.linalg.inv(covariance + 0.09 * torch.eye(6, dtype=torch.float64))
    assert float(exact) == pytest.approx(float(jacobian.trace()) / 6, rel=1e-9)
    signs = directions(x, 512)
    assert torch.equal(signs.abs(), torch.ones_like(signs))
    _, estimated = seen(denoiser, x.clone(), sigma, Condition(), signs)
    off = jacobian - jacobian.diag().diag()
    error = math.sqrt(2 * float(((off + off.T) / 2).square().sum()) / 512) / 6  # Hutchinson's variance
    assert abs(float(estimated - exact)) < 4 * error


def test_an_image_has_one_density_in_whichever_batch() -> None:
    mean, covariance = correlated(6)
    x, denoiser = draws(mean, covariance, 5, (1, 2, 3)).float(), Mixture(mean, covariance[None], (1, 2, 3))
    with torch.inference_mode():  # the caller's; tensors made within it cannot be differentiated
        together = ode_log_prob(denoiser, x.clone(), LOW, HIGH)
        again = ode_log_prob(denoiser, x.flip(0).clone(), LOW, HIGH).flip(0)
        alone = torch.cat([ode_log_prob(denoiser, one[None].clone(), LOW, HIGH) for one in x])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, again, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert denoiser.asked < 3 * 5 * 150


def test_guidance_moves_the_density_by_the_guided_divergence() -> None:
    """Of a label's normal led twice as far from the mixture's; the classifier's slope counts as well."""
    means = torch.tensor([[-0.3, 0.1], [0.4, 0.0]], dtype=torch.float64)
    denoiser = Mixture(means, 0.04 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2), (1, 1, 2))

    class Bayes(nn.Module):
        classes = 2

        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return denoiser.terms(x.flatten(1), sigma)

    class Unlabelled(Denoiser):
        """The mixture, whatever is asked for; 2 stands for no label in the other."""

        def __init__(self) -> None:
            super().__init__()
            self.image_shape, self.classes, self.schedule = (1, 1, 2), 0, VE()

        def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            return denoiser(x, sigma, Condition())

    x, condition = torch.tensor([[[[0.2, 0.1]]]], dtype=torch.float64), Condition(label=torch.tensor([0]))
    led = ClassifierGuided(Unlabelled(), ClassifierGuide(Bayes()), Strength(1.0))
    found = ode_log_prob(led, x, LOW, HIGH, condition, tolerance=1e-5, probes=0)
    told = ode_log_prob(denoiser, x, LOW, HIGH, condition, tolerance=1e-5, probes=0)
    torch.testing.assert_close(found, told, atol=1e-3, rtol=0)  # Bayes' rule: both are the same field


def test_the_slope_of_a_classifier_is_differentiated_through_its_attention() -> None:
    torch.manual_seed(0)
    network = ADMClassifier((1, 8, 8), classes=3, width=8, multipliers=(1, 2), blocks=1, head=8)
    guide = ClassifierGuide(NoisyClassifier(network, Discrete("cosine")))
    led = ClassifierGuided(tiny(), guide, Strength(4.0))
    led.requires_grad_(False).double().eval()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    sigma, told = torch.tensor([0.7, 1.3], dtype=torch.float64), Condition(label=torch.tensor([0, 2]))
    v = directions(x, 1)
    _, found = seen(led, x.clone(), sigma, told, v)
    change = (led(x + 1e-4 * v[:, 0], sigma, told) - led(x - 1e-4 * v[:, 0], sigma, told)) / 2e-4
    torch.testing.assert_close(found, (change * v[:, 0]).flatten(1).mean(1), rtol=1e-4, atol=1e-6)


def test_solver_reaches_its_tolerance_row_by_row() -> None:
    """d y / d t = a_row y, whose rows need steps of their own."""
    rates = torch.tensor([-1.0, 0.5, -20.0, 3.0], dtype=torch.float64)
    counts = torch.zeros(4)

    def slope(rows: Tensor, time: Tensor, state: State) -> State:
        counts[rows] += 1
        return (rates[rows, None] * state[0],)

    (found,) = dormand_prince(slope, (torch.ones(4, 2, dtype=torch.float64),), 0.0, 2.0, 1e-8)
    torch.testing.assert_close(found, (2 * rates).exp()[:, None].expand(4, 2), rtol=1e-5, atol=1e-7)
    assert counts[2] > 2 * counts[0]
    with pytest.raises(NotMeasurable, match="tolerance"):
        dormand_prince(lambda rows, time, state: (state[0] ** 2,), (torch.ones(1, 1),), 0.0, 2.0, 1e-6)
    with pytest.raises(NotMeasurable, match="tolerance"):
        dormand_prince(lambda rows, time, state: (state[0] * math.nan,), (torch.ones(1, 1),), 0.0, 1.0, 1e-6)


def test_solver_has_order_five() -> None:
    """Asked for a thousandth of the error, it takes about 1000^(1/5) = 4 times as many steps."""
    calls = []

    def slope(rows: Tensor, time: Tensor, state: State) -> State:
        calls.append(1)
        return (torch.stack([state[0][:, 1], -state[0][:, 0]], 1),)

    taken, errors = [], []
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for tolerance in (1e-5, 1e-8):
        calls.clear()
        (end,) = dormand_prince(slope, (start,), 0.0, 20.0, tolerance)
        taken.append(len(calls))
        errors.append(float((end - torch.tensor([[math.cos(20), -math.sin(20)]])).abs().max()))
    assert math.log(errors[0] / errors[1]) / math.log(taken[1] / taken[0]) == pytest.approx(5, abs=0.7)


def levels(n: int, deviation: float, shape: tuple[int, int, int] = (1, 4, 4)) -> Tensor:
    """8-bit images of independent pixels in [-1, 1]."""
    stream = torch.Generator().manual_seed(1)
    drawn = deviation * torch.randn(n, *shape, generator=stream)
    return ((drawn + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def exact_nats(image: Tensor, deviation: float) -> Tensor:
    """-log P of levels whose pixels are normal and rounded, the outermost reaching to infinity."""
    image = image.double()
    above = torch.where(image > 1 - 1 / 255, 1.0, ndtr((image + 1 / 255) / deviation))
    below = torch.where(image < -1 + 1 / 255, 0.0, ndtr((image - 1 / 255) / deviation))
    return -(above - below).log().flatten(1).sum(1)


def independent(deviation: float, schedule: Schedule | None = None) -> Mixture:
    return Mixture(torch.zeros(1, 16), deviation**2 * torch.eye(16)[None], (1, 4, 4), schedule)


def test_the_bound_lies_above_and_comes_nearer_with_more_steps() -> None:
    """The bits of rounded normal pixels are known; those of dequantised ones lie between."""
    image, deviation = levels(256, 0.3), 0.3
    exact, gaps = exact_nats(image, deviation), []
    for steps in (8, 32, 128):
        grid = [HIGH * (LOW / HIGH) ** (i / (steps - 1)) for i in range(steps)] + [0.0]
        bound = variational_bound(independent(deviation), image, grid, variance="large")
        gap = bound.bits(bound.nats.double() - exact)
        assert float(gap.mean()) > 3 * float(gap.std()) / 16
        gaps.append(float(gap.mean()))
        assert float(bound.bits(bound.prior).max()) < 1e-4
        assert bound.steps.shape == (256, steps - 1)
        assert (bound.steps >= 0).all()
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[-1] < 0.15


@pytest.mark.parametrize(("betas", "variance"), [("linear", "small"), ("cosine", "large")])
def test_some_of_the_terms_stand_for_all(betas: str, variance: str) -> None:
    image, schedule = levels(256, 0.4), Discrete(betas, 60)
    denoiser, sigmas = independent(0.4, schedule), chain_of(schedule)
    whole = variational_bound(denoiser, image, sigmas, variance=variance)
    some = variational_bound(denoiser, image, sigmas, variance=variance, terms=6)
    assert torch.equal(whole.which[0], torch.arange(2, 61))
    assert torch.equal(whole.weight, torch.ones_like(whole.weight))
    assert some.which.shape == (256, 6)
    assert some.which.min() == 2
    assert len(some.which.unique()) > 25
    off = some.bits(some.nats - whole.nats)
    assert abs(float(off.mean())) < 4 * float(off.std()) / 16
    assert float(off.std()) < 0.3 * float(whole.bits(whole.nats).mean())
    assert torch.equal(some.nats, variational_bound(denoiser, image, sigmas, variance=variance, terms=6).nats)


class Between(Mixture):
    """Has learned that the log variance lies at a fraction of the way between its bounds."""

    fraction = 0.0

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        return self(x, sigma, condition), torch.full_like(x, self.fraction)


def test_learned_variances_run_between_the_bounds() -> None:
    image, schedule = levels(4, 0.4), Discrete("cosine", 20)
    denoiser = Between(torch.zeros(1, 16), 0.16 * torch.eye(16)[None], (1, 4, 4), schedule)
    for fraction, fixed in ((0.0, "small"), (1.0, "large")):
        denoiser.fraction = fraction
        learned, known = (
            variational_bound(denoiser, image, chain_of(schedule), variance=name)
            for name in ("learned", fixed)
        )
        torch.testing.assert_close(learned.steps, known.steps)
    with pytest.raises(NotMeasurable, match="variances"):
        variational_bound(independent(0.4), image, [1.0, 0.5, 0.0], variance="learned")


def test_both_estimators_give_the_bits_of_rounded_normal_pixels() -> None:
    """Through the model and the metric: 8-bit images in, bits a dimension out."""
    deviation, image = 0.3, levels(64, 0.3)
    model = DiffusionModel(independent(deviation, Discrete("linear", 300)), DiffusionOptions(terms=40))
    exact = exact_nats(image, deviation) / (16 * math.log(2))
    pixels = ((image + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(from_uint8(pixels), image)
    twins = estimators(model)
    off = {name: bits_of(twin, pixels) - exact for name, twin in twins.items()}
    # the model blurs by its smallest level, 0.01: nothing beside 0.3
    assert off["bits_per_dim"].abs().mean() < 0.02
    assert 0 < off["bits_per_dim_bound"].mean() < 0.2
    nats = model.bound(image, terms=40).nats
    assert (off["bits_per_dim_bound"] + exact).tolist() == pytest.approx((nats / 16 / math.log(2)).tolist())


def tiny(classes: int = 0) -> EDMDenoiser:
    torch.manual_seed(0)
    network = UNet((1, 8, 8), classes=classes, width=8, multipliers=(1, 2), blocks=1)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return EDMDenoiser(network)


class Smooth(nn.Module):
    """Two layers on 3x3 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image_shape, self.classes = (1, 3, 3), 0
        self.layers = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 9))

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None) -> Tensor:
        told = level[:, None].expand(len(x), 1)
        out: Tensor = self.layers(torch.cat([x.flatten(1), told], 1))
        return 2 * out.view(x.shape)


def test_a_network_has_the_density_of_its_change_of_variables() -> None:
    """The flow of Heun's method in many small steps, its Jacobian whole: no estimator in common."""
    model = DiffusionModel(
        EDMDenoiser(Smooth()), DiffusionOptions(sigma_min=0.05, sigma_max=5.0, probes=0, tolerance=1e-5)
    )
    model.requires_grad_(False).double()
    x = 0.4 * torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid = torch.linspace(math.log(0.05), math.log(5.0), 100, dtype=torch.float64).exp().tolist()

    def up(flat: Tensor) -> Tensor:
        y = flat.view(1, 1, 3, 3)
        slope = lambda y, s: (y - model.denoiser(y, torch.full((1,), s).to(y), Condition())) / s  # noqa: E731
        for a, b in pairwise(grid):
            first = slope(y, a)
            y = y + (b - a) / 2 * (first + slope(y + (b - a) * first, b))
        return y.flatten()

    end = up(x.flatten())
    jacobian = torch.autograd.functional.jacobian(up, x.flatten())
    prior = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 5.0).log_prob(end).sum()
    expected = prior + torch.linalg.slogdet(jacobian).logabsdet
    assert float(model.log_prob(x)) == pytest.approx(float(expected), abs=5e-3)


def test_what_has_no_density_or_is_asked_wrongly() -> None:
    model = DiffusionModel(tiny(classes=3))
    image = torch.zeros(2, 1, 8, 8)
    jumping = DiffusionModel(rebuilt(tiny(), jumps=True), DiffusionOptions(sampler="consistency"))
    for measure in (jumping.log_prob, jumping.bound):
        with pytest.raises(NotMeasurable, match="consistency"):
            measure(image)
    with pytest.raises(WrongUse, match="wants images in"):
        model.log_prob(to_uint8(image), Condition(label=torch.tensor([0, 1])))
    with pytest.raises(WrongUse, match="images of"):
        model.log_prob(torch.zeros(2, 1, 4, 4))
    with pytest.raises(WrongUse, match="label 3 is out of range"):
        model.log_prob(image, Condition(label=torch.tensor([0, 3])))
    with pytest.raises(WrongUse, match="label -1 is out of range"):
        model.log_prob(image, Condition(label=torch.tensor([-1, 2])))
    for wrong in ({"likelihood": "elbo"}, {"tolerance": 0.0}, {"probes": -1}, {"terms": -1}):
        with pytest.raises(WrongUse):
            model.using(**wrong)


def test_arrays_of_other_kinds_are_read() -> None:
    """numpy's floats have 64 bits, and labels come as whatever holds them."""
    model = DiffusionModel(tiny(classes=3), DiffusionOptions(tolerance=0.05))
    image = levels(2, 0.3, (1, 8, 8))
    usual = model.log_prob(image, Condition(label=torch.tensor([0, 1])))
    for kind in (torch.uint8, torch.int32, torch.bool):
        told = Condition(label=torch.tensor([0, 1]).to(kind))
        assert torch.equal(model.log_prob(image.double(), told), usual)


def test_the_bound_along_a_schedule_of_ones_own_is_near_that_of_others() -> None:
    """Its first time is a clean image, no step of a chain: that one step was to cost 16 bits a dimension."""
    image = levels(64, 0.3)
    own = Tabulated.of(lambda t: 1 - t**2, lambda t: t)
    bits = []
    for schedule in (own, Discrete("linear")):
        bound = variational_bound(independent(0.3, schedule), image, chain_of(schedule), variance="large")
        bits.append(float(bound.bits(bound.nats).mean()))
    assert bits[0] == pytest.approx(bits[1], abs=0.3)


def test_options_choose_the_density() -> None:
    model = DiffusionModel(tiny(classes=3), DiffusionOptions(tolerance=0.05, terms=4))
    image = levels(3, 0.3, (1, 8, 8))
    told = Condition(label=torch.tensor([0, 1, 2]))
    found: dict[str, Tensor] = {}
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "steps": {"steps": 2, "sampler": "euler", "threshold": 1.0},
        "guided": {"guidance": 3.0},
        "bound": {"likelihood": "bound"},
        "more probes": {"probes": 3},
    }
    for name, changes in settings.items():
        with torch.no_grad():
            found[name] = model.using(**changes).log_prob(image, told)
        assert found[name].isfinite().all()
        assert not found[name].requires_grad
    assert torch.equal(found["plain"], found["steps"])  # how images are drawn does not matter
    for name in ("guided", "bound", "more probes"):
        assert not torch.allclose(found["plain"], found[name])
    strength = Guided(model.denoiser, 3.0)
    expected = ode_log_prob(strength, image, *VE().ends(), told, tolerance=0.05)
    torch.testing.assert_close(found["guided"], expected)
