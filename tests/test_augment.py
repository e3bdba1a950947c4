"""Augmentation for small data: the pipeline and its controller, DiffAugment, EDM's that does not leak."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych.adversarial.augment import NAMES, Adaptive, DiffAugment, Pipeline, augmentation
from diptych.adversarial.augment import matrices as m
from diptych.adversarial.augment import warp as warping
from diptych.adversarial.augment.diffaugment import cutout, recolouring, translation
from diptych.adversarial.augment.pipeline import GROUPS, PRESETS, SWITCHES, filtered
from diptych.adversarial.augment.pipeline import recoloured as by_matrix
from diptych.adversarial.augment.stacks import Change
from diptych.adversarial.augment.warp import Look, warp
from diptych.adversarial.augment.wavelets import SYM2, SYM6, bands
from diptych.errors import WrongUse
from diptych.method import Clock
from diptych.methods.augmented import NonLeaking
from diptych.model import Noise
from diptych.saveable import from_tree, to_tree
from diptych.system.files import read_state, write_state
from diptych.training.state import Settings, Training


@pytest.fixture(autouse=True)
def same_draws() -> None:
    torch.manual_seed(0)


def wave(n: int, inverse: Tensor, height: int = 32, width: int = 32) -> Tensor:
    """A slow plane wave seen through a map: (n, 1, H, W)."""
    x, y = torch.meshgrid(
        torch.arange(width) - (width - 1) / 2, torch.arange(height) - (height - 1) / 2, indexing="xy"
    )
    place = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    x, y = (inverse @ place)[:, :2].unbind(1)
    return torch.cos(0.35 * x + 0.2 * y + 0.4).view(n, 1, height, width)


def number(value: float) -> Tensor:
    return torch.tensor([value])


@pytest.mark.parametrize("taps", [SYM2, SYM6], ids=["sym2", "sym6"])
def test_wavelets_are_orthogonal(taps: Any) -> None:
    for shift in range(0, len(taps), 2):
        product = sum(taps[i] * taps[i + shift] for i in range(len(taps) - shift))
        assert product == pytest.approx(float(shift == 0), abs=1e-6)
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-6)


def test_bands_add_up_and_keep_to_their_frequencies() -> None:
    filters = torch.from_numpy(bands())
    identity = torch.zeros(43, dtype=torch.float64)
    identity[21] = 1
    torch.testing.assert_close(filters.sum(0), identity)
    for band, frequency in enumerate((math.pi / 16, 3 * math.pi / 16, 3 * math.pi / 8, 3 * math.pi / 4)):
        heard = (filters * torch.cos(frequency * torch.arange(-21, 22))).sum(1)  # they are symmetric
        assert heard.argmax() == band
        assert heard[band] > 0.7


@pytest.mark.parametrize("size", [(8, 8), (13, 9), (32, 32)])
def test_whole_moves_are_lossless(size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size)
    still = warp(image, torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(still, image, atol=1e-4, rtol=0)
    moved = warp(image, m.moved(torch.tensor([-2.0, -2]), torch.tensor([1.0, 1])))
    torch.testing.assert_close(moved[:, :, :-1, 2:], image[:, :, 1:, :-2], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[:, :, :-1, 1], image[:, :, 1:, 1], atol=1e-4, rtol=0)  # reflected


def test_flips_and_quarter_turns_lose_some_of_the_finest_detail() -> None:
    """The filter is not symmetric: white noise comes back with a sixth of it changed."""
    torch.manual_seed(0)
    image = torch.randn(8, 3, 32, 32)
    for inverse, expected in (
        (m.scaled(number(-1.0), number(1.0)), image.flip(3)),
        (m.turned(number(math.pi / 2)), image.rot90(1, (2, 3))),
    ):
        seen = warp(image, inverse.expand(8, 3, 3))
        lost = min((seen - other).square().mean().sqrt() for other in (expected, expected.flip(2, 3)))
        assert 0.05 < lost < 0.3


@pytest.mark.parametrize(
    "inverse",
    [
        m.turned(number(0.5)),
        m.scaled(number(1.3), number(0.8)),
        m.moved(number(1.4), number(-2.3)),
        m.scaled(number(-1.0), number(1.0)),
        m.turned(number(-0.3)) @ m.scaled(number(0.9), number(1.1)) @ m.moved(number(0.5), number(0.25)),
    ],
)
def test_a_slow_wave_goes_where_the_map_says(inverse: Tensor) -> None:
    """Away from the edges, where nothing is reflected; mirrored, as good as the wavelet is symmetric."""
    seen = warp(wave(1, torch.eye(3)[None]), inverse)
    torch.testing.assert_close(
        seen[..., 10:-10, 10:-10], wave(1, inverse)[..., 10:-10, 10:-10], atol=0.05, rtol=0
    )


def test_only_what_is_looked_at_is_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU a part of the doubled image, elsewhere all of it: the result is the same."""
    image, inverse = torch.randn(4, 3, 12, 16), m.turned(torch.linspace(-1, 3, 4))
    part = warp(image, inverse)
    with monkeypatch.context() as small:  # one image at a time, or all of them
        small.setattr(warping, "LARGEST", 1)
        torch.testing.assert_close(warp(image, inverse), part, atol=1e-5, rtol=0)
    monkeypatch.setattr(warping, "used", lambda index, n: slice(0, 2 * (3 * n - 2)))
    torch.testing.assert_close(part, warp(image, inverse), atol=1e-4, rtol=0)
    far = m.moved(torch.full((4,), 1e4), torch.zeros(4))
    assert warp(image, far).abs().max() == 0


