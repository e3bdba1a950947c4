"""Adversarial losses, penalties and regularisers: closed forms, second derivatives, and whom each reaches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diptych.adversarial.blur import blurred
from diptych.adversarial.look import Look
from diptych.adversarial.losses import GAMES, game
from diptych.adversarial.penalties import (
    ApproximateSlopePenalty,
    Consistency,
    Dragan,
    Drift,
    LeCam,
    LipschitzPenalty,
    Penalty,
    of,
    r1,
    r1_r2,
    r2,
)
from diptych.adversarial.regularisers import Orthogonal, PathLength, overlap
from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Condition
from diptych.methods.adversarial import Adversarial, told
from diptych.recipe import Recipe
from diptych.training.state import Settings, Training

SHAPE = (2, 2, 3)
SIZE = math.prod(SHAPE)
NOW = Clock(0, 1000, 0)
LN2 = math.log(2)
ONE, ZERO = torch.ones(4), torch.zeros(4)


class LinearCritic(nn.Module):
    """w x + b: its slope is w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(SIZE) / 4), nn.Parameter(torch.randn(()))

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        return image.flatten(1) @ self.weight + self.bias


class Critic(nn.Module):
    """A small one with curvature, in three parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(SIZE, 3), nn.Linear(3, 2), nn.Linear(2, 1)])

    def parts(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        x = image.flatten(1)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.squeeze(1)


class Generator(nn.Module):
    """A style for each of two layers, and an image that is linear in their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes, self.latent = SHAPE, 0, 0, 3
        self.styles, self.out = nn.Linear(3, 5), nn.Linear(5, SIZE, bias=False)

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.styles(z)[:, None].expand(-1, 2, -1)

    def draw(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor, Any]:
        return self.mapping(z, label), "const"

    def synthesis(self, styles: Tensor, noise: Any = "const") -> Tensor:
        return self.out(styles.sum(1)).view(-1, *SHAPE)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.synthesis(self.mapping(z, label))


def seen(critic: nn.Module, n: int = 6) -> Look:
    fake = torch.randn(n, *SHAPE)
    return Look(lambda image, label: critic(image), torch.randn(n, *SHAPE), None, lambda: fake)


def batch(n: int = 6) -> Batch:
    return Batch(torch.randn(n, *SHAPE), Condition())


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# Games: what each says at equality, and at a logit of 1 for reals and of 0 for fakes.
AT_EQUALITY = {
    "non-saturating": (2 * LN2, LN2),
    "minimax": (2 * LN2, -LN2),
    "least-squares": (0.5, 0.5),
    "hinge": (2.0, 0.0),
    "wasserstein": (0.0, 0.0),
    "relativistic": (LN2, LN2),
    "relativistic-average": (2 * LN2, 2 * LN2),
}
up, down = math.log1p(math.e), math.log1p(1 / math.e)
AT_ONE = {
    "non-saturating": (down + LN2, LN2),
    "minimax": (down + LN2, -LN2),
    "least-squares": (0.0, 0.5),
    "hinge": (1.0, 0.0),
    "wasserstein": (-1.0, 0.0),
    "relativistic": (down, up),
    "relativistic-average": (2 * down, 2 * up),
}
every_game = pytest.mark.parametrize("name", GAMES)


@every_game
def test_games_have_their_closed_forms(name: str) -> None:
    for real, expected in ((ZERO, AT_EQUALITY[name]), (ONE, AT_ONE[name])):
        found = game(name).critic(real, ZERO).item(), game(name).generator(ZERO, real).item()
        assert found == pytest.approx(expected)


