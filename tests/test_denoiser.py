"""Every prediction through one denoiser is the same clean image; every weighting against its formula."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from diptych.diffusion.denoiser import (
    TARGETS,
    Denoiser,
    EDMDenoiser,
    ScheduleDenoiser,
    Wrapper,
    each,
    no_label,
    one_level,
    without_labels,
)
from diptych.diffusion.objective import (
    WEIGHTS,
    Levels,
    edm,
    logit_normal_times,
    lognormal,
    min_snr,
    p2,
    uniform_times,
    weight,
)
from diptych.diffusion.schedules import SCHEDULES, VP, Discrete, Flow, schedule
from diptych.errors import NotMeasurable, WrongUse
from diptych.model import Condition

SHAPE = (1, 4, 4)
DEVIATION = 0.7


class Ideal(nn.Module):
    """The best prediction of a x_0 + b eps for x_0 ~ N(0, DEVIATION^2), from x_t and what it is told."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = SHAPE, 0, 0
        self.schedule, self.target = schedule(name), TARGETS[target]
        self.scaled = target == "F"  # its input is EDM's
        self.seen: list[Tensor] = []

    def forward(self, x_t: Tensor, told: Tensor, label: Tensor | None) -> Tensor:
        level = (4 * told).exp()
        alpha, sigma = self.schedule.coefficients(level)
        a, b = self.target(alpha, sigma)
        self.seen.append(x_t)
        if self.scaled:
            x_t = each(alpha * (level**2 + 0.5**2).sqrt()) * x_t
        variance = (alpha * DEVIATION) ** 2 + sigma**2
        x_0, eps = each(alpha * DEVIATION**2 / variance) * x_t, each(sigma / variance) * x_t
        return torch.as_tensor(a).view(-1, 1, 1, 1) * x_0 + torch.as_tensor(b).view(-1, 1, 1, 1) * eps


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_all_predictions_are_one_denoiser(name: str, target: str) -> None:
    network = Ideal(name, target).double()
    denoiser = ScheduleDenoiser(network, schedule(name), target, told="level")
    sigma = torch.tensor([0.05, 0.7, 9.0, 60.0], dtype=torch.float64)
    x = each((sigma**2 + DEVIATION**2).sqrt()) * torch.randn(4, *SHAPE, dtype=torch.float64)
    clean = denoiser(x, sigma, Condition())
    expected = each(DEVIATION**2 / (DEVIATION**2 + sigma**2)) * x
    torch.testing.assert_close(clean, expected, rtol=1e-4, atol=1e-4)
    score = denoiser.score(x, sigma, Condition())
    torch.testing.assert_close(score, -x / each(DEVIATION**2 + sigma**2), rtol=1e-3, atol=0.05)
    alpha = schedule(name).coefficients(sigma)[0]
    reads = (sigma**2 + 0.5**2).rsqrt() if target == "F" else alpha
    torch.testing.assert_close(network.seen[0], each(reads) * x)  # the network reads x_t


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_target_F_is_edms(name: str) -> None:
    """The same function of the noisy image as EDM's, and exact where the network's F is that of the image."""
    clean, eps = torch.randn(2, 4, *SHAPE, dtype=torch.float64)
    sigma = torch.tensor([0.02, 0.7, 9.0, 1e4], dtype=torch.float64)
    total = sigma**2 + 0.5**2
    c_skip, c_out = each(0.5**2 / total), each(sigma * 0.5 / total.sqrt())

    class Known(Ideal):
        def forward(self, x_t: Tensor, told: Tensor, label: Tensor | None) -> Tensor:
            self.seen += [x_t, told]
            return (clean - c_skip * noisy) / c_out

    noisy = clean + each(sigma) * eps
    ours, theirs = Known("ve", "eps"), Known("ve", "eps")
    denoiser = ScheduleDenoiser(ours, schedule(name), "F", told="level")
    found, expected = (d(noisy, sigma, Condition()) for d in (denoiser, EDMDenoiser(theirs)))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found, clean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.seen, theirs.seen)
    torch.testing.assert_close(denoiser.c_out(sigma), EDMDenoiser(theirs).c_out(sigma))


