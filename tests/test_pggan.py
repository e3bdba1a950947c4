"""Progressive growing: the fade-in, the schedule, what the critic is shown, half-grown models on disk."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from conftest import train_unprobed as train
from diptych import catalog
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.look import Look
from diptych.adversarial.penalties import Drift
from diptych.errors import WrongUse
from diptych.exporter import export
from diptych.method import Clock
from diptych.methods.pggan import grow, level_at
from diptych.networks.equalized import PixelNorm
from diptych.networks.pggan import PGCritic, PGGenerator, enlarged, newest, reduced, seen_at
from diptych.runs import load_model, save_model
from diptych.saveable import change, from_tree, to_tree
from diptych.system.flops import FlopCounter
from diptych.training.state import Settings, Training

SMALL: dict[str, Any] = {"base": 128, "largest": 8}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def loud(network: nn.Module) -> nn.Module:
    """Biases begin at 0, which would hide mistakes."""
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim < 2:
                p.add_(0.5 * torch.randn(p.shape))
    return network


def generator(level: float | None = None, shape: tuple[int, int, int] = (2, 32, 32), **more: Any) -> Any:
    return loud(PGGenerator(shape, latent=6, level=level, **SMALL, **more)).eval()


def repeated(image: Tensor, times: int) -> Tensor:
    return image.repeat_interleave(times, 2).repeat_interleave(times, 3)


def averaged(image: Tensor, side: int) -> Tensor:
    b, c, h, w = image.shape
    return image.view(b, c, h // side, side, w // side, side).mean((3, 5))


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def test_a_half_faded_generator_adds_two_images() -> None:
    """At level 2.5: half of the colours of stage 2, enlarged, and half of those of stage 3 (figure 2)."""
    made, z = generator(2.5), torch.randn(3, 6)
    x = made.project(z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()).view(3, 8, 4, 4)
    x = leaky(x)
    x = made.stages[0](x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt())
    for s in (1, 2):
        x = made.stages[s](repeated(x, 2))
    old = made.to_image[2](x)
    new = made.to_image[3](made.stages[3](repeated(x, 2)))
    torch.testing.assert_close(made(z), 0.5 * repeated(old, 2) + 0.5 * new)
    change(made, level=2.0)
    torch.testing.assert_close(made(z), repeated(old, 2))
    change(made, level=1.25)
    image = made(z)
    torch.testing.assert_close(image, repeated(averaged(image, 2), 2))  # stage 2 has 16 pixels of 32
    assert not torch.allclose(image, repeated(averaged(image, 4), 4))


def test_a_half_faded_critic_adds_two_features() -> None:
    """At level 2.5 (figure 2): what stage 3 makes of the image, and colours of the image at half the size."""
    critic: Any = loud(PGCritic((2, 64, 64), level=2.5, **SMALL))
    image = torch.randn(4, 2, 64, 64)
    small = averaged(image, 2)
    new = critic.stages[2](leaky(critic.from_image[3](small)))
    old = leaky(critic.from_image[2](averaged(small, 2)))
    x = critic.stages[0](critic.stages[1](0.5 * old + 0.5 * new))
    conv, dense = critic.end
    logit = critic.out(leaky(dense(leaky(conv(critic.deviation(x))).flatten(1))))[:, 0]
    torch.testing.assert_close(critic(image), logit)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_growing_has_no_jumps(stage: int) -> None:
    made, z = generator(), torch.randn(2, 6)
    critic: Any = loud(PGCritic((2, 32, 32), **SMALL))
    image = torch.randn(2, 2, 32, 32)
    for network, given in ((made, z), (critic, image)):
        found = []
        for level in (stage - 1e-6, stage, stage + 1e-6):
            if level >= 0:
                change(network, level=level)
                found.append(network(given))
        for other in found[1:]:
            torch.testing.assert_close(found[0], other, atol=1e-4, rtol=1e-4)


def test_newest_stage() -> None:
    assert newest(0.0) == (0, 1.0)
    assert newest(2.0) == (2, 1.0)
    assert newest(2.5) == (3, 0.5)
    assert newest(2.25) == (3, 0.25)


def test_the_schedule() -> None:
    """Rests and fades take turns, all equally long; the last fade ends at 60 % of training."""
    steps = 0.6 / 6
    at = [level_at(turn * steps, 3) for turn in (0, 0.99, 1.5, 2.5, 3.25, 4.999, 5.5, 6, 8)]
    assert at == pytest.approx([0, 0, 0.5, 1, 1.25, 2, 2.5, 3, 3], abs=1e-6)
    levels = [level_at(p / 1000, 3) for p in range(1001)]
    assert levels == sorted(levels)
    assert max(b - a for a, b in pairwise(levels)) < 0.011
    assert level_at(0.0, 3, grown=0.0) == 3.0
    assert level_at(0.3, 0) == 0.0


def test_what_reals_look_like() -> None:
    """At level 2.5 the detail of stage 3 is there by half; at whole levels, what the generator can make."""
    image = torch.randn(2, 3, 64, 64)  # stages of 4, 8, 16, 32, 64 pixels
    fine, coarse = repeated(averaged(image, 2), 2), repeated(averaged(image, 4), 4)
    torch.testing.assert_close(seen_at(image, 2.5), (fine + coarse) / 2)
    torch.testing.assert_close(seen_at(image, 2.0), coarse)
    assert seen_at(image, 4.0) is image
    critic: Any = loud(PGCritic((3, 64, 64), level=2.0, **SMALL))
    torch.testing.assert_close(critic(seen_at(image, 2.0)), critic(image))  # it looks at no more
    odd = torch.randn(2, 1, 18, 27)
    for level in (0.0, 1.0):
        seen = seen_at(odd, level)
        assert seen.shape == odd.shape
        torch.testing.assert_close(seen_at(seen, level), seen)  # nothing is lost twice
    torch.testing.assert_close(reduced(enlarged(odd, 2), 2), odd)


def test_pixel_norm() -> None:
    x = PixelNorm()(torch.randn(3, 16, 4, 4) * 100)
    torch.testing.assert_close(x.square().mean(1), torch.ones(3, 4, 4))


def test_drift_is_the_mean_square_of_real_logits() -> None:
    logit = torch.tensor([1.0, -3.0], requires_grad=True)
    look = Look(lambda image, label: logit, torch.zeros(2, 1, 8, 8), None, lambda: torch.zeros(2, 1, 8, 8))
    term, logs = Drift(0.1)(look, Clock(0, 1, 0))
    assert term.item() == pytest.approx(0.5)
    assert logs["drift"].item() == pytest.approx(5)
    term.backward()
    torch.testing.assert_close(logit.grad, torch.tensor([0.1, -0.3]))


def test_parts_hold_all_of_the_critic() -> None:
    critic = PGCritic((1, 32, 32), classes=3, **SMALL)
    held = [id(p) for part in critic.parts() for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in critic.parameters())
    assert len(critic.parts()) == 4
    first = {id(p) for p in critic.parts()[0].parameters()}
    assert {id(p) for p in critic.from_image[-1].parameters()} < first


def test_half_grown_models_reopen_half_grown(tmp_path: Path) -> None:
    model = LatentModel(generator(3.0, classes=3)).eval()
    grow(model.network, Clock(35, 100, 0), grown=0.6)
    assert model.network.level == pytest.approx(1.5)
    save_model(model, tmp_path)
    again: Any = load_model(tmp_path, "cpu")
    assert again.network.level == model.network.level
    assert torch.equal(again.sample(range(3)), model.sample(range(3)))
    assert to_tree(from_tree(to_tree(model))) == to_tree(model)
    with pytest.raises(TypeError, match="no argument 'levels'"):
        change(model.network, levels=1.0)


def test_training_grows_all_three_networks(tmp_path: Path) -> None:
    """Generator, critic and averages; layers of sizes that are not there yet do not move; steps cost more."""
    spec, data = catalog.recipe("pggan"), made_up((1, 16, 16))
    training = Training(spec(data.train, **spec.small), data.train, 1000, Settings(device="cpu"))
    method: Any = training.method
    last = method.generator.stages[2].convs[0].weight
    before, flops = last.detach().clone(), []
    for images in (0, 1000):
        training.images = images
        with FlopCounter() as counter:
            training.step()
        flops.append(counter.flops)
        assert torch.equal(last, before) == (images == 0)
        training.settle()
        assert method.generator.level == method.critic.level == 2.0 * (images // 1000)
    average: Any = training.average
    assert average.network.level == 2.0
    assert flops[1] > 3 * flops[0]
    run = train(spec, data, tmp_path / "run", arguments=spec.small, settings=Settings("48-images", ticks=3))
    model: Any = run.model()
    assert model.network.level == 2.0


def test_losses() -> None:
    spec, data = catalog.recipe("pggan"), made_up(n=8).train
    names = {}
    for loss in ("wasserstein", "hinge", "non-saturating"):
        method: Any = spec(data, **spec.small, loss=loss).method
        names[loss] = [penalty.name for penalty in method.penalties]
        assert [phase.name for phase in method.phases()] == ["critic", "generator"]
    assert names == {"wasserstein": ["gradient_penalty", "drift"], "hinge": ["r1"], "non-saturating": ["r1"]}
    assert method.lr == (0.0005, 0.0005)
    with pytest.raises(WrongUse, match="no adversarial loss called hing"):
        spec(data, **spec.small, loss="hing")
    with pytest.raises(WrongUse, match="gamma is of R1"):
        spec(data, **spec.small, gamma=1.0)
    with pytest.raises(WrongUse, match=r"between 0 and 1, not 2\.0\n\nhint: 0\.6"):
        spec(data, **spec.small, grown=2.0)
    with pytest.raises(WrongUse, match="label_gain must be at least 0"):
        spec(data, **spec.small, label_gain=-1.0)
    with pytest.raises(WrongUse, match=r"between 0 and 3.*not at 3\.5"):
        generator(3.5)


def test_exports_half_grown(tmp_path: Path) -> None:
    model = LatentModel(generator(1.5, shape=(1, 18, 17), classes=3)).eval()
    done = export(model, tmp_path / "model.onnx")
    assert done.difference is not None
    assert done.difference < 1e-4