@every_game
def test_games_pull_the_logits_apart_and_together(name: str) -> None:
    """The critic's loss falls with reals and rises with fakes; the generator's falls with its fakes."""
    real, fake = (torch.rand(5, dtype=torch.float64).mul(0.9).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(game(name).critic, (real, fake))
    assert torch.autograd.gradcheck(game(name).generator, (fake, real))
    at_real, at_fake = torch.autograd.grad(game(name).critic(real, fake), (real, fake))
    assert at_real.max() < 0 < at_fake.min()
    (at_fake,) = torch.autograd.grad(game(name).generator(fake, real.detach()), fake)
    assert at_fake.max() < 0


@every_game
def test_games_say_whether_they_compare_and_whether_they_are_bounded(name: str) -> None:
    one, rules = torch.randn(2, 4), game(name)
    looks = rules.generator(one[0], one[1]) != rules.generator(one[0], one[1] + 1)
    assert bool(looks) == rules.compares
    assert (rules.critic(ONE * 1e4, -ONE * 1e4) < -1) == rules.unbounded


def test_minimax_saturates_where_the_other_does_not() -> None:
    for name, slope in (("minimax", -math.exp(-9)), ("non-saturating", -1.0)):
        fake = torch.full((1,), -9.0, requires_grad=True)  # a fake that the critic is sure of
        (at_fake,) = torch.autograd.grad(game(name).generator(fake, fake.detach()), fake)
        assert at_fake.item() == pytest.approx(slope, rel=1e-3)


def test_an_unknown_game_names_the_near_one() -> None:
    with pytest.raises(WrongUse, match="did you mean hinge"):
        game("hinges")


# Penalties on a critic that is linear: the slope is its weight everywhere.
@pytest.mark.parametrize(("make", "names"), [(r1, {"r1"}), (r2, {"r2"}), (r1_r2, {"r1", "r2"})])
def test_slopes_are_the_squared_weight(make: Callable[..., Penalty], names: set[str]) -> None:
    critic = LinearCritic()
    square = critic.weight.square().sum().item()
    term, logs = make(3.0)(seen(critic), NOW)
    assert term.item() == pytest.approx(1.5 * square * len(names), rel=1e-5)
    assert {name: value.item() for name, value in logs.items()} == pytest.approx(dict.fromkeys(names, square))
    (slope,) = torch.autograd.grad(term, critic.weight)
    torch.testing.assert_close(slope, 3.0 * len(names) * critic.weight)


def test_slopes_take_their_weight_from_the_clock() -> None:
    critic = LinearCritic()
    penalty = r1(lambda clock: 10.0 * clock.progress)
    terms = [penalty(seen(critic), Clock(images, 1000, 0))[0].item() for images in (0, 500, 1000)]
    assert terms == pytest.approx([0, 2.5 * critic.weight.square().sum().item(), 2 * terms[1]])


def test_slopes_look_only_where_they_must() -> None:
    """R1 asks for no fakes, R2 does not judge reals."""
    critic = LinearCritic()
    look = seen(critic)
    r1(1.0)(look, NOW)
    assert "fake" not in vars(look)
    look = seen(critic)
    r2(1.0)(look, NOW)
    assert "real_logit" not in vars(look)


def test_finite_differences_are_of_a_critic_that_draws_the_same_twice() -> None:
    critic = Critic()
    calm = seen(critic, n=20_000)
    luck = Look(
        lambda image, label: critic(image + torch.randn_like(image[:1]), label),
        calm.real,
        calm.label,
        lambda: calm.fake,
    )
    penalty = ApproximateSlopePenalty(of(2.0), sigma=0.01, fake=False)
    size, expected = (penalty(look, NOW)[1]["r1"].item() for look in (luck, calm))
    assert 0.2 * expected < size < 5 * expected  # by fresh luck it would be ten thousand times as large


def test_finite_differences_agree_with_slopes() -> None:
    critic = Critic()
    look = seen(critic, n=20_000)
    near, sizes = ApproximateSlopePenalty(of(2.0), sigma=0.01)(look, NOW)
    exact, expected = r1_r2(2.0)(look, NOW)
    for name in ("r1", "r2"):
        assert sizes[name].item() == pytest.approx(expected[name].item(), rel=0.03)
    pairs = [
        torch.autograd.grad(term, list(critic.parameters())[:4], retain_graph=True) for term in (near, exact)
    ]
    near_slope, exact_slope = (torch.cat([part.flatten() for part in pair]) for pair in pairs)
    assert torch.cosine_similarity(near_slope, exact_slope, dim=0) > 0.99


@pytest.mark.parametrize("norm", [0.5, 2.0])
@pytest.mark.parametrize("one_sided", [False, True])
def test_lipschitz_penalty_is_the_squared_distance_of_the_slope_to_one(norm: float, one_sided: bool) -> None:
    critic = LinearCritic()
    with torch.no_grad():
        critic.weight.mul_(norm / critic.weight.norm())
    term, logs = LipschitzPenalty(10.0, one_sided=one_sided)(seen(critic), NOW)
    excess = max(0.0, norm - 1) if one_sided else norm - 1
    assert term.item() == pytest.approx(10 * excess**2, rel=1e-4)
    assert logs["gradient_penalty"].item() == pytest.approx(excess**2, rel=1e-4)
    (slope,) = torch.autograd.grad(term, critic.weight)
    torch.testing.assert_close(slope, 20 * excess / norm * critic.weight, rtol=1e-3, atol=1e-5)


def test_lipschitz_penalty_of_a_flat_critic_is_finite() -> None:
    critic = LinearCritic()
    nn.init.zeros_(critic.weight)
    term, _ = LipschitzPenalty(10.0)(seen(critic), NOW)
    term.backward()
    assert term.item() == pytest.approx(10, rel=1e-4)
    assert critic.weight.grad is not None
    assert critic.weight.grad.isfinite().all()


def test_lipschitz_penalty_looks_on_the_lines_between_pairs() -> None:
    asked: list[Tensor] = []

    def judge(image: Tensor, label: Tensor | None) -> Tensor:
        asked.append(image.detach())
        return image.square().sum((1, 2, 3))

    look = Look(judge, torch.zeros(500, *SHAPE), None, lambda: torch.ones(500, *SHAPE))
    LipschitzPenalty()(look, NOW)
    share = asked[0].flatten(1)
    assert (share == share[:, :1]).all()  # one place on each line
    assert share[:, 0].mean().item() == pytest.approx(0.5, abs=0.05)
    assert share[:, 0].std().item() == pytest.approx(12**-0.5, abs=0.03)


def test_dragan_looks_around_reals() -> None:
    asked: list[Tensor] = []
    weight = torch.full((SIZE,), 3.0)

    def judge(image: Tensor, label: Tensor | None) -> Tensor:
        asked.append(image.detach())
        return image.flatten(1) @ weight

    look = Look(judge, torch.randn(200, *SHAPE) * 2, None, lambda: pytest.fail("it asked for fakes"))
    term, _ = Dragan(weight=4.0, spread=0.5)(look, NOW)
    assert term.item() == pytest.approx(4 * (3 * SIZE**0.5 - 1) ** 2, rel=1e-4)
    moved = ((asked[0] - look.real.detach()) / (0.5 * look.real.std().item())).flatten(1)
    assert 0 <= moved.min() < 0.01
    assert 0.9 < moved.max() <= 1.00001
    # alpha u, both uniform: alpha is of the image and u of the value
    assert moved.mean().item() == pytest.approx(1 / 4, abs=0.02)
    assert moved.var().item() == pytest.approx(1 / 9 - 1 / 16, abs=0.01)
    covariance = torch.cov(moved.T)
    between = (covariance.sum() - covariance.trace()) / (SIZE * (SIZE - 1))
    assert between.item() == pytest.approx(1 / 12 / 4, abs=0.005)  # var(alpha) mean(u)^2


@pytest.mark.parametrize("fake", [False, True])
def test_consistency_compares_with_the_twin(fake: bool) -> None:
    critic = LinearCritic()
    look = seen(critic)
    term, _ = Consistency(torch.neg, weight=3.0, fake=fake)(look, NOW)  # D(x) - D(-x) = 2 w x
    images = [look.real, look.fake] if fake else [look.real]
    expected = sum((2 * image.flatten(1) @ critic.weight).square().mean() for image in images)
    torch.testing.assert_close(term, 3 * torch.as_tensor(expected))


def test_lecam_pulls_towards_the_running_means_of_the_others() -> None:
    """Equation 4, with means that begin at 0 and move by a tenth."""
    penalty = LeCam(weight=0.5, decay=0.9)
    real = fake = 0.0
    for _ in range(3):
        look = seen(LinearCritic())
        real = 0.9 * real + 0.1 * look.real_logit.mean().item()
        fake = 0.9 * fake + 0.1 * look.fake_logit.mean().item()
        term, logs = penalty(look, NOW)
        expected = (look.real_logit - fake).square().mean() + (look.fake_logit - real).square().mean()
        assert logs["lecam"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert term.item() == pytest.approx(expected.item() / 2, rel=1e-5)
    assert penalty.real_mean.item() == pytest.approx(real)
    assert penalty.fake_mean.item() == pytest.approx(fake)


PENALTIES: dict[str, Callable[[], Penalty]] = {
    "r1": lambda: r1(1.0),
    "r2": lambda: r2(1.0),
    "r1r2": lambda: r1_r2(1.0),
    "approximate": lambda: ApproximateSlopePenalty(of(1.0)),
    "gradient_penalty": LipschitzPenalty,
    "dragan": Dragan,
    "consistency": lambda: Consistency(torch.neg),
    "lecam": LeCam,
}
every_penalty = pytest.mark.parametrize("make", PENALTIES.values(), ids=PENALTIES)


@every_penalty
def test_penalties_have_numerically_right_gradients(make: Callable[[], Penalty]) -> None:
    """Of the critic's weights, through the second derivative where there is one."""
    critic = Critic().double()
    look = seen(critic, n=4)
    real, fake = look.real.detach().double(), look.fake.detach().double()
    names = [name for name, _ in critic.named_parameters()]

    def term(*weights: Tensor) -> Tensor:
        torch.manual_seed(1)

        def judge(image: Tensor, label: Tensor | None) -> Tensor:
            return torch.func.functional_call(critic, dict(zip(names, weights, strict=True)), (image,))

        return make()(Look(judge, real, None, lambda: fake), NOW)[0]

    if isinstance(make(), LeCam):  # the means follow the weights too, though no gradient goes that way
        pytest.skip("its gradient is not that of its value")
    assert torch.autograd.gradcheck(term, tuple(p.detach().requires_grad_() for p in critic.parameters()))


@every_penalty
@pytest.mark.parametrize("lazy", [1, 3])
def test_penalties_reach_the_critic_and_never_the_generator(make: Callable[[], Penalty], lazy: int) -> None:
    penalty = make()
    penalty.every = lazy
    method = Adversarial(Generator(), Critic(), penalties=[penalty])
    method.train()
    loss, logs = method.critic_loss(batch(), NOW) if lazy == 1 else method.critic_term(penalty, batch(), NOW)
    loss.backward()
    assert all(p.grad is None for p in method.generator.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.critic.parameters())
    assert not any(value.requires_grad for value in logs.values())


@every_game
def test_the_critic_learns_from_its_loss_alone_and_the_generator_from_its_own(name: str) -> None:
    method = Adversarial(Generator(), Critic(), loss=name)
    method.critic_loss(batch(), NOW)[0].backward()
    assert all(p.grad is None for p in method.generator.parameters())
    assert all(p.grad is not None for p in method.critic.parameters())
    method.zero_grad()
    method.critic.requires_grad_(False)  # as the loop does in the generator's turn
    method.generator_loss(batch(), NOW)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.generator.parameters())
    assert all(p.grad is None for p in method.critic.parameters())


def test_a_lazy_penalty_is_as_heavy_as_the_steps_it_skips() -> None:
    penalty, critic = r1(2.0, every=16), LinearCritic()
    method = Adversarial(Generator(), critic, penalties=[penalty], critic_steps=1)
    term, logs = method.critic_term(penalty, batch(), NOW)
    assert term.item() == pytest.approx(16 * critic.weight.square().sum().item(), rel=1e-5)
    assert logs["r1"].item() == pytest.approx(term.item() / 16, rel=1e-5)
    _, logs = method.critic_loss(batch(), NOW)
    assert "r1" not in logs
    assert {phase.name: phase.every for phase in method.phases()} == {"critic": 1, "r1": 16, "generator": 1}


def test_phases_of_many_critic_steps_and_lazy_terms() -> None:
    terms = [PathLength(every=4), Orthogonal()]
    method = Adversarial(Generator(), Critic(), regularisers=terms, critic_steps=5)
    phases = {phase.name: phase for phase in method.phases()}
    assert {name: phase.every for name, phase in phases.items()} == {
        "critic": 1,
        "generator": 5,
        "path_length": 20,
    }
    assert phases["path_length"].optimizer is phases["generator"].optimizer
    assert "orthogonal" in method.generator_loss(batch(), NOW)[1]


def test_path_length_of_a_linear_generator() -> None:
    """The slope of y . image is W^T y for each of the styles, whatever the styles are."""
    generator, term = Generator(), PathLength(weight=3.0, decay=0.5, shrink=2)
    generator.out.weight.data.mul_(2)
    torch.manual_seed(7)
    torch.randn(3, generator.latent)
    y = torch.randn(3, *SHAPE).flatten(1) / math.sqrt(SHAPE[1] * SHAPE[2])
    length = (y @ generator.out.weight).norm(dim=1)
    reals = batch(6)
    torch.manual_seed(7)
    loss, logs = term(generator, reals, NOW)
    mean = 0.5 * length.mean()
    assert term.mean.item() == pytest.approx(mean.item(), rel=1e-5)
    assert logs["path"].item() == pytest.approx(length.mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx(3 * (length - mean).square().mean().item(), rel=1e-5)
    loss.backward()
    assert generator.out.weight.grad is not None
    assert generator.out.weight.grad.abs().sum() > 0
    assert generator.styles.weight.grad is None or not generator.styles.weight.grad.any()


def test_path_length_vanishes_where_all_lengths_are_the_mean() -> None:
    class Isometric(Generator):
        """Every style has a pixel of its own: the length is |y| over those pixels, made constant."""

        def synthesis(self, styles: Tensor, noise: Any = "const") -> Tensor:
            image = styles.mean(1).sum(1)  # one number
            return image[:, None, None, None].expand(-1, 1, 1, 1)

    term = PathLength(decay=1.0)
    term(Isometric(), batch(2), NOW)  # one image: its length is the mean at once
    assert term(Isometric(), batch(2), NOW)[1]["path_length"].item() == pytest.approx(0, abs=1e-9)


def test_orthogonal_counts_products_of_different_rows() -> None:
    assert overlap(torch.eye(3)).item() == 0
    assert overlap(torch.tensor([[3.0, 0.0], [0.0, 2.0]])).item() == 0  # lengths are left alone
    assert overlap(torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])).item() == 2 * (11**2 + 2**2 + 4**2)
    matrix = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(overlap, matrix)
    network = nn.Sequential(nn.Embedding(5, 4), nn.Conv2d(1, 2, 1, bias=False))
    nn.init.ones_(network[1].weight)
    loss, logs = Orthogonal(weight=0.5)(network, batch(), NOW)
    assert (loss.item(), logs["orthogonal"].item()) == (1.0, 2.0)
    loss.backward()
    assert network[0].weight.grad is None