def test_look_has_both_derivatives() -> None:
    image = torch.rand(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 3, 3, 2, dtype=torch.float64) * 2.6 - 1.3
    assert torch.autograd.gradcheck(lambda x: Look.apply(x, grid), image)
    assert torch.autograd.gradgradcheck(lambda x: Look.apply(x, grid).square(), image)


@pytest.mark.parametrize("augment", [Pipeline("bgcfnc"), DiffAugment()], ids=["ada", "diffaugment"])
def test_a_penalty_on_slopes_goes_through(augment: Callable[[Tensor], Tensor]) -> None:
    """The slope's square as a function of a critic's weight, against a difference quotient."""
    image = torch.randn(3, 3, 8, 8).double().float().requires_grad_()
    direction = torch.randn(3, 3, 8, 8)

    def penalty(weight: Tensor) -> Tensor:
        torch.manual_seed(5)
        logit = (weight * augment(image)).sigmoid() * direction
        (slope,) = torch.autograd.grad(logit.sum(), image, create_graph=True)
        return slope.square().sum()

    weight = torch.tensor(0.7, requires_grad=True)
    (found,) = torch.autograd.grad(penalty(weight), weight)
    step = 0.01
    quotient = (penalty(weight + step) - penalty(weight - step)).detach() / (2 * step)
    assert found.item() == pytest.approx(quotient.item(), rel=0.01)


def test_colours_have_closed_forms() -> None:
    red = torch.tensor([0.6, 0.0, 0.0]).view(1, 3, 1, 1)
    third = by_matrix(red, m.hue_turned(number(2 * math.pi / 3))).flatten()
    torch.testing.assert_close(third, torch.tensor([0.0, 0.6, 0.0]), atol=1e-6, rtol=0)
    grey = by_matrix(red, m.saturated(number(0.0))).flatten()
    torch.testing.assert_close(grey, torch.full((3,), 0.2))
    flip = m.luma_flipped(number(1.0))
    flipped = by_matrix(red, flip)
    assert flipped.mean().item() == pytest.approx(-0.2)
    torch.testing.assert_close(by_matrix(flipped, flip), red)
    torch.testing.assert_close(flip @ flip, torch.eye(4)[None])
    dull = m.contrasted(number(0.5)) @ m.brightened(number(0.1))
    torch.testing.assert_close(by_matrix(red, dull).flatten(), torch.tensor([0.35, 0.05, 0.05]))


def test_greys_and_alpha_take_part_as_they_can() -> None:
    colour = m.brightened(number(0.3)) @ m.luma_flipped(number(1.0)) @ m.contrasted(number(2.0))
    grey, alpha = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    coloured = by_matrix(grey.expand(1, 3, 4, 4), colour)
    torch.testing.assert_close(by_matrix(grey, colour), coloured[:, :1])
    rgba = by_matrix(torch.cat([grey.expand(1, 3, 4, 4), alpha], 1), colour)
    torch.testing.assert_close(rgba, torch.cat([coloured, alpha], 1))
    assert not Pipeline("hue,saturation").colours(2, coloured=False)