@pytest.mark.parametrize("target", list(TARGETS))
def test_c_out_is_how_far_the_clean_image_moves(target: str) -> None:
    network = Ideal("cosine", target).double()
    denoiser = ScheduleDenoiser(network, schedule("cosine"), target, told="level")
    sigma, x = torch.tensor([0.3, 5.0]).double(), torch.randn(2, *SHAPE, dtype=torch.float64)
    before = denoiser(x, sigma, Condition())
    network.register_forward_hook(lambda module, given, result: result + 1)
    moved = (denoiser(x, sigma, Condition()) - before).abs()
    torch.testing.assert_close(moved, each(denoiser.c_out(sigma)).expand_as(moved))


def test_the_network_is_told_steps() -> None:
    told: list[Tensor] = []

    class Spy(Ideal):
        def forward(self, x_t: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
            told.append(time)
            return x_t

    it = Discrete("linear")
    denoiser = ScheduleDenoiser(Spy("linear", "eps"), it)
    levels = torch.tensor([it.exact[0], it.exact[500], it.exact[999]])
    denoiser(torch.zeros(3, *SHAPE), levels, Condition())
    torch.testing.assert_close(told[0], torch.tensor([0.0, 500.0, 999.0]), atol=0.02, rtol=0)


def test_learned_variance_is_the_second_half_of_the_channels() -> None:
    class Two(Ideal):
        def forward(self, x_t: Tensor, told: Tensor, label: Tensor | None) -> Tensor:
            return torch.cat([super().forward(x_t, told, label), torch.full_like(x_t, 0.5)], 1)

    plain = ScheduleDenoiser(Ideal("cosine", "eps"), schedule("cosine"), told="level")
    learned = ScheduleDenoiser(Two("cosine", "eps"), schedule("cosine"), told="level", learned_variance=True)
    x, sigma = torch.randn(2, *SHAPE), torch.tensor([1.0])
    clean, fraction = learned.moments(x, sigma, Condition())
    torch.testing.assert_close(clean, plain(x, sigma, Condition()))
    torch.testing.assert_close(learned(x, sigma, Condition()), clean)
    assert fraction.unique().tolist() == [0.75]
    with pytest.raises(NotMeasurable, match="variances"):
        plain.moments(x, sigma, Condition())


def test_unknown_names_are_refused() -> None:
    for names in ({"target": "epsilon"}, {"told": "tim"}):
        with pytest.raises(WrongUse):
            ScheduleDenoiser(Ideal("cosine", "eps"), schedule("cosine"), **names)
    with pytest.raises(WrongUse, match="min-snr"):
        weight("minsnr")


def test_weights_against_their_formulas() -> None:
    sigma = torch.tensor([0.1, 1.0, 10.0])
    ones = torch.ones(3)
    snr = sigma**-2
    torch.testing.assert_close(WEIGHTS["snr"](sigma, ones), snr)
    torch.testing.assert_close(min_snr(5.0)(sigma, ones), torch.tensor([5.0, 1.0, 0.01]))
    torch.testing.assert_close(p2(1.0, 1.0)(sigma, ones), snr / (1 + snr))
    torch.testing.assert_close(WEIGHTS["uniform"](sigma, 2 * ones), ones / 4)
    torch.testing.assert_close(edm(0.5)(torch.tensor([0.5]), ones[:1]), torch.tensor([8.0]))


def test_uniform_weight_is_the_error_of_the_prediction() -> None:
    """|F - eps|^2 = weight |D - x_0|^2: the simple loss of DDPM."""
    network = Ideal("linear", "eps").double()
    denoiser = ScheduleDenoiser(network, schedule("linear"), "eps", told="level")
    x, eps = torch.randn(2, 3, *SHAPE, dtype=torch.float64)
    sigma = torch.tensor([0.2, 1.0, 20.0], dtype=torch.float64)
    noisy = x + each(sigma) * eps
    alpha = schedule("linear").coefficients(sigma)[0]
    predicted = network(each(alpha) * noisy, sigma.log() / 4, None)
    weighed = (
        each(WEIGHTS["uniform"](sigma, denoiser.c_out(sigma)))
        * (denoiser(noisy, sigma, Condition()) - x).square()
    )
    torch.testing.assert_close(weighed, (predicted - eps).square(), rtol=1e-5, atol=1e-8)


def test_levels_have_their_distributions() -> None:
    torch.manual_seed(0)
    cpu, n = torch.device("cpu"), 20_000
    log = lognormal(-1.2, 1.2)(n, cpu).log()
    assert log.mean().item() == pytest.approx(-1.2, abs=0.03)
    assert log.std().item() == pytest.approx(1.2, abs=0.03)
    steps = Discrete("cosine", 10)
    drawn = steps.told(steps.time(uniform_times(steps)(n, cpu)))
    assert sorted(drawn.round().unique().tolist()) == list(range(10))
    assert (drawn - drawn.round()).abs().max() < 1e-3
    share = torch.bincount(drawn.round().long()) / n
    torch.testing.assert_close(share, torch.full((10,), 0.1), atol=0.01, rtol=0)
    t = Flow().time(uniform_times(Flow())(n, cpu))
    assert t.mean().item() == pytest.approx(0.5, abs=0.01)
    assert t.var().item() == pytest.approx(1 / 12, abs=0.003)
    logit = Flow(2.0).time(logit_normal_times(Flow(2.0), 0.5, 0.8)(n, cpu)).logit()
    assert logit.mean().item() == pytest.approx(0.5, abs=0.02)
    assert logit.std().item() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    "levels",
    [lognormal(-1.2, 1.2), logit_normal_times(Flow()), uniform_times(Flow())],
    ids=["lognormal", "logit-normal", "uniform"],
)
def test_a_batch_meets_all_levels_alike(levels: Levels) -> None:
    """Of any 64 levels one lies in each 64th of their distribution, the same one in no two batches."""
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    edges = levels(64_000, cpu).sort().values[1000::1000].contiguous()
    first, second = (levels(64, cpu) for _ in range(2))
    for drawn in (first, second):
        assert drawn.isfinite().all()
        counts = torch.bincount(torch.bucketize(drawn, edges), minlength=64)
        assert counts.max() <= 2  # edges are of a sample
        assert (counts == 1).sum() >= 58
    assert (first != second).all()
    assert levels(1, cpu).shape == (1,)