def method_with_state() -> Adversarial:
    torch.manual_seed(3)
    penalties, terms = [LeCam(decay=0.5)], [PathLength(decay=0.5, every=1)]
    return Adversarial(Generator(), Critic(), penalties=penalties, regularisers=terms)


def losses(method: Adversarial, seed: int) -> tuple[float, float]:
    torch.manual_seed(seed)
    return method.critic_loss(batch(), NOW)[0].item(), method.generator_loss(batch(), NOW)[0].item()


def test_state_of_terms_is_saved_and_taken_up_again() -> None:
    one, fresh, resumed = (method_with_state() for _ in range(3))
    losses(one, seed=1)
    resumed.load_state_dict(one.state_dict())
    after = losses(one, seed=2)
    assert losses(resumed, seed=2) == after
    first, second = losses(fresh, seed=2)
    assert first != after[0]  # the means of the logits have moved
    assert second != after[1]  # and that of the path lengths


def training(**arguments: Any) -> Training:
    """Of the small networks, on eight images."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (8, *SHAPE[1:], SHAPE[0]), dtype=torch.uint8).numpy()
    method = Adversarial(Generator(), Critic(), lr=1e-2, **arguments)
    return Training(Recipe(method, batch=4), Images(pixels), 100, Settings(device="cpu"))


def moved(run: Training, steps: int = 3) -> list[bool]:
    """Whether each part of the critic moves in so many steps."""
    parts = run.method.critic.parts()  # type: ignore[operator]
    before = [[p.detach().clone() for p in part.parameters()] for part in parts]
    for _ in range(steps):
        run.step()
    return [
        any(not torch.equal(p, q) for p, q in zip(part.parameters(), old, strict=True))
        for part, old in zip(parts, before, strict=True)
    ]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_parts_hold_still(frozen: int) -> None:
    for penalties in ([r1(1.0)], [r1(1.0, every=2)]):
        expected = [False] * frozen + [True] * (3 - frozen)
        assert moved(training(frozen=frozen, penalties=penalties)) == expected


def test_what_is_frozen_is_not_clipped_either() -> None:
    run = training(frozen=1, clip_weights=0.01, loss="wasserstein")
    assert moved(run) == [False, True, True]
    sizes = [p.weight.abs().max().item() for p in run.method.critic.parts()]  # type: ignore[operator]
    assert sizes[0] > 0.1
    assert max(sizes[1:]) < 0.05  # a step beyond the box


def test_not_all_parts_can_be_frozen() -> None:
    with pytest.raises(WrongUse, match=r"3 parts, so at most 2.*\n\nhint: .*0 freezes none"):
        Adversarial(Generator(), Critic(), frozen=3).phases()
    with pytest.raises(WrongUse, match="frozen: -1"):
        Adversarial(Generator(), Critic(), frozen=-1).phases()


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_numbers_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(WrongUse, match="weight is at least 0"):
        r1(wrong)
    for lr in (wrong, (2e-4, wrong)):
        with pytest.raises(WrongUse, match="learning rate is at least 0"):
            Adversarial(Generator(), Critic(), lr=lr)


TERMS: dict[str, Callable[[float], nn.Module]] = {
    "of": lambda weight: r1_r2(weight),
    "lipschitz": LipschitzPenalty,
    "dragan": Dragan,
    "dragan's spread": lambda spread: Dragan(spread=spread),
    "consistency": lambda weight: Consistency(torch.neg, weight),
    "lecam": LeCam,
    "lecam's decay": lambda decay: LeCam(decay=decay),
    "drift": Drift,
    "sigma": lambda sigma: ApproximateSlopePenalty(of(1.0), sigma),
    "path length": PathLength,
    "path length's decay": lambda decay: PathLength(decay=decay),
    "orthogonal": Orthogonal,
    "clip": lambda bound: Adversarial(Generator(), Critic(), clip_weights=bound),
}


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)
def test_terms_refuse_weights_that_are_none(make: Callable[[float], nn.Module], wrong: float) -> None:
    """A box of -0.1 was all of the critic's weights."""
    with pytest.raises(WrongUse, match=r"finite|decay is (at least 0 and below|between 0 and) 1") as caught:
        make(wrong)
    assert caught.value.hint