def test_filters_keep_natural_power() -> None:
    image = torch.randn(2, 3, 9, 14)
    torch.testing.assert_close(filtered(image, torch.ones(2, 4)), image, atol=1e-4, rtol=0)
    gains = Pipeline("filter").gains(1000)
    one_band = torch.tensor([10, 1, 1, 1]) / 13
    assert (gains > 0).all()
    torch.manual_seed(0)
    rare = Pipeline("filter", p=0.05).gains(1000)
    torch.testing.assert_close(  # where at most one band was changed
        (one_band * rare.square()).sum(1).median(), torch.tensor(1.0)
    )
    silent = filtered(image, torch.tensor([1.0, 0, 0, 0]).expand(2, 4))
    assert silent.diff(dim=3).square().mean() < 0.01 * image.diff(dim=3).square().mean()


def test_noise_and_cutout() -> None:
    torch.manual_seed(0)
    zero = torch.zeros(4000, 1, 8, 8)
    noise = Pipeline("noise")(zero)
    assert noise.std().item() == pytest.approx(0.1, rel=0.03)  # E |N|^2 = 1
    hole = Pipeline("cutout")(zero + 1)
    assert set(hole.unique().tolist()) == {0.0, 1.0}
    assert hole.mean().item() == pytest.approx(
        1 - 0.4375**2, abs=0.01
    )  # a half wide, 1/16 of it beyond the edge on average
    torch.testing.assert_close(hole.amin((2, 3)), torch.zeros(4000, 1))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (4, 8, 8)], ids=str)
