"""GAT: levels that add up to the image, noise that hides more of coarse levels, second derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych.adversarial.augment import Adaptive
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.look import Look
from diptych.adversarial.penalties import LipschitzPenalty
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Condition
from diptych.methods.adversarial import Adversarial
from diptych.methods.gat import gat
from diptych.networks.gat import GATCritic, GATGenerator, noise_level, perturbed
from diptych.training.state import Settings, Training

SMALL = {"classes": 2, "width": 16, "depth": 4, "levels": 3}
LABEL = torch.tensor([0, 1, 0])


def test_levels_are_partial_sums_and_the_last_is_the_image() -> None:
    torch.manual_seed(0)
    generator = GATGenerator((3, 9, 13), **SMALL)
    z = torch.randn(3, generator.latent)
    levels = generator(z, LABEL)
    assert levels.shape == (3, 9, 9, 13)
    torch.testing.assert_close(levels[:, 6:], generator.eval()(z, LABEL))
    for head in generator.heads[1:]:  # what later levels add is taken away
        head.pixels.weight.data.zero_()
        head.pixels.bias.data.zero_()
    torch.testing.assert_close(generator(z, LABEL), levels[:, :3])


def test_patches_lie_where_they_belong() -> None:
    """The head's numbers are the pixels of a patch, row by row, channels last."""
    generator = GATGenerator((2, 4, 6), width=16, depth=1, levels=1, patch=2)
    made = generator.unpatched(torch.arange(6 * 8.0).view(1, 6, 8))
    assert made.shape == (1, 2, 4, 6)
    for channel, row, column in ((0, 0, 0), (1, 3, 5), (0, 1, 4), (1, 2, 1)):
        token, inside = row // 2 * 3 + column // 2, (row % 2 * 2 + column % 2) * 2 + channel
        assert made[0, channel, row, column] == token * 8 + inside


def test_noise_of_a_level_contains_that_of_the_next() -> None:
    """Each level has (1 - t) of its image and deviation t; the cleanest one tells all that the others do."""
    torch.manual_seed(0)
    image = torch.ones(40_000, 4, 1, 1)
    seen = perturbed(image, 4)[:, :, 0, 0]
    t = torch.tensor([noise_level(level, 4) for level in range(4)])
    assert t.tolist() == pytest.approx([0.885, 0.76, 0.51, 0.01])
    torch.testing.assert_close(seen.mean(0), 1 - t, atol=0.02, rtol=0)
    torch.testing.assert_close(seen.std(0), t, atol=0.02, rtol=0)
    for coarse, fine in ((0, 1), (1, 2), (2, 3)):
        ratio = (1 - t[coarse]) / (1 - t[fine])
        covariance = torch.cov(seen[:, [coarse, fine]].T)[0, 1]
        assert covariance.item() == pytest.approx((ratio * t[fine] ** 2).item(), abs=0.01)
    torch.testing.assert_close(perturbed(image, 4, noisy=False)[0, :, 0, 0], 1 - t)


def test_a_critic_takes_an_image_for_all_of_its_levels() -> None:
    torch.manual_seed(0)
    critic = GATCritic((3, 9, 13), **SMALL).eval()
    image = torch.randn(3, 3, 9, 13)
    torch.testing.assert_close(critic(image, LABEL), critic(image.repeat(1, 3, 1, 1), LABEL))