def test_a_decay_below_one_and_a_share_of_the_batch() -> None:
    for wrong in (1.0, 2.0):
        with pytest.raises(WrongUse, match=f"below 1, not {wrong}"):
            LeCam(0.3, decay=wrong)
    with pytest.raises(WrongUse, match="shrink is at least 1, not 0"):
        PathLength(shrink=0)
    for make in (LipschitzPenalty, Dragan, LeCam, Drift, PathLength, Orthogonal):
        assert make(0.0).weight == 0


def test_a_term_that_has_no_turn_is_refused() -> None:
    """Each 0th step is no step: it was left out, and nobody was told."""
    never: list[dict[str, Any]] = [
        {"penalties": [r1(1.0, every=0)]},
        {"regularisers": [Orthogonal(every=0)]},
        {"critic_steps": 0},
    ]
    for wrong in never:
        with pytest.raises(WrongUse, match="every 0 steps"):
            Adversarial(Generator(), Critic(), **wrong)


def test_weights_are_clipped_before_each_turn_that_looks_at_them() -> None:
    """Each image that the critic judges is judged by weights inside the box."""
    run = training(clip_weights=0.01, loss="wasserstein")
    largest: list[float] = []
    run.method.critic.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda module, _: largest.append(max(p.abs().max().item() for p in module.parameters()))
    )
    for _ in range(3):
        run.step()
    assert len(largest) == 9  # reals, fakes, and fakes again for the generator
    assert max(largest) <= 0.01 + 1e-9