def test_p_is_the_probability(preset: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    image = torch.randn(6, *shape)
    torch.testing.assert_close(Pipeline(preset, p=0.0)(image), image, atol=1e-4, rtol=0)
    assert not torch.allclose(Pipeline(preset, p=1.0)(image), image, atol=0.01)


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_is_taken_with_probability_p(switch: str) -> None:
    torch.manual_seed(1)
    image = torch.randn(1, 3, 8, 8).expand(600, 3, 8, 8)
    changed = ((Pipeline(switch, p=0.3)(image) - image).abs().amax((1, 2, 3)) > 1e-3).float().mean().item()
    # coins of their own that leave an image as it was: 1/2 and 1/4; one band of four, or more; a shift of 0
    expected = {"flip": 0.15, "lumaflip": 0.15, "rotate90": 0.225, "filter": 1 - 0.7**4, "xint": 0.3 * 8 / 9}
    assert changed == pytest.approx(expected.get(switch, 0.3), abs=0.06)


def test_names_and_presets() -> None:
    assert PRESETS["bgc"] == GROUPS["blit"] + GROUPS["geom"] + GROUPS["color"]
    assert set(PRESETS["bgcfnc"]) == set(SWITCHES)
    assert augmentation("none") is None
    for name in set(NAMES) - {"none"}:
        made = augmentation(name)
        assert made is not None
        assert made(torch.randn(2, 3, 8, 8)).shape == (2, 3, 8, 8)
    adaptive = augmentation("ada")
    assert isinstance(adaptive, Adaptive)
    assert adaptive.pipeline.on == set(PRESETS["bgc"])
    assert adaptive.p == 0
    with pytest.raises(WrongUse, match="no augmentation called adaa"):
        augmentation("adaa")
    with pytest.raises(WrongUse, match="'scales'"):
        Pipeline("scales")
    with pytest.raises(WrongUse, match="'colour'"):
        DiffAugment("colour")
    with pytest.raises(WrongUse, match="probability"):
        Pipeline("geom", p=1.5)
    with pytest.raises(WrongUse, match="mean of signs"):
        Adaptive(Pipeline("geom"), target=1.0)


def test_the_controller_moves_p_by_the_sign_of_the_excess() -> None:
    ada, clock = Adaptive(Pipeline("blit", p=0.0), target=0.6, images=1000), Clock(0, 10**9, 0)
    sure, unsure = torch.ones(10), torch.tensor([1.0, -1] * 5)
    told = [ada.observe(sure, clock)["augment"].item() for _ in range(8)]
    assert told == pytest.approx([0, 0, 0, 0.04, 0.04, 0.04, 0.04, 0.08])  # 40 images of 1000
    for _ in range(4):
        ada.observe(unsure, clock)
    assert ada.p.item() == pytest.approx(0.04)
    for _ in range(12):
        ada.observe(unsure, clock)
    assert ada.p == 0  # not below
    short = Clock(0, 500, 0)  # a fifth of 500 images are enough
    for _ in range(4):
        ada.observe(sure, short)
    assert ada.p.item() == pytest.approx(0.4)
    for _ in range(40):
        ada.observe(sure, short)
    assert ada.p == 1  # not above


def test_the_controller_finds_its_target() -> None:
    """Where augmented reals are called real less often, p settles where the mean sign is 0.6."""
    torch.manual_seed(0)
    ada, clock = Adaptive(Pipeline("blit", p=0.0), images=20_000), Clock(0, 10**9, 0)
    path = [
        ada.observe(torch.rand(64) - 0.5 * ada.p, clock)["augment"].item()  # mean sign 1 - p
        for _ in range(2000)
    ]
    assert sum(path[1000:]) / 1000 == pytest.approx(0.4, abs=0.03)


def test_a_relativistic_critic_is_judged_by_differences() -> None:
    """Its logits may drift as a whole: what the controller is told must not."""
    spec = catalog.recipe("r3gan")
    training = Training(
        spec(made_up().train, **spec.small, augment="ada"), made_up().train, 1000, Settings(device="cpu")
    )
    method: Any = training.method
    judge, signs = type(method.critic).forward, []
    for offset in (0.0, 100.0):
        torch.manual_seed(0)
        method.critic.forward = lambda image, label, o=offset: judge(method.critic, image, label) + o
        signs.append(method.critic_loss(training.data.batch(0, 0, 8), Clock(0, 1000, 0))[1]["real_sign"])
    assert signs[0] == signs[1]
    assert -1 < signs[0] < 1


@pytest.mark.parametrize("name", ["dcgan", "wgan-gp"])
def test_the_controller_is_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    spec = catalog.recipe(name)

    def training() -> Training:
        torch.manual_seed(0)
        recipe = spec(made_up().train, **spec.small, augment="ada")
        return Training(recipe, made_up().train, 96, Settings(device="cpu", microbatch=4))

    whole, first, second = training(), training(), training()
    for run in (whole, first):
        run.method.augment.p.fill_(0.5)  # type: ignore[union-attr, operator]
    for _ in range(6):
        whole.step()
    for _ in range(3):  # between two adjustments
        first.step()
    write_state(tmp_path / "state", first.state_dict())
    second.load_state_dict(read_state(tmp_path / "state"))
    for _ in range(3):
        second.step()
    ours, theirs = second.method.state_dict(), whole.method.state_dict()
    assert {"augment.pipeline.p", "augment.sign", "augment.seen", "augment.turn"} <= ours.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert ours["augment.pipeline.p"] != 0.5


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tensors have no values, asking for one raises."""
    monkeypatch.setattr(torch, "autocast", lambda kind, enabled: nullcontext())  # knows no such device
    image = torch.empty(4, 3, 8, 8, device="meta", requires_grad=True)
    ada = Adaptive(Pipeline("bgcfnc", p=0.5)).to("meta")
    for augment in (ada, DiffAugment(), lambda x: NonLeaking(0.5)(x)[0]):
        assert augment(image).shape == image.shape
    assert ada.observe(torch.empty(4, device="meta"), Clock(0, 1000, 0))["augment"].shape == ()
    with pytest.raises(RuntimeError, match="meta"):
        bool(ada.p > 0)
    monkeypatch.setattr(torch, "tensor", None)  # neither does it bring values there again
    assert ada(image).shape == image.shape


@pytest.mark.parametrize("of", [lambda c: Pipeline("bgcfnc", channels=c), lambda c: DiffAugment(channels=c)])
def test_images_of_a_stack_are_changed_alike(of: Callable[[int], nn.Module]) -> None:
    """GAT's generator makes levels of one image; a critic would tell levels that were moved apart."""
    image, other = torch.rand(2, 5, 3, 8, 8) - 0.5
    torch.manual_seed(3)
    first, second, last = of(3)(torch.cat([image, image, other], 1)).split(3, 1)
    torch.manual_seed(3)
    alone = of(0)(image)
    assert torch.equal(first, second)
    assert torch.equal(first, alone)
    assert not torch.allclose(alone, image, atol=0.01)
    torch.manual_seed(3)
    assert torch.equal(last, of(0)(other))


def test_diffaugment_has_closed_forms() -> None:
    torch.manual_seed(0)
    image = torch.rand(2000, 3, 8, 8) * 2 - 1

    def changed(draw: Callable[[Tensor], Change], image: Tensor) -> Tensor:
        return draw(image)(image)

    moved = changed(translation, torch.ones(2000, 1, 8, 8))
    assert moved.mean().item() == pytest.approx((1 - 2 / 3 / 8) ** 2, abs=0.005)  # by -1, 0 or 1 of 8 pixels
    index = torch.arange(64.0).view(1, 1, 8, 8).expand(50, 1, 8, 8)
    inner = changed(translation, index)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner.diff(dim=3), torch.ones(50, 1, 6, 5))
    torch.testing.assert_close(inner.diff(dim=2), torch.full((50, 1, 5, 6), 8.0))
    assert inner[:, 0, 0, 0].unique().tolist() == [0, 1, 2, 8, 9, 10, 16, 17, 18]
    assert changed(cutout, torch.ones(4000, 1, 8, 8)).mean().item() == pytest.approx(1 - 0.4375**2, abs=0.01)
    shift = (changed(recolouring, image) - image).mean(
        (1, 2, 3)
    )  # of brightness alone: the mean is kept by the others
    assert shift.min().item() == pytest.approx(-0.5, abs=0.01)
    assert shift.max().item() == pytest.approx(0.5, abs=0.01)
    ratio = changed(recolouring, image).var((1, 2, 3)) / image.var((1, 2, 3))
    assert ratio.min() > 0.25 / 3 - 0.02
    assert ratio.max() < 4 * 2.25
    rgba = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(changed(recolouring, rgba)[:, 3:], rgba[:, 3:])