def test_no_label_of_each_kind() -> None:
    assert no_label(torch.tensor([1, 2]), 7).tolist() == [7, 7]
    assert no_label(torch.ones(2, 3), 0).isnan().all()
    torch.manual_seed(0)
    label = torch.randn(2000, 3)
    dropped = without_labels(Condition(label=label), 0, 0.25).label
    assert dropped is not None
    gone = dropped.isnan()
    assert (gone.all(1) == gone.any(1)).all()  # an image forgets all of its attributes or none
    assert gone[:, 0].float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_edm_denoiser_is_its_formula() -> None:
    class Half(Ideal):
        def forward(self, x_t: Tensor, told: Tensor, label: Tensor | None) -> Tensor:
            self.seen += [x_t, told]
            return torch.full_like(x_t, 0.5)

    network, s = Half("ve", "eps"), 0.5
    x, sigma = torch.randn(2, *SHAPE), torch.tensor([0.3, 4.0])
    found = EDMDenoiser(network, s)(x, sigma, Condition())
    total = each(sigma**2 + s**2)
    expected = s**2 / total * x + each(sigma) * s / total.sqrt() * 0.5
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(network.seen[0], x / total.sqrt())
    torch.testing.assert_close(network.seen[1], sigma.log() / 4)


def test_a_schedule_put_under_a_network_is_heard_at_once() -> None:
    """Also at levels whose coefficients were worked out for the one before."""
    x, sigma = torch.randn(2, *SHAPE), one_level(0.7, torch.device("cpu"), torch.float32)
    changed = ScheduleDenoiser(Ideal("cosine", "eps"), schedule("cosine"), "eps", told="level")
    changed(x, sigma, Condition())
    changed.network, changed.schedule, changed.target = Ideal("flow", "v"), Flow(), "v"
    fresh = ScheduleDenoiser(Ideal("flow", "v"), Flow(), "v", told="level")
    assert torch.equal(changed(x, sigma, Condition()), fresh(x, sigma, Condition()))
    edm_like = EDMDenoiser(Ideal("ve", "eps"), 0.5)
    edm_like(x, sigma, Condition())
    edm_like.sigma_data = 0.9
    other = EDMDenoiser(Ideal("ve", "eps"), 0.9)
    assert torch.equal(edm_like(x, sigma, Condition()), other(x, sigma, Condition()))