def test_what_the_log_says_of_a_critic() -> None:
    look = Look(lambda image, label: image.flatten(1).sum(1), torch.zeros(4, 1, 1, 1), None, Tensor)
    look.real_logit, look.fake_logit = torch.tensor([3.0, 1.0, -1.0, 5.0]), torch.tensor([0.0, 1.0, 2.0, 1.0])
    found = {key: value.item() for key, value in told(look).items()}
    assert found.items() >= {"real_logit": 2.0, "fake_logit": 1.0, "logit_gap": 1.0}.items()


@pytest.mark.parametrize(
    ("loss", "logit", "sign"),
    [("least-squares", 0.4, -1), ("least-squares", 0.6, 1), ("non-saturating", 0.4, 1), ("hinge", -0.1, -1)],
)
def test_a_real_looks_real_beyond_the_boundary_of_the_game(loss: str, logit: float, sign: int) -> None:
    """Least squares aims at 0 and 1: half way is one half. The augmentation, the log and alarms agree."""

    class Saying(nn.Module):
        def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
            return logit + 0 * image.sum((1, 2, 3))

    class Hearing(nn.Identity):
        def observe(self, sure: Tensor, clock: Clock) -> dict[str, Tensor]:
            return {"heard": sure.sign().mean()}

    method = Adversarial(Generator(), Saying(), loss=loss, augment=Hearing())
    _, logs = method.critic_loss(batch(), NOW)
    assert (logs["real_sign"], logs["heard"]) == (sign, sign)
    assert set(method.memory(batch(), batch(), NOW)["train"].sign().tolist()) == {sign}