def test_penalties_differentiate_the_critic_twice() -> None:
    torch.manual_seed(0)
    critic = GATCritic((1, 4, 4), width=8, depth=2, levels=2).double().eval()

    def square_slope(image: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad(critic(image).sum(), image, create_graph=True)
        return slope.square().sum()

    image = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(square_slope, (image,))


def test_every_parameter_of_the_critic_lies_in_a_part() -> None:
    critic = GATCritic((3, 8, 8), **SMALL)
    parts = {id(p) for part in critic.parts() for p in part.parameters()}
    assert parts == {id(p) for p in critic.parameters()}


@pytest.mark.parametrize(("shape", "patch"), [((1, 8, 8), 1), ((3, 28, 28), 4), ((3, 256, 256), 16)])
def test_patches_go_with_the_size(shape: tuple[int, int, int], patch: int) -> None:
    recipe = gat(made_up(shape, n=8).train, width=16, depth=2, levels=2)
    assert recipe.method.generator.patch == patch  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrong",
    [{"levels": 9}, {"levels": -1}, {"width": 100}, {"gamma": -1.0}, {"patch": -1}, {"patch": 9}],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(WrongUse, match=next(iter(wrong))):
        gat(made_up().train, **wrong)


def test_a_patch_is_bounded_by_the_shorter_side() -> None:
    """--patch 100 trained on one token."""
    data = made_up((1, 8, 12), n=8).train
    with pytest.raises(WrongUse, match=r"shorter side, 8, not 9(.|\n)*hint: 0"):
        gat(data, width=16, depth=2, patch=9)
    assert gat(data, width=16, depth=2, patch=8).method.generator.grid == (1, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(("depth", "levels"), [(2, 2), (4, 4), (6, 4)])
def test_levels_go_with_the_depth(depth: int, levels: int) -> None:
    """--depth 2 failed on levels that nobody had asked for."""
    method: Any = gat(made_up().train, width=16, depth=depth).method
    assert len(method.generator.ends) == method.critic.levels == levels


def test_slopes_between_a_real_and_a_generators_levels() -> None:
    """A real stands for each level, as where the critic sees it: the same slopes as of its stack."""
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "patch": 2, "levels": 2}
    model = LatentModel(GATGenerator((3, 8, 8), **sizes))
    penalty = LipschitzPenalty()
    method = Adversarial(model, GATCritic((3, 8, 8), **sizes), penalties=[penalty])
    loss, logs = method.critic_loss(Batch(torch.randn(4, 3, 8, 8), Condition()), Clock(0, 100, 0))
    loss.backward()
    assert logs["gradient_penalty"].isfinite()
    assert method.critic.stem.patches.weight.grad.abs().sum() > 0
    weight, real, fake = torch.randn(6, 8, 8), torch.randn(4, 3, 8, 8), torch.randn(4, 6, 8, 8)
    seen = Look(lambda image, label: (image * weight).sum((1, 2, 3)), real, None, lambda: fake)
    expected = (weight.norm() - 1).square()
    assert penalty(seen, Clock(0, 100, 0))[1]["gradient_penalty"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("augment", ["ada-bgcfnc", "diffaugment"])
def test_levels_are_augmented_alike(augment: str) -> None:
    """The critic sees a generator's levels moved, coloured and cut in the same way, and trains on them."""
    data = made_up().train
    recipe = gat(data, width=16, depth=2, levels=2, batch=4, augment=augment)
    assert isinstance(recipe.method, Adversarial)
    augmented = recipe.method.augment
    if isinstance(augmented, Adaptive):
        augmented.p.fill_(1.0)
    image = torch.rand(4, data.shape[0], *data.shape[1:])
    first, last = augmented(torch.cat([image, image], 1)).chunk(2, 1)
    assert torch.equal(first, last)
    assert not torch.allclose(first, image, atol=0.01)
    Training(recipe, data, 8, Settings(device="cpu")).step()


def test_labels_are_as_loud_as_was_asked_for() -> None:
    """And the latent beside them; `unit` makes nothing of how loud an embedding is."""
    heard: list[Tensor] = []
    for gain in (1.0, 0.1):
        generator = GATGenerator(
            (1, 8, 8), classes=10, latent=16, width=16, depth=2, levels=2, label_gain=gain
        )
        generator.mapping.register_forward_pre_hook(lambda module, told: heard.append(told[0]))
        generator(torch.randn(6, 16), torch.arange(6))
    for told, gain in zip(heard, (1.0, 0.1), strict=True):
        loud = told.square().unflatten(1, (2, 16)).mean(2).sqrt()
        torch.testing.assert_close(loud, torch.tensor([1.0, gain]).expand(6, 2), rtol=1e-3, atol=0)


def test_gradients_are_clipped_as_in_the_authors_code() -> None:
    method = gat(made_up().train, **gat.small).method
    assert [phase.clip for phase in method.phases()] == [1.0, 1.0]
    with pytest.raises(WrongUse, match="a gradient's largest norm, above 0, not 0"):
        Adversarial(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), clip=0)