def test_a_level_is_found_though_another_thread_forgets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(dict[object, object]):
        def __setitem__(self, key: object, value: object) -> None:
            super().__setitem__(key, value)
            self.clear()

    denoiser = EDMDenoiser(Ideal("ve", "eps"))
    monkeypatch.setitem(vars(denoiser), "_coefficients", Forgetful())
    sigma = one_level(0.7, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(denoiser.preconditioned(sigma), denoiser.coefficients(sigma))


@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_a_step_straight_to_the_clean_image_is_one_with_what_the_denoiser_sees(kept: float) -> None:
    x, sigma = torch.randn(2, *SHAPE, dtype=torch.float64), torch.tensor([0.3, 4.0], dtype=torch.float64)
    denoisers: list[Denoiser] = [EDMDenoiser(Ideal("ve", "v").double())]
    denoisers += [ScheduleDenoiser(Ideal("vp", t).double(), schedule("vp"), t, told="level") for t in TARGETS]
    for denoiser in denoisers:
        expected = kept * x + (1 - kept) * denoiser(x, sigma, Condition())
        for way in (denoiser, Wrapped(denoiser)):
            found = way.towards(x, sigma, Condition(), kept)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Wrapped(Wrapper):
    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return self.denoiser(x, sigma, condition)  # type: ignore[no-any-return]


def test_a_schedule_is_put_in_the_place_of_another_and_never_changed() -> None:
    """What was worked out from it stays true: levels, coefficients, and what a file says."""
    denoiser = ScheduleDenoiser(Ideal("vp", "eps"), VP(), "eps", told="time")
    sigma = one_level(0.7, torch.device("cpu"), torch.float32)
    before = denoiser.preconditioned(sigma)
    with pytest.raises(WrongUse, match="beta_min of a VP cannot be changed") as said:
        denoiser.schedule.beta_min = 5.0
    assert said.value.hint == "put another VP in its place"
    with pytest.raises(WrongUse, match="log_level of a Discrete cannot be changed"):
        schedule("linear").log_level = torch.zeros(3)
    torch.testing.assert_close(denoiser.preconditioned(sigma), before)
    denoiser.schedule = VP(5.0)
    after = denoiser.preconditioned(sigma)
    assert torch.equal(after.told, denoiser.coefficients(sigma).told)
    assert not torch.equal(after.told, before.told)
    for own in (VP(), schedule("linear")):  # what is no change goes on
        moved = copy.deepcopy(own).train().double().eval()
        assert moved.ends() == own.ends()


def test_coefficients_are_forgotten_with_whatever_is_set() -> None:
    """No list of names is kept: a subclass may work them out from anything."""

    class Stretched(EDMDenoiser):
        stretch = 1.0

        def c_out(self, sigma: Tensor) -> Tensor:
            return self.stretch * super().c_out(sigma)

    denoiser = Stretched(Ideal("ve", "eps"))
    sigma = one_level(0.7, torch.device("cpu"), torch.float32)
    before = denoiser.preconditioned(sigma).c_out
    denoiser.eval()
    assert denoiser.preconditioned(sigma).c_out is before
    denoiser.stretch = 2.0
    torch.testing.assert_close(denoiser.preconditioned(sigma).c_out, 2 * before)


def test_levels_of_noise_alone_are_told_alike() -> None:
    """Above 100 training meets hardly any, and one-step sampling begins there."""
    denoiser = ScheduleDenoiser(nn.Identity(), Flow(), "flow", told="level")
    far, near = (denoiser.coefficients(torch.tensor([level])) for level in (1e5, 100.0))
    assert torch.equal(far.told, near.told)
    assert denoiser.coefficients(torch.tensor([50.0])).told.item() == pytest.approx(math.log(50) / 4)
    assert not torch.equal(far.c_in, near.c_in)