def test_images_are_blurred_before_they_are_augmented() -> None:
    """An augmentation of noise stays as sharp as it is; the blur fades with the clock, alarms see it too."""
    seen: list[Tensor] = []

    class Mark(nn.Module):
        """Notes what it is given, and adds one to a pixel."""

        def forward(self, image: Tensor) -> Tensor:
            seen.append(image.detach())
            dot = torch.zeros_like(image)
            dot[..., 1, 1] = 1
            return image + dot

    critic = Critic()
    method = Adversarial(Generator(), critic, augment=Mark(), blur=lambda clock: 1.0 - clock.progress)
    given: list[Tensor] = []
    critic.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0].detach()))
    reals = batch()
    for clock in (NOW, Clock(1000, 1000, 0)):
        method.look(reals, clock).real_logit  # noqa: B018
        expected = blurred(reals.image, 1.0 - clock.progress)
        torch.testing.assert_close(seen[-1], expected)
        dot = given[-1] - expected
        torch.testing.assert_close(dot[..., 1, 1], torch.ones(6, 2))
        assert dot.abs().sum() == pytest.approx(12, abs=1e-4)
    assert torch.equal(expected, reals.image)
    assert not torch.equal(blurred(reals.image, 1.0), reals.image)
    method.memory(reals, reals, NOW)
    torch.testing.assert_close(given[-3], blurred(reals.image, 1.0))