def test_edm_tells_what_it_did() -> None:
    torch.manual_seed(0)
    image = torch.randn(400, 3, 8, 10)
    seen, labels = NonLeaking(0.1)(image)
    assert labels.shape == (400, 9)
    same = (seen - image).abs().amax((1, 2, 3)) < 1e-4
    assert torch.equal(same, (labels == 0).all(1))
    mirrored = (labels[:, 0] == 1) & (labels[:, 1:] == 0).all(1)
    torch.testing.assert_close(seen[mirrored], image[mirrored].flip(3), atol=1e-4, rtol=0)
    assert labels[:, 0].mean().item() == pytest.approx(0.5, abs=0.08)
    assert (labels[:, 2:3] != 0).float().mean().item() == pytest.approx(0.1, abs=0.05)
    still = (
        (labels[:, 1] == 0) & (labels[:, 7:] != 0).all(1) & (labels[:, 2:7] == 0).all(1) & (labels[:, 0] == 0)
    )
    inverse = m.moved(-labels[still, 7] * 10 / 8, -labels[still, 8] * 8 / 8)
    torch.testing.assert_close(seen[still], warp(image[still], inverse), atol=1e-4, rtol=0)
    for wrong in (0.0, 1.2):
        with pytest.raises(WrongUse, match="probability"):
            NonLeaking(wrong)


@pytest.mark.parametrize("name", ["edm", "flow", "ddpm"])
def test_an_augmented_denoiser_samples_as_if_nothing_was_done(name: str) -> None:
    spec, data = catalog.recipe(name), made_up().train
    training = Training(
        spec(data, **spec.small, augment=0.5), data, 1000, Settings(device="cpu", microbatch=4)
    )
    for _ in range(3):
        training.step()
    model = training.method.model
    network: Any = model.denoiser.network  # type: ignore[union-attr]
    assert network.augment.weight.abs().max() > 0  # it listens
    x, level, label = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([0, 1])
    torch.testing.assert_close(network(x, level, label), network(x, level, label, torch.zeros(2, 9)))
    assert not torch.equal(network(x, level, label), network(x, level, label, torch.ones(2, 9)))
    twin: Any = from_tree(to_tree(model))
    twin.load_state_dict(model.state_dict())
    ours, theirs = (one.eval().using(steps=2)(Noise([1])) for one in (twin, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert "denoiser.network.augment.weight" not in spec(data, **spec.small).method.model.state_dict()
